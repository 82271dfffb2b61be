"""Slots under the sharpest timing; how the limit learns is tested through the engine."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from factory import concurrency
from factory.concurrency import AdaptiveLimit


async def test_a_turn_that_comes_together_with_a_cancellation_is_passed_on():
    limit = AdaptiveLimit(1)
    holder = limit.slot()
    await holder.__aenter__()

    async def take() -> None:
        async with limit.slot():
            pass

    cancelled, next_one = asyncio.create_task(take()), asyncio.create_task(take())
    await asyncio.sleep(0)
    await holder.__aexit__(None, None, None)  # the turn is the first waiter's now
    cancelled.cancel()
    await asyncio.wait_for(next_one, 1)
    assert cancelled.cancelled() and limit.num_in_flight == 0


call = st.tuples(st.integers(0, 3), st.sampled_from(["answered", "overloaded", "failed", "cancelled"]))


@settings(deadline=None)
@given(maximum=st.integers(1, 6), calls=st.lists(call, max_size=40))
def test_never_over_the_limit_and_no_slot_is_lost(maximum, calls):
    async def one(limit: AdaptiveLimit, turns: int, end: str) -> None:
        async with limit.slot() as slot:
            assert limit.num_in_flight <= maximum and 1 <= limit.limit <= maximum
            for _ in range(turns):
                await asyncio.sleep(0)
            slot.answered, slot.overloaded = end == "answered", end == "overloaded"

    async def everything() -> AdaptiveLimit:
        limit = AdaptiveLimit(maximum)
        tasks = [asyncio.create_task(one(limit, turns, end)) for turns, end in calls]
        for position, (turns, end) in enumerate(calls):
            if end == "cancelled":
                for _ in range(turns):
                    await asyncio.sleep(0)
                tasks[position].cancel()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert all(isinstance(result, asyncio.CancelledError | None) for result in results), results
        return limit

    assert asyncio.run(everything()).num_in_flight == 0


async def test_who_comes_again_goes_before_those_that_wait():
    limit, order = AdaptiveLimit(1), []

    async def take(name: str, first: bool) -> None:
        async with limit.slot(first=first):
            order.append(name)

    async with limit.slot():
        tasks = [asyncio.create_task(take(name, name == "again")) for name in ("one", "two", "again")]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert order == ["again", "one", "two"]


async def finish(limit: AdaptiveLimit, *ends: str) -> None:
    for end in ends:
        async with limit.slot() as slot:
            slot.answered, slot.failed = end == "answered", end == "failed"


async def test_a_server_is_up_while_it_answers_most_of_what_it_is_asked():
    limit, before = AdaptiveLimit(8), time.monotonic()
    assert not limit.is_up(before)
    await finish(limit, "answered")
    assert limit.is_up(time.monotonic())
    await finish(limit, *["failed", "answered", "answered", "answered", "answered", "answered"] * 50)
    assert limit.is_up(before)
    await finish(limit, *["failed", "answered"] * 50)
    assert not limit.is_up(before)
    await finish(limit, *["answered"] * 100, *["refused"] * 100)
    assert limit.is_up(before)


async def test_what_was_answered_long_before_says_nothing(monkeypatch):
    monkeypatch.setattr(concurrency, "UP_SECONDS", 0.01)
    limit, before = AdaptiveLimit(8), time.monotonic()
    await finish(limit, "answered")
    await asyncio.sleep(0.02)
    assert limit.is_up(before) and not limit.is_up(time.monotonic())
