"""The engine against a real store: once and only once, bounded, retried, counted, cancelled cleanly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from factory import concurrency
from factory.budget import Budget, Spend, bound_prompt_tokens, bound_spend
from factory.engine import Engine
from factory.errors import BudgetExceeded, EndpointError, FactoryError, ServerError, WorkspaceError
from factory.models.failure import failure_from_status
from factory.models.scripted import ScriptedModel
from factory.recipe import BudgetSpec, ModelSpec, Price, SamplingSpec
from factory.store.store import Store
from factory.types import Completion, Message, Parent, Request, Sample, Task

SPEC = ModelSpec(server="local", concurrency=8)
WARM = SPEC.model_copy(update={"sampling": SamplingSpec(temperature=0.8)})
HELLO = [Message("user", "hello")]


class Script(ScriptedModel):
    """A scripted model that remembers its requests; `reply` gets each with its number, from 1 on."""

    is_ours = False  # it stands for an endpoint, which may bill what it began

    def __init__(
        self,
        reply: Callable[[Request, int], str | Exception] = lambda request, number: "yes",
        seconds: float = 0.0,
        name: str = "test",
    ) -> None:
        super().__init__(self.follow, name, seconds)
        self.reply = reply
        self.requests: list[Request] = []
        self.num_in_flight = self.most_in_flight = self.num_followed = 0

    def follow(self, request: Request) -> Completion | Exception:
        self.num_followed += 1
        reply = self.reply(request, self.num_followed)
        return Completion(reply, prompt_tokens=7, completion_tokens=3) if isinstance(reply, str) else reply

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        try:
            return await super().complete(request)
        finally:
            self.num_in_flight -= 1


class Ask1:
    """A generator of one call a task."""

    def plan(self, allocation, round_number) -> Iterator[Task]:
        return (Task("ask1", round_number, index, "all") for index in range(allocation["all"]))

    async def make(self, task: Task, ask) -> list[Sample]:
        answer = await ask([Message("user", f"task {task.ordinal}")], ordinal=task.ordinal)
        messages = [Message("user", "q"), Message("assistant", answer.text)]
        return [Sample.create(messages, [Parent(answer.call_id, "call")], "ask1", {})]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


def engine_on(store: Store, budget: BudgetSpec | None = None, **options) -> Engine:
    engine = Engine(store, Budget(budget or BudgetSpec()), "run_1", **options)
    engine.backoff_seconds = 0.001
    return engine


async def run(engine: Engine, model, num_tasks: int, spec: ModelSpec = SPEC):
    ask = engine.ask("teacher", model, spec, "generate", 1)
    tasks = Ask1().plan({"all": num_tasks}, 1)
    return [result async for result in engine.run_tasks(Ask1(), tasks, ask, spec.concurrency)]


def failing(kind: str, **options) -> EndpointError:
    return EndpointError("no luck", kind=kind, **options)


async def test_an_answer_is_recorded_with_all_that_it_cost(store):
    spec = SPEC.model_copy(update={"price": Price(prompt=1.0, completion=2.0)})
    model = Script(lambda request, number: '{"a": 1}')
    answer = await engine_on(store).ask("teacher", model, spec, "generate", 3)(
        HELLO, schema={"type": "object"}
    )
    (row,) = store.select("SELECT *, request ->> '$.messages[0].content' AS said FROM calls")
    assert row["id"] == answer.call_id and row["said"] == "hello" and row["response"] == '{"a": 1}'
    assert (row["run_id"], row["round"], row["stage"], row["role"]) == ("run_1", 3, "generate", "teacher")
    assert (row["status"], row["error"], row["attempts"]) == ("ok", None, 1)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (7, 3)
    assert row["cost_dollars"] == pytest.approx(13e-6) and row["latency_ms"] > 0


async def test_a_restart_asks_nothing_again_and_makes_the_same_samples(tmp_path):
    first, second = Script(), Script()
    with Store.open(tmp_path) as store:
        made = {s[0].id for _, s in await run(engine_on(store), first, 30, WARM)}
    with Store.open(tmp_path) as store:
        engine = engine_on(store)
        again = {s[0].id for _, s in await run(engine, second, 30, WARM)}
        assert store.select("SELECT count(*) AS n FROM calls")[0]["n"] == 30
    assert again == made and len(made) == 30
    assert len(first.requests) == 30 and second.requests == []
    assert engine.counts.num_found == 30 and engine.counts.num_attempts == 0


async def test_seeds_are_set_only_where_chance_plays_and_repeat_with_the_engines_seed(store):
    async def seed_of(seed: int, spec: ModelSpec, ordinal: int = 0) -> int | None:
        model = Script(name=f"{seed}_{spec.sampling.temperature}_{ordinal}")
        await engine_on(store, seed=seed).ask("teacher", model, spec, "generate", 1)(HELLO, ordinal=ordinal)
        return model.requests[0].sampling.seed

    assert await seed_of(1, SPEC) is None
    warm = await seed_of(1, WARM)
    assert warm is not None and 0 <= warm < 2**31
    assert len({warm, await seed_of(2, WARM), await seed_of(1, WARM, ordinal=1)}) == 3


async def test_equal_requests_in_flight_share_one_call(store):
    model = Script(seconds=0.01)
    ask = engine_on(store).ask("teacher", model, SPEC, "generate", 1)
    answers = await asyncio.gather(*(ask(HELLO) for _ in range(10)))
    assert len(model.requests) == 1 and len({answer.call_id for answer in answers}) == 1


async def test_one_of_two_sharers_may_leave(store):
    model = Script(seconds=0.02)
    ask = engine_on(store).ask("teacher", model, SPEC, "generate", 1)
    leaver, stayer = asyncio.create_task(ask(HELLO)), asyncio.create_task(ask(HELLO))
    await asyncio.sleep(0.005)
    leaver.cancel()
    assert (await stayer).text == "yes" and leaver.cancelled() and len(model.requests) == 1


async def test_cancelling_gives_back_slot_and_reservation_and_leaves_a_row(store):
    model = Script(seconds=60)
    engine = engine_on(store, BudgetSpec(tokens=100_000))
    ask = engine.ask("teacher", model, SPEC, "generate", 1)
    tasks = [asyncio.create_task(ask(HELLO, ordinal=n)) for n in range(20)]
    await asyncio.sleep(0.01)
    assert model.num_in_flight == 8
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert model.num_in_flight == 0 and engine.slots_of(SPEC).num_in_flight == 0
    assert engine.budget.reserved == Spend()
    rows = store.select("SELECT status, error FROM calls")
    assert [(row["status"], row["error"]) for row in rows] == [("failed", "cancelled")] * 8
    model.latency_seconds = 0
    assert (await ask(HELLO, ordinal=0)).text == "yes"


async def test_retries_are_made_and_counted_and_the_servers_wait_is_kept(store):
    def reply(request: Request, number: int) -> str | Exception:
        return failing("rate_limited", retry_after_seconds=0.05) if number < 3 else "at last"

    engine, loop = engine_on(store), asyncio.get_running_loop()
    began = loop.time()
    answer = await engine.ask("teacher", Script(reply), SPEC, "generate", 1)(HELLO)
    assert answer.text == "at last" and loop.time() - began >= 0.1
    (row,) = store.select("SELECT status, attempts FROM calls")
    assert (row["status"], row["attempts"]) == ("ok", 3)
    assert engine.counts.num_attempts == 3 and engine.counts.num_answered == 1


@pytest.mark.parametrize(
    ("kind", "others", "waits"),
    [  # seconds at the most, at half of which each may begin
        ("server_error", 0, (0.2, 0.4, 0.8)),
        ("server_error", 1, (0.02, 0.04, 0.08)),
        ("server_error", 1000, (0.02, 0.04, 0.08)),
        ("unreachable", 1000, (0.02, 0.04, 0.08)),
        ("rate_limited", 1000, (0.02, 0.04, 0.08)),
        ("rate_limited", 0, (0.2, 0.6, 1.8)),
    ],
)
async def test_a_server_that_answers_others_is_asked_again_soon(store, kind, others, waits):
    loop, asked = asyncio.get_running_loop(), []

    def reply(request: Request, number: int) -> str | Exception:
        if request.ordinal:
            return "yes"
        asked.append(loop.time())
        return failing(kind) if len(asked) < 4 else "at last"

    engine = engine_on(store)
    engine.backoff_seconds = 0.2
    ask = engine.ask("teacher", Script(reply, seconds=0.01), SPEC, "generate", 1)
    call = asyncio.create_task(ask(HELLO))
    ordinal = 0
    while not call.done():
        ordinal += 1
        await (ask(HELLO, ordinal=ordinal) if ordinal <= others else asyncio.sleep(0.002))
    assert (await call).text == "at last"
    for later, earlier, most in zip(asked[1:], asked, waits, strict=False):
        assert most / 2 <= later - earlier <= most + 0.1


async def test_answers_while_a_call_was_queued_do_not_make_its_server_up(store, monkeypatch):
    """The one that fails had waited for a slot: what was answered then says nothing about now."""
    monkeypatch.setattr(concurrency, "UP_SECONDS", 0.05)
    loop, asked = asyncio.get_running_loop(), []

    async def complete(request: Request) -> Completion:
        if request.ordinal == 0:
            return Completion("yes")
        asked.append(loop.time())
        if len(asked) > 1:
            return Completion("at last")
        await asyncio.sleep(0.1)
        failed.append(loop.time())
        raise failing("server_error")

    failed: list[float] = []
    model, engine = Script(), engine_on(store)
    model.complete = complete  # type: ignore[method-assign]
    engine.backoff_seconds = 0.4
    spec = SPEC.model_copy(update={"concurrency": 1})
    ask = engine.ask("teacher", model, spec, "generate", 1)
    async with engine.slots_of(spec).slot():
        calls = [asyncio.create_task(ask(HELLO, ordinal=n)) for n in range(2)]
        await asyncio.sleep(0.02)
    await asyncio.gather(*calls)
    assert asked[1] - failed[0] >= 0.2


@pytest.mark.parametrize(("retryable", "attempts"), [(True, 6), (False, 1)])
async def test_a_call_that_fails_for_good_is_a_row_and_may_be_asked_again(store, retryable, attempts):
    model = Script(lambda request, number: failing("server_error", retryable=retryable))
    engine = engine_on(store)
    ask = engine.ask("teacher", model, SPEC, "generate", 1)
    with pytest.raises(EndpointError):
        await ask(HELLO)
    assert len(model.requests) == attempts and engine.budget.spent == Spend(attempts)
    model.reply = lambda request, number: "yes"
    assert (await ask(HELLO)).text == "yes"
    rows = store.select("SELECT status, error, attempts, response FROM calls ORDER BY created_at")
    assert [(row["status"], row["error"], row["attempts"]) for row in rows] == [
        ("failed", "server_error", attempts),
        ("ok", None, 1),
    ]


async def test_no_more_in_flight_than_the_spec_allows_over_both_roles(store):
    model, engine = Script(seconds=0.002), engine_on(store)
    asks = [engine.ask(role, model, SPEC, "generate", 1) for role in ("teacher", "refiner")]
    await asyncio.gather(*(ask(HELLO, ordinal=n) for n, ask in enumerate(asks * 20)))
    assert model.most_in_flight == 8


async def test_a_steady_share_of_refusals_does_not_stop_the_flow(store):
    spec = SPEC.model_copy(update={"concurrency": 64})
    model = Script(lambda request, n: failing("rate_limited") if n % 20 == 0 else "yes", seconds=0.001)
    engine = engine_on(store)
    results = await run(engine, model, 2000, spec)
    assert all(isinstance(samples, list) for _, samples in results) and len(results) == 2000
    assert engine.slots_of(spec).limit >= 48


async def test_the_limit_finds_the_servers_capacity_and_grows_again(store):
    spec = SPEC.model_copy(update={"concurrency": 64, "max_retries": 50})
    capacity = 10
    model = Script(seconds=0.002)
    model.reply = lambda request, n: failing("rate_limited") if model.num_in_flight >= capacity else "yes"
    engine = engine_on(store)
    ask = engine.ask("teacher", model, spec, "generate", 1)
    await asyncio.gather(*(ask(HELLO, ordinal=n) for n in range(600)))
    low = engine.slots_of(spec).limit
    assert low <= 2 * capacity
    capacity = 1000
    await asyncio.gather(*(ask(HELLO, ordinal=n) for n in range(1000, 3500)))
    assert engine.slots_of(spec).limit > low + 20


@pytest.mark.parametrize(
    "refusal", [{"kind": "rate_limited"}, {"kind": "server_error", "retry_after_seconds": 0.001}]
)
async def test_one_burst_lowers_the_limit_once(store, refusal):
    spec = SPEC.model_copy(update={"concurrency": 40})
    model = Script(lambda request, n: failing(**refusal) if n <= 40 else "yes", seconds=0.005)
    engine = engine_on(store)
    ask = engine.ask("teacher", model, spec, "generate", 1)
    await asyncio.gather(*(ask(HELLO, ordinal=n) for n in range(40)))
    assert 28 <= engine.slots_of(spec).limit <= 30  # 0.7 of 40, and the first answers' growth


async def test_one_failing_task_is_data(store):
    def reply(request: Request, number: int) -> str | Exception:
        return failing("refused", retryable=False) if request.ordinal == 5 else "yes"

    results = dict(await run(engine_on(store), Script(reply), 40))
    failed = [task.ordinal for task, result in results.items() if isinstance(result, FactoryError)]
    assert failed == [5] and len(results) == 40


async def test_too_many_failures_stop_the_stage_and_say_which(store):
    model = Script(lambda request, n: failing("server_error", retryable=False) if n % 2 else "yes")
    with pytest.raises(FactoryError, match=r"of 2\d tasks failed: server_error 1\d"):
        await run(engine_on(store), model, 10_000)
    assert len(model.requests) < 100


async def test_a_refused_key_stops_at_once_and_everything_in_flight_with_it(store):
    model = Script(
        lambda request, n: failing("unauthorized", retryable=False) if n == 1 else "yes", seconds=0.01
    )
    with pytest.raises(FactoryError, match="unauthorized 1"):
        await run(engine_on(store), model, 10_000)
    assert len(model.requests) <= 16 and model.num_in_flight == 0


async def test_an_endpoint_that_is_down_from_the_start_costs_the_retries_of_one_wave(store):
    model = Script(lambda request, number: failing("unreachable"))
    with pytest.raises(FactoryError, match="unreachable"):
        await run(engine_on(store), model, 10_000)
    assert len(model.requests) <= 4 * 8 * 6


async def test_an_endpoint_that_goes_away_late_is_noticed_soon(store):
    model = Script(lambda request, n: failing("unreachable", retryable=False) if n > 400 else "yes")
    with pytest.raises(FactoryError, match="20 of 420 tasks failed: unreachable 20"):
        await run(engine_on(store), model, 10_000)


async def test_a_small_stage_where_nothing_succeeds_fails(store):
    model = Script(lambda request, number: failing("malformed", retryable=False))
    with pytest.raises(FactoryError, match="3 of 3 tasks failed: malformed 3"):
        await run(engine_on(store), model, 3)


@pytest.mark.parametrize("error", [ServerError("gone"), WorkspaceError("disk full"), KeyError("ours")])
async def test_what_no_single_task_is_to_blame_for_stops_the_stage(store, error):
    with pytest.raises(type(error)):
        await run(engine_on(store), Script(lambda request, n: error if n == 7 else "yes"), 40)


async def test_tasks_are_taken_lazily(store):
    num_taken = 0

    def tasks() -> Iterator[Task]:
        nonlocal num_taken
        while True:
            num_taken += 1
            yield Task("ask1", 1, num_taken, "all")

    engine = engine_on(store)
    ask = engine.ask("teacher", Script(seconds=0.001), SPEC, "generate", 1)
    num_finished = 0
    async with aclosing(engine.run_tasks(Ask1(), tasks(), ask, 8)) as results:
        async for _ in results:
            num_finished += 1
            assert num_taken - num_finished <= 4 * 8
            if num_finished == 100:
                break
    assert engine.slots_of(SPEC).num_in_flight == 0


async def test_a_spent_budget_ends_the_intake_and_what_is_under_way_finishes(store):
    engine = engine_on(store, BudgetSpec(calls=25))
    model = Script(seconds=0.001)
    results = await run(engine, model, 10_000)
    assert len(model.requests) == 25 and len(results) == 26
    assert isinstance(results[-1][1], BudgetExceeded) and "25 calls" in str(results[-1][1])
    assert all(isinstance(samples, list) for _, samples in results[:-1])


@pytest.mark.parametrize("limit", [{"calls": 40}, {"tokens": 4_000}, {"dollars": 0.01}])
async def test_the_bill_never_passes_the_budget_despite_faults(store, limit):
    def reply(request: Request, number: int) -> str | Exception:
        return failing("server_error") if number % 7 == 0 else "yes"

    spec = SPEC.model_copy(update={"price": Price(prompt=3.0, completion=5.0)})
    engine = engine_on(store, BudgetSpec(**limit))
    await run(engine, Script(reply, seconds=0.001), 10_000, spec)
    (bill,) = store.select(
        "SELECT sum(attempts) AS calls, sum(prompt_tokens + completion_tokens) AS tokens, "
        "sum(cost_dollars) AS dollars FROM calls"
    )
    for name, most in limit.items():
        assert 0.8 * most < bill[name] <= most
    assert Budget.from_store(store, "run_1", BudgetSpec()).spent.calls == engine.budget.spent.calls


@pytest.mark.parametrize("worked_on", [True, False])
async def test_an_attempt_that_may_be_billed_stays_spent_at_the_most_it_can_cost(store, worked_on):
    lost = EndpointError("no answer", kind="timeout", worked_on=worked_on)
    model = Script(lambda request, number: lost if number == 1 else "yes")
    spec = SPEC.model_copy(update={"price": Price(prompt=3.0, completion=5.0)})
    engine = engine_on(store)
    await engine.ask("teacher", model, spec, "generate", 1)(HELLO)
    prompt, most = bound_prompt_tokens(HELLO), spec.sampling.max_tokens
    bound = bound_spend(prompt, most, spec.price) if worked_on else Spend(1)
    reported = bound_spend(7, 3, spec.price)
    assert engine.budget.spent == bound + reported and engine.budget.reserved == Spend()
    assert Budget.from_store(store, "run_1", BudgetSpec()).spent == bound + reported
    (row,) = store.select("SELECT prompt_tokens + completion_tokens AS tokens, cost_dollars FROM calls")
    assert (row["tokens"], row["cost_dollars"]) == (reported.tokens, reported.dollars)
    assert engine.counts.num_tokens == reported.tokens


async def test_a_call_that_we_cut_off_may_be_billed(store):
    engine = engine_on(store)
    ask = asyncio.create_task(engine.ask("teacher", Script(seconds=60), SPEC, "generate", 1)(HELLO))
    await asyncio.sleep(0.05)
    ask.cancel()
    await asyncio.gather(ask, return_exceptions=True)
    bound = bound_spend(bound_prompt_tokens(HELLO), SPEC.sampling.max_tokens, SPEC.price)
    assert engine.budget.spent == Budget.from_store(store, "run_1", BudgetSpec()).spent == bound


async def test_what_a_server_of_ours_did_not_answer_costs_nothing(store):
    lost = EndpointError("no answer", kind="timeout", worked_on=True)
    model = Script(lambda request, number: lost if number == 1 else "yes")
    model.is_ours = True
    engine = engine_on(store)
    await engine.ask("teacher", model, SPEC, "generate", 1)(HELLO)
    assert engine.budget.spent == Budget.from_store(store, "run_1", BudgetSpec()).spent == Spend(2, 10, 0.0)
    assert engine.budget.lost == Spend()


async def test_a_refusal_names_what_was_used_without_an_answer(store):
    model = Script(lambda request, number: EndpointError("no answer", kind="timeout", worked_on=True))
    spec = SPEC.model_copy(update={"max_retries": 0, "price": Price(prompt=3.0, completion=5.0)})
    bound = bound_spend(bound_prompt_tokens(HELLO), spec.sampling.max_tokens, spec.price)
    engine = engine_on(store, BudgetSpec(tokens=bound.tokens + 1, dollars=1.0))
    for _ in range(2):
        with pytest.raises(FactoryError) as caught:
            await engine.ask("teacher", model, spec, "generate", 1)(HELLO)
    said = f"{bound.tokens:,} used, of which {bound.tokens:,} may have been billed without an answer)"
    assert said in str(caught.value)
    again = Budget.from_store(store, "run_1", engine.budget.spec)
    assert said in str(again.exceeded("tokens")) and "billed without an answer" in str(
        again.exceeded("dollars")
    )
    assert "answer" not in str(
        Budget(BudgetSpec(calls=9, minutes=1.0), again.spent, lost=again.lost).exceeded("calls")
    )


async def test_a_call_is_cut_off_where_the_minutes_end(store):
    engine = Engine(store, Budget(BudgetSpec(minutes=10.0), minutes=10.0 - 0.05 / 60), "run_1")
    with pytest.raises(BudgetExceeded, match="minutes"):
        await asyncio.wait_for(engine.ask("teacher", Script(seconds=60), SPEC, "generate", 1)(HELLO), 5)
    assert store.select("SELECT error FROM calls") == [{"error": "cancelled"}]


async def test_another_run_shares_the_budget_and_signs_its_own_rows(store):
    engine = engine_on(store, BudgetSpec(calls=2))
    control = engine.for_run("run_1_raw")
    for number, one in enumerate((engine, control)):
        await one.ask("teacher", Script(), SPEC, "generate", 1)(HELLO, ordinal=number)
    assert {row["run_id"] for row in store.select("SELECT run_id FROM calls")} == {"run_1", "run_1_raw"}
    with pytest.raises(BudgetExceeded):
        await control.ask("teacher", Script(), SPEC, "generate", 1)(HELLO, ordinal=2)
    assert engine.counts.num_answered == 2
    assert Budget.from_store(store, "run_1", BudgetSpec()).spent.calls == 2


async def test_the_line_shows_failures_by_kind(store):
    engine = engine_on(store)
    model = Script(lambda request, n: failing("timeout", retryable=False) if n == 1 else "yes")
    ask = engine.ask("teacher", model, SPEC.model_copy(update={"price": Price(prompt=1e6)}), "generate", 1)
    await asyncio.gather(*(ask(HELLO, ordinal=n) for n in range(3)), return_exceptions=True)
    assert "1 failed (timeout 1)" in engine.line() and "$14.00" in engine.line()


PAIR = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["question", "answer"],
}
GOOD, CUT = '{"question": "Q?", "answer": "A."}', '{"question": "Q?", "answer": "The ter'


@pytest.mark.parametrize(
    ("bad", "spec"),
    [
        (CUT, SPEC),
        (CUT, WARM),
        ("", SPEC),
        ("", WARM),
        ('{"question": "Q?"}', WARM),
        ('{"question": "Q?", "answer": 5}', WARM),
        ("null", WARM),
    ],
)
async def test_an_answer_that_is_not_as_asked_is_asked_again_as_a_call_of_its_own(store, bad, spec):
    model = Script(lambda request, number: bad if number == 1 else GOOD)
    engine = engine_on(store, BudgetSpec(calls=2))
    answer = await engine.ask("teacher", model, spec, "generate", 1)(HELLO, schema=PAIR)
    assert answer.text == GOOD and engine.budget.spent == Spend(2, 20)
    first, second = store.select("SELECT id, response, request ->> 'instead_of' AS before FROM calls")
    assert (first["response"], first["before"]) == (bad, None)
    assert (second["response"], second["before"]) == (GOOD, first["id"])
    assert second["id"] == answer.call_id != first["id"]
    seeds = [request.sampling.seed for request in model.requests]
    assert seeds == [None, None] if spec is SPEC else len(set(seeds)) == 2
    assert "1 asked again" in engine.line()


async def test_asking_again_is_bounded_and_a_restart_pays_for_none_of_it(tmp_path):
    def reply(request: Request, number: int) -> str:
        return GOOD if request.ordinal == 1 and number > 2 else f"{CUT}{number}"

    models = [Script(reply), Script(lambda request, number: GOOD)]
    found = []
    for model in models:
        with Store.open(tmp_path) as store:
            ask = engine_on(store).ask("teacher", model, WARM, "generate", 1)
            found.append([await ask(HELLO, schema=PAIR, ordinal=n) for n in range(2)])
            assert store.select("SELECT count(*) AS n FROM calls") == [{"n": 4}]
    assert [answer.text for answer in found[0]] == [f"{CUT}3", GOOD]
    assert [a.call_id for a in found[0]] == [a.call_id for a in found[1]]
    assert [len(model.requests) for model in models] == [4, 0]


async def test_who_answers_the_same_again_is_not_asked_a_third_time(store):
    model = Script(lambda request, number: CUT)
    answer = await engine_on(store).ask("teacher", model, SPEC, "generate", 1)(HELLO, schema=PAIR)
    assert answer.text == CUT and len(model.requests) == 2


@pytest.mark.parametrize(("spec", "num_calls"), [(SPEC, 1), (WARM, 3)])
@pytest.mark.parametrize(("text", "reason"), [(CUT + "%d", "length"), ('{"n": %d}', "stop")])
async def test_a_models_own_answer_is_asked_again_only_where_chance_plays(
    store, spec, num_calls, text, reason
):
    model = Script()
    model.script = lambda request: Completion(text.replace("%d", str(len(model.requests))), reason)
    await engine_on(store).ask("teacher", model, spec, "generate", 1)(HELLO, schema=PAIR)
    assert len(model.requests) == num_calls


async def test_what_is_mended_is_stored_as_it_came_and_found_mended(store):
    model, raw = Script(lambda request, number: f"```json\n{GOOD}\n```"), f"```json\n{GOOD}\n```"
    ask = engine_on(store).ask("teacher", model, SPEC, "generate", 1)
    answers = [await ask(HELLO, schema=PAIR) for _ in range(2)]
    assert [answer.json() for answer in answers] == [{"question": "Q?", "answer": "A."}] * 2
    assert len(model.requests) == 1 and store.select("SELECT response FROM calls") == [{"response": raw}]
    assert (await ask(HELLO)).text == raw  # nobody asked for JSON


async def test_a_second_question_that_fails_fails_the_task_and_resumes(store):
    replies = {1: CUT, 2: failing("server_error", retryable=False), 3: GOOD}
    model = Script(lambda request, number: replies[number])
    ask = engine_on(store).ask("teacher", model, WARM, "generate", 1)
    with pytest.raises(EndpointError):
        await ask(HELLO, schema=PAIR)
    assert (await ask(HELLO, schema=PAIR)).text == GOOD
    assert len(model.requests) == 3 and len({request.id for request in model.requests}) == 2


async def test_asking_again_stays_within_the_budget(store):
    engine = engine_on(store, BudgetSpec(calls=5))
    model = Script(lambda request, number: CUT + str(number))
    ask = engine.ask("teacher", model, WARM, "generate", 1)
    answers = await asyncio.gather(
        *(ask(HELLO, schema=PAIR, ordinal=n) for n in range(4)), return_exceptions=True
    )
    assert len(model.requests) == 5 and any(isinstance(answer, BudgetExceeded) for answer in answers)


async def test_a_call_that_failed_does_not_queue_behind_those_that_were_never_sent(store):
    asked: list[int] = []

    def reply(request: Request, number: int) -> str | Exception:
        asked.append(request.ordinal)
        if number == 1:
            return failing("server_error")
        return CUT if number < 10 and not request.ordinal else GOOD

    spec = SPEC.model_copy(update={"concurrency": 2})
    ask = engine_on(store).ask("teacher", Script(reply, seconds=0.002), spec, "generate", 1)
    await asyncio.gather(*(ask(HELLO, schema=PAIR, ordinal=n) for n in range(40)))
    assert asked.count(0) == 3 and max(place for place, n in enumerate(asked) if n == 0) < 20


class Several:
    """A model at several places, each a script of its own."""

    def __init__(self, *replicas: Script) -> None:
        self.replicas = replicas

    @property
    def id(self) -> str:
        return self.replicas[0].id


async def test_replicas_share_the_work_by_how_fast_they_answer(store):
    fast, slow = Script(seconds=0.005), Script(seconds=0.05)
    engine = engine_on(store)
    results = await run(engine, Several(fast, slow), 300)
    assert all(isinstance(samples, list) for _, samples in results)
    assert len(fast.requests) + len(slow.requests) == 300
    assert fast.most_in_flight == slow.most_in_flight == 8, "each up to its own limit"
    assert len(fast.requests) > 4 * len(slow.requests)
    assert engine.slots_of(SPEC).maximum == 16


async def test_calls_of_a_replica_that_is_down_go_to_the_others(store):
    down = Script(lambda request, number: failing("unreachable"))
    model = Several(down, Script(seconds=0.005))
    spec = SPEC.model_copy(update={"max_retries": 2})
    engine = engine_on(store)
    results = await run(engine, model, 400, spec)
    assert all(isinstance(samples, list) for _, samples in results) and len(results) == 400
    assert len(down.requests) <= 16 and not engine.counts.failed


async def test_a_replica_comes_back(store, monkeypatch):
    monkeypatch.setattr(concurrency, "FIRST_REST_SECONDS", 0.02)
    back = Script(lambda request, number: failing("server_error") if number <= 8 else "yes")
    await run(engine_on(store), Several(back, Script(seconds=0.005)), 400)
    assert len(back.requests) > 100


async def test_where_all_replicas_are_down_the_call_fails_with_what_was_said(store):
    model = Several(*[Script(lambda request, number: failing("unreachable")) for _ in range(2)])
    with pytest.raises(EndpointError, match="no luck"):
        await engine_on(store).ask("teacher", model, SPEC, "generate", 1)(HELLO)
    assert sum(len(replica.requests) for replica in model.replicas) == SPEC.max_retries + 1


async def test_retry_after_of_one_replica_does_not_hold_up_another(store):
    full = Script(lambda request, number: failing("rate_limited", retry_after_seconds=30))
    model = Several(full, Script(seconds=0.001))
    results = await asyncio.wait_for(run(engine_on(store), model, 200), 10)
    assert all(isinstance(samples, list) for _, samples in results)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_replica_that_refuses_is_left_where_others_answer(store, status):
    """Such as a vLLM that was started again without its adapter, or that has another key."""
    odd = Script(lambda request, number: failure_from_status(status, {}, "not here", "odd"))
    engine = engine_on(store)
    results = await run(engine, Several(odd, Script(seconds=0.005)), 400)
    assert all(isinstance(samples, list) for _, samples in results) and len(results) == 400
    assert len(odd.requests) <= 16 and not engine.counts.failed


@pytest.mark.parametrize(("status", "kind"), [(401, "unauthorized"), (404, "refused"), (400, "refused")])
async def test_what_all_replicas_refuse_is_refused(store, status, kind):
    def reply(request, number):
        return failure_from_status(status, {}, "not here", "odd")

    model = Several(Script(reply), Script(reply))
    with pytest.raises(EndpointError, match=f"answered {status}: not here") as caught:
        await engine_on(store).ask("teacher", model, SPEC, "generate", 1)(HELLO)
    assert caught.value.kind == kind
    assert [len(replica.requests) for replica in model.replicas] == ([1, 0] if status == 400 else [1, 1])


async def test_answers_are_found_again_whatever_the_number_of_replicas(store):
    await run(engine_on(store), Several(Script(), Script()), 20)
    alone, engine = Script(), engine_on(store)
    await run(engine, alone, 20)
    assert engine.counts.num_found == 20 and not alone.requests
