"""The way from generators to refiners: in order, in whole batches, neither too far ahead nor stuck."""

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from factory.feed import Feed
from factory.types import Message, Sample, Source, Task

SOURCES = [Source.create(f"s{n}", "a.md", f"§ {n}", f"Rule {n}", "text", "a") for n in range(4)]


def tasks(num, num_sources=1):
    """As a plan has them: each source in turn."""
    return [
        (position, Task("g", 1, position, "a", SOURCES[position % num_sources])) for position in range(num)
    ]


def sample(task, part=0):
    return Sample.create([Message("user", f"{task.ordinal}.{part}")], [], "g", {})


async def collect(feed, size=4):
    return [[one.question for one in batch] async for batch in feed.batches(size)]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.integers(0, 99),
    st.integers(1, 9),
    st.integers(0, 10),
    st.integers(1, 9),
)
def test_samples_come_in_the_order_of_the_plan_whatever_came_first(sizes, seed, size, num_ahead, window):
    async def play():
        feed = Feed(num_ahead, window)
        taken = list(feed.take_in(tasks(len(sizes), num_sources=4)))
        assert sorted(task.ordinal for task in taken) == list(range(len(sizes))) and feed.num_tasks == len(
            sizes
        )
        made = {task.ordinal: [sample(task, part) for part in range(sizes[task.ordinal])] for task in taken}
        order = list(taken)
        random.Random(seed).shuffle(order)
        batches = asyncio.create_task(collect(feed, size))
        for task in order:
            await asyncio.wait_for(feed.put(task, made[task.ordinal]), 5)
        feed.close()
        return await asyncio.wait_for(batches, 5)

    found = asyncio.run(play())
    wanted = [f"{ordinal}.{part}" for ordinal, num in enumerate(sizes) for part in range(num)]
    assert found == [wanted[start : start + size] for start in range(0, len(wanted), size)]


async def test_a_task_for_another_time_ends_the_order_and_no_part_of_a_batch_goes_on():
    feed = Feed()
    first, second, third, fourth = feed.take_in(tasks(4))
    for task in (fourth, first, second):
        await feed.put(task, [sample(task)])
    feed.break_off(third)
    feed.close()
    assert await collect(feed, 2) == [["0.0", "1.0"]]


async def test_a_part_of_a_batch_before_the_break_waits():
    feed = Feed()
    first, second = feed.take_in(tasks(2))
    await feed.put(first, [sample(first)])
    feed.break_off(second)
    feed.close()
    assert await collect(feed, 2) == []


async def test_tasks_that_never_finished_are_skipped_where_that_is_asked_for():
    feed = Feed()
    first, _, third = feed.take_in(tasks(3))
    for task in (third, first):
        await feed.put(task, [sample(task)])
    feed.close(skip=True)
    assert await collect(feed, 5) == [["0.0", "2.0"]]


async def test_whoever_generates_waits_for_the_refiners_but_not_for_a_straggler():
    feed = Feed(num_ahead=2)
    straggler, *others = feed.take_in(tasks(8))
    for task in others[:5]:  # what they wait for is not there: nobody waits for them
        await asyncio.wait_for(feed.put(task, [sample(task)]), 1)
    waiting = asyncio.create_task(feed.put(straggler, [sample(straggler)]))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    batches = feed.batches(4)
    assert [one.question for one in await anext(batches)] == ["0.0", "1.0", "2.0", "3.0"]
    await asyncio.wait_for(waiting, 1)


async def test_an_intake_that_ended_takes_nothing_more():
    feed = Feed()
    plan = feed.take_in(tasks(3))
    next(plan)
    feed.end_intake()
    assert list(plan) == [] and feed.num_tasks == 1


async def test_a_window_is_sent_by_material_and_taken_lazily():
    plan = iter(tasks(12, num_sources=4))
    taken = Feed(window=8).take_in(plan)
    assert [next(taken).ordinal for _ in range(8)] == [0, 4, 1, 5, 2, 6, 3, 7]
    assert next(plan)[0] == 8, "nothing was taken beyond the window"


async def test_where_the_intake_ends_within_a_window_the_rest_of_it_is_skipped():
    feed, made = Feed(window=4), []
    for task in feed.take_in(tasks(8, num_sources=2)):
        made.append(task)
        if len(made) == 3:
            feed.end_intake()
    assert [task.ordinal for task in made] == [0, 2, 1]
    for task in made:
        await feed.put(task, [sample(task)])
    feed.close(skip=True)
    assert await collect(feed, 9) == [["0.0", "1.0", "2.0"]] and feed.num_tasks == 3
