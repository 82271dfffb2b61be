"""No limit is ever passed: random budgets, latencies and faults, counted by the model that is called."""

import asyncio
from contextlib import aclosing
from fractions import Fraction
from types import SimpleNamespace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory import budget as budgets
from factory.budget import Budget, Spend, bound_prompt_tokens
from factory.engine import Engine
from factory.errors import BudgetExceeded, EndpointError, FactoryError
from factory.recipe import BudgetSpec, ModelSpec, Price, SamplingSpec
from factory.store.store import Store
from factory.types import Completion, Message, Sample, Task

KINDS = ("rate_limited", "server_error", "timeout", "unreachable", "malformed", "refused")

fates = st.lists(
    st.tuples(
        st.sampled_from([*["answered"] * 4, *KINDS]),
        st.integers(0, 6),  # turns of the loop that it takes
        st.just(1.0) | st.floats(0, 1),  # share of the bound that is used
        st.floats(0, 0.5),  # minutes that pass
    ),
    min_size=1,
    max_size=30,
)
limits = st.builds(
    BudgetSpec,
    calls=st.none() | st.integers(1, 60),
    tokens=st.none() | st.integers(1, 20_000),
    dollars=st.none() | st.floats(1e-4, 0.2),
    minutes=st.none() | st.floats(0.05, 5.0),
)
prices = st.builds(Price, prompt=st.floats(0, 50), completion=st.floats(0, 50))


class Metered:
    """A model that meters what it is asked and what it answers, as whoever sends the bill does."""

    id = "metered"

    def __init__(self, fates, price, clock):
        self.fates, self.price, self.clock = fates, price, clock
        self.num_calls = self.num_tokens = 0
        self.dollars = Fraction(0)
        self.begun_at = []

    async def complete(self, request):
        self.begun_at.append(self.clock.minutes)
        fate, turns, share, minutes = self.fates[self.num_calls % len(self.fates)]
        self.num_calls += 1
        for _ in range(turns):
            await asyncio.sleep(0)
        self.clock.minutes += minutes / 10
        if fate != "answered":
            raise EndpointError("no", kind=fate, retryable=fate != "refused")
        tokens = int(share * bound_prompt_tokens(request.messages)), int(share * request.sampling.max_tokens)
        self.num_tokens += sum(tokens)
        for number, price in zip(tokens, (self.price.prompt, self.price.completion), strict=True):
            self.dollars += number * Fraction(price) / 10**6
        return Completion("yes", prompt_tokens=tokens[0], completion_tokens=tokens[1])

    async def close(self):
        pass


class TwoSteps:
    """A generator whose tasks take two calls, of which some are the same for two tasks."""

    async def make(self, task, ask):
        await ask([Message("user", f"first {task.ordinal // 2} " * 20)])
        answer = await ask([Message("user", f"second {task.ordinal}")], ordinal=task.ordinal)
        return [Sample.create([Message("user", answer.text)], [], "x", {"n": str(task.ordinal)})]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    spec=limits,
    price=prices,
    fates=fates,
    num_tasks=st.integers(1, 40),
    concurrency=st.integers(1, 9),
    max_tokens=st.integers(1, 400),
    max_retries=st.integers(0, 3),
)
def test_no_limit_is_ever_passed(
    tmp_path_factory, monkeypatch, spec, price, fates, num_tasks, concurrency, max_tokens, max_retries
):
    clock = SimpleNamespace(minutes=0.0)
    monkeypatch.setattr(budgets, "time", SimpleNamespace(monotonic=lambda: 60 * clock.minutes))
    monkeypatch.setattr(Engine, "backoff_seconds", 0.0)
    model = Metered(fates, price, clock)
    spec_of_model = ModelSpec(
        server="s",
        concurrency=concurrency,
        max_retries=max_retries,
        price=price,
        sampling=SamplingSpec(max_tokens=max_tokens),
    )

    async def work(store):
        engine = Engine(store, Budget(spec), "run_1", max_failure_share=1.0)
        ask = engine.ask("teacher", model, spec_of_model, "generate", 1)
        tasks = (Task("g", 1, ordinal, "a") for ordinal in range(num_tasks))
        refused, num_made = None, 0
        try:
            async with aclosing(engine.run_tasks(TwoSteps(), tasks, ask, concurrency)) as outcomes:
                async for _, outcome in outcomes:
                    num_made += isinstance(outcome, list)
                    refused = outcome if isinstance(outcome, BudgetExceeded) else refused
        except FactoryError:
            pass  # too many failures
        return engine.budget, refused, num_made

    with Store.open(tmp_path_factory.mktemp("w")) as store:
        budget, refused, num_made = asyncio.run(work(store))
        stored = Budget.from_store(store, "run_1", spec)

    assert spec.calls is None or model.num_calls <= spec.calls
    assert spec.tokens is None or model.num_tokens <= spec.tokens
    assert spec.dollars is None or model.dollars <= Fraction(spec.dollars) * (1 + Fraction(1, 10**9))
    assert spec.minutes is None or all(minutes < spec.minutes for minutes in model.begun_at)
    assert budget.reserved == Spend()
    for each in (budget, stored):  # what a run that goes on begins with is what was paid
        spent = each.spent - each.lost  # beside what was in flight where failures were too many
        assert (spent.calls, spent.tokens) == (model.num_calls, model.num_tokens)
        assert abs(Fraction(spent.dollars) - model.dollars) < Fraction(1, 10**9)
    if refused is None and num_made < num_tasks:
        assert any(fate != "answered" for fate, *_ in fates)
