"""Slots under the sharpest timing, and which replica they are at.

How the limit learns is tested through the engine.
"""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from factory import concurrency
from factory.slots import Slots


async def test_a_turn_that_comes_together_with_a_cancellation_is_passed_on():
    slots = Slots(1)
    holder = slots.slot()
    await holder.__aenter__()

    async def take() -> None:
        async with slots.slot():
            pass

    cancelled, next_one = asyncio.create_task(take()), asyncio.create_task(take())
    await asyncio.sleep(0)
    await holder.__aexit__(None, None, None)  # the turn is the first waiter's now
    cancelled.cancel()
    await asyncio.wait_for(next_one, 1)
    assert cancelled.cancelled() and slots.num_in_flight == 0


ENDS = {"answered": (1, 0, 0), "failed": (0, 1, 0), "overloaded": (0, 1, 1)}
call = st.tuples(st.integers(0, 3), st.sampled_from([*ENDS, "refused", "cancelled"]))


@settings(deadline=None)
@given(maximum=st.integers(1, 6), num_replicas=st.integers(1, 3), calls=st.lists(call, max_size=40))
def test_never_over_the_limit_and_no_slot_is_lost(maximum, num_replicas, calls):
    async def one(slots: Slots, turns: int, end: str) -> None:
        async with slots.slot() as slot:
            assert all(
                each.num_in_flight <= maximum and 1 <= each.limit <= maximum for each in slots.replicas
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            slot.answered, slot.failed, slot.overloaded = map(bool, ENDS.get(end, (0, 0, 0)))

    async def everything() -> Slots:
        slots = Slots(maximum, num_replicas)
        tasks = [asyncio.create_task(one(slots, turns, end)) for turns, end in calls]
        for position, (turns, end) in enumerate(calls):
            if end == "cancelled":
                for _ in range(turns):
                    await asyncio.sleep(0)
                tasks[position].cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert all(isinstance(result, asyncio.CancelledError | None) for result in results), results
        return slots

    assert asyncio.run(everything()).num_in_flight == 0


async def test_who_comes_again_goes_before_those_that_wait():
    slots, order = Slots(1), []

    async def take(name: str, first: bool) -> None:
        async with slots.slot(first=first):
            order.append(name)

    async with slots.slot():
        tasks = [asyncio.create_task(take(name, name == "again")) for name in ("one", "two", "again")]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == ["again", "one", "two"]


async def finish(slots: Slots, *ends: str) -> None:
    for end in ends:
        async with slots.slot() as slot:
            slot.answered, slot.failed, slot.overloaded = map(bool, ENDS.get(end, (0, 0, 0)))


async def test_a_server_is_up_while_it_answers_most_of_what_it_is_asked():
    slots, before = Slots(8), time.monotonic()
    assert not slots.is_up(before)
    await finish(slots, "answered")
    assert slots.is_up(time.monotonic())
    await finish(slots, *["failed", "answered", "answered", "answered", "answered", "answered"] * 50)
    assert slots.is_up(before)
    await finish(slots, *["failed", "answered"] * 50)
    assert not slots.is_up(before)
    await finish(slots, *["answered"] * 100, *["refused"] * 100)
    assert slots.is_up(before)


async def test_what_was_answered_long_before_says_nothing(monkeypatch):
    monkeypatch.setattr(concurrency, "UP_SECONDS", 0.01)
    slots, before = Slots(8), time.monotonic()
    await finish(slots, "answered")
    await asyncio.sleep(0.02)
    assert slots.is_up(before) and not slots.is_up(time.monotonic())


async def hold(slots: Slots, **wish):
    """A slot that stays open until it is ended."""
    slot = slots.slot(**wish)
    await asyncio.wait_for(slot.__aenter__(), 1)
    return slot


def end(slot, how: str) -> None:
    slot.answered, slot.failed, slot.overloaded = map(bool, ENDS.get(how, (0, 0, 0)))
    slot._slots.give_back(slot)


async def fall(slots: Slots, replica: int) -> None:
    """Calls fail at a replica until it is down."""
    held = []
    while not slots.replicas[replica].is_down:
        slot = await hold(slots)
        if slot.replica == replica:
            end(slot, "failed")
        else:
            held.append(slot)
    for slot in held:
        end(slot, "answered")


async def test_a_call_goes_where_the_fewest_are_in_flight():
    slots = Slots(4, 3)
    held = [await hold(slots) for _ in range(6)]
    assert [slot.replica for slot in held] == [0, 1, 2, 0, 1, 2]
    end(held[4], "answered")
    assert (await hold(slots)).replica == 1
    assert slots.num_in_flight == 6 and slots.limit == 12


async def test_what_failed_goes_elsewhere_and_only_where_nobody_else_has_room_there_again():
    slots = Slots(1, 2)
    assert (await hold(slots, not_at=0)).replica == 1
    assert (await hold(slots, not_at=1)).replica == 0
    slots = Slots(1, 2)
    await hold(slots, not_at=0)
    assert (await hold(slots, not_at=0)).replica == 0


async def test_one_that_is_down_is_left_alone_while_others_answer_and_tried_by_one_call(monkeypatch):
    monkeypatch.setattr(concurrency, "FIRST_REST_SECONDS", 0.1)
    slots = Slots(3, 2)
    await fall(slots, 0)
    held = [await hold(slots) for _ in range(3)]
    assert [slot.replica for slot in held] == [1, 1, 1]
    trying = await asyncio.wait_for(hold(slots), 2)  # nobody ends a call: the end of the rest wakes it
    assert trying.replica == 0
    end(held.pop(), "answered")
    held.append(await hold(slots))
    assert held[-1].replica == 1, "one call finds out, no more"
    end(trying, "answered")
    assert [(await hold(slots)).replica for _ in range(3)] == [0, 0, 0]


async def test_a_rest_grows_while_trying_fails(monkeypatch):
    monkeypatch.setattr(concurrency, "FIRST_REST_SECONDS", 0.02)
    slots = Slots(9, 2)
    await fall(slots, 0)
    down, rests = slots.replicas[0], []
    for _ in range(4):
        rests.append(down.rests_until - time.monotonic())
        await asyncio.sleep(max(0.0, rests[-1]))
        trying = await hold(slots)
        assert trying.replica == 0
        end(trying, "failed")
    assert all(later > 1.5 * earlier for earlier, later in pairwise(rests)), rests


async def test_where_all_are_down_all_are_asked():
    slots = Slots(2, 2)
    for replica in (0, 1):
        await fall(slots, replica)
    assert sorted([(await hold(slots)).replica for _ in range(4)]) == [0, 0, 1, 1]


async def test_each_replica_has_its_own_limit():
    slots = Slots(20, 2)
    held = [await hold(slots) for _ in range(40)]
    for slot in held:
        end(slot, "overloaded" if slot.replica == 0 else "answered")
    assert slots.replicas[0].limit == 14 and slots.replicas[1].limit == 20


async def test_the_server_decides_how_long_a_replica_rests():
    slots = Slots(9, 2)
    for _ in range(concurrency.DOWN_AFTER):
        slot = slots.replicas[0].begin()
        slots.replicas[0].failed(slot, overloaded=True, retry_after_seconds=7)
        slots.replicas[0].end()
    assert 6 < slots.replicas[0].rests_until - time.monotonic() <= 7
