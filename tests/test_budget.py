"""The budget's one promise: never over a limit, however calls overlap, fail or are cut off."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from factory.budget import Budget, Spend, bound_prompt_tokens, bound_spend, cost_dollars
from factory.errors import BudgetExceeded
from factory.recipe import BudgetSpec, Price
from factory.store.store import Store
from factory.types import Message

PRICE = Price(prompt=2.0, completion=10.0)

call = st.tuples(
    st.integers(0, 300),  # tokens of the prompt, at most
    st.integers(1, 300),  # max_tokens
    st.floats(0, 1),  # share of the bound that is used
    st.integers(0, 4),  # turns of the loop that the call takes
    st.sampled_from(["answered", "refused", "lost"]),
)
limits = st.builds(
    BudgetSpec,
    calls=st.none() | st.integers(1, 30),
    tokens=st.none() | st.integers(1, 4_000),
    dollars=st.none() | st.floats(1e-5, 0.02),
    minutes=st.none(),
)


def within(spend: Spend, spec: BudgetSpec, slack: float = 1e-9) -> bool:
    pairs = [(spend.calls, spec.calls), (spend.tokens, spec.tokens), (spend.dollars, spec.dollars)]
    return all(limit is None or used <= limit * (1 + slack) for used, limit in pairs)


@settings(max_examples=200, deadline=None)
@given(spec=limits, calls=st.lists(call, max_size=40))
def test_never_over_any_limit(spec, calls):
    true = {"calls": 0, "tokens": 0, "dollars": 0.0}
    refused: list[Spend] = []

    async def one(budget: Budget, prompt: int, most: int, share: float, turns: int, end: str) -> None:
        try:
            reservation = await budget.reserve(prompt, most, PRICE)
        except BudgetExceeded:
            refused.append(budget.spent + Spend(1, prompt + most, cost_dollars(PRICE, prompt, most)))
            return
        true["calls"] += 1
        assert within(budget.spent + budget.reserved, spec)
        for _ in range(turns):
            await asyncio.sleep(0)
        if end == "lost":  # and billed as dearly as can be
            true["tokens"] += prompt + most
            true["dollars"] += cost_dollars(PRICE, prompt, most)
            budget.keep(reservation)
            return
        if end == "refused":
            budget.release(reservation)
            return
        used = int(prompt * share), int(most * share)
        true["tokens"] += sum(used)
        true["dollars"] += budget.settle(reservation, *used, PRICE)

    async def everything() -> Budget:
        budget = Budget(spec)
        await asyncio.wait_for(asyncio.gather(*(one(budget, *args) for args in calls)), 10)
        return budget

    budget = asyncio.run(everything())
    assert budget.reserved == Spend()
    assert budget.spent.calls == true["calls"] and budget.spent.tokens == true["tokens"]
    assert within(Spend(**true), spec)
    assert not any(within(spend, spec, 0) for spend in refused), "refused though it would have fitted"


async def test_a_call_waits_for_room_that_calls_in_flight_give_back():
    budget = Budget(BudgetSpec(tokens=100))
    first = await budget.reserve(50, 40, Price())
    second = asyncio.create_task(budget.reserve(50, 40, Price()))
    await asyncio.sleep(0)
    assert not second.done()
    budget.settle(first, 5, 5, Price())
    assert (await second).tokens == 90


async def test_a_cancelled_wait_reserves_nothing():
    budget = Budget(BudgetSpec(calls=1, tokens=100))
    first = await budget.reserve(50, 40, Price())
    waiting = asyncio.create_task(budget.reserve(10, 10, Price()))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    budget.release(first)
    assert budget.reserved == Spend() and budget.spent == Spend(1)


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        (BudgetSpec(calls=1), "calls"),
        (BudgetSpec(tokens=150), "tokens"),
        (BudgetSpec(dollars=0.0009), "dollars"),
    ],
)
async def test_the_refusal_names_the_limit(spec, name):
    budget = Budget(spec)
    budget.settle(await budget.reserve(50, 50, PRICE), 50, 50, PRICE)
    with pytest.raises(BudgetExceeded, match=f"budget.{name}: .*limit of .* {name}"):
        await budget.reserve(50, 50, PRICE)


async def test_minutes_are_a_limit_too():
    budget = Budget(BudgetSpec(minutes=5.0), minutes=4.0)
    assert 59 < budget.seconds_left() <= 60
    await budget.reserve(1, 1, Price())
    with pytest.raises(BudgetExceeded, match="minutes"):
        await Budget(BudgetSpec(minutes=5.0), minutes=5.0).reserve(1, 1, Price())


@given(st.lists(st.text(), max_size=4))
def test_the_bound_covers_every_byte(texts):
    messages = [Message("user", text) for text in texts]
    assert bound_prompt_tokens(messages) >= sum(len(text.encode()) for text in texts) + len(texts)


def test_a_budget_goes_on_from_what_the_store_has_seen(tmp_path: Path):
    began = datetime(2030, 1, 1, tzinfo=UTC)
    row = {
        "round": 1, "stage": "generate", "role": "teacher", "model_id": "m", "request": {}, "response": "x",
        "reasoning": None, "status": "ok", "error": None, "finish_reason": "stop", "latency_ms": 1.0,
    }  # fmt: skip
    usage = {"attempts": 2, "prompt_tokens": 10, "completion_tokens": 5, "cost_dollars": 0.5}
    events = [("started", 0), ("failed", 3), ("started", 600), ("done", 602)]
    with Store.open(tmp_path) as store:
        for n, (run_id, minute) in enumerate(
            [("run_a", 1), ("run_a", 601), ("run_a_control", 602), ("run_b", 9)]
        ):
            store.append(
                "calls",
                [
                    row
                    | usage
                    | {"id": f"call_{n}", "run_id": run_id, "created_at": began + timedelta(minutes=minute)}
                ],
            )
        for status, minute in events:
            stage = {"run_id": "run_a", "round": 1, "stage": "generate", "status": status, "detail": {}}
            store.append("stages", [stage | {"created_at": began + timedelta(minutes=minute)}])
        budget = Budget.from_store(store, "run_a", BudgetSpec(calls=6))
    assert budget.spent == Spend(6, 45, 1.5)
    assert budget.minutes == pytest.approx(5, abs=0.1)  # not the pause before the restart


@settings(max_examples=200, deadline=None)
@given(
    spec=limits,
    held=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300)), max_size=8),
    order=st.lists(st.integers(0, 15), max_size=30, unique=True),
    shares=st.lists(st.floats(0, 1), min_size=30, max_size=30),
)
def test_calls_that_are_out_are_never_paid_with_what_they_may_cost(spec, held, order, shares):
    """Those that were handed over before come in any order, between others, or not at all."""
    out = {f"call_{n}": bound_spend(prompt, most, PRICE) for n, (prompt, most) in enumerate(held)}
    total = sum(out.values(), Spend())
    assume(within(total, spec))

    async def run() -> None:
        budget = Budget(spec, held=out)
        for number, share in zip(order, shares, strict=False):
            prompt, most = held[number] if number < len(held) else (number * 20, 50)
            try:
                reservation = await budget.reserve(prompt, most, PRICE, f"call_{number}")
            except BudgetExceeded:
                assert number >= len(held), "it is out already"
                continue
            assert within(budget.spent + budget.reserved + budget.held, spec)
            budget.settle(reservation, int(prompt * share), int(most * share), PRICE)
        assert within(budget.spent + budget.held, spec)
        asked = [n for n in range(len(held)) if n in order[: len(shares)]]
        assert budget.held.calls == len(held) - len(asked)

    asyncio.run(run())
