"""Batches over real HTTP: gathered, handed over once, collected by whoever runs next, retried by line."""

from __future__ import annotations

import asyncio
import io
import json
import shlex
from collections import Counter
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from fake_batches import FakeBatches, say_last
from fake_endpoint import Status, answer

from factory.budget import Budget, Spend, hold_calls
from factory.engine import Engine
from factory.errors import BudgetExceeded, EndpointError, FactoryError, WorkspaceError
from factory.failures import REQUEST_FAULTS
from factory.models.batch_endpoint import EndpointCarrier
from factory.models.batch_files import LeftCarrier
from factory.models.batch_lines import read_results, request_line, unanswered
from factory.models.batch_log import BatchLog
from factory.models.batches import BatchModel
from factory.models.chat import ChatRequests
from factory.models.connection import Connection
from factory.models.pool import ModelPool
from factory.models.vllm_command import engine_words
from factory.progress import Progress
from factory.recipe import BudgetSpec, Recipe
from factory.servers import VllmServer
from factory.store.store import Store
from factory.types import Completion, Message, Parent, Request, Sample, Sampling, Task

BASICS = {
    "name": "test",
    "domain": {"title": "t"},
    "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
    "strategies": [{"name": "grounded"}],
}


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Nobody waits for seconds here."""
    monkeypatch.setattr(BatchModel, "quiet_seconds", 0.1)
    monkeypatch.setattr(EndpointCarrier, "first_wait_seconds", 0.01)
    monkeypatch.setattr(Engine, "backoff_seconds", 0.001)


def recipe(base_url: str, **model) -> Recipe:
    server = {"kind": "endpoint", "base_url": base_url, "batch": True}
    teacher = {"server": "far", "model": "big", "concurrency": 100, **model}
    return Recipe.model_validate({**BASICS, "servers": {"far": server}, "models": {"teacher": teacher}})


@asynccontextmanager
async def opened(workspace: Path, base_url: str, budget: BudgetSpec | None = None, told=None, **model):
    """(store, engine, ask) as a process has them."""
    made = recipe(base_url, **model)
    with Store.open(workspace) as store:
        pool = ModelPool(made, workspace, workspace, [].append if told is None else told.append)
        pool.batched.log = BatchLog(store, "run_1")
        held = hold_calls(made, pool.batched.log.open_calls())
        engine = Engine(store, Budget.from_store(store, "run_1", budget or BudgetSpec(), held), "run_1")
        try:
            pool.batched.close_stored(pool.batched.log)
            teacher = await pool.model("teacher")
            yield store, engine, engine.ask("teacher", teacher, made.models["teacher"], "generate", 1)
        finally:
            await pool.close()


async def ask_all(ask, texts) -> list[str]:
    found = await asyncio.gather(*[ask([Message("user", text)]) for text in texts], return_exceptions=True)
    return [each.text if isinstance(each, Completion) else each for each in found]


def statuses(store: Store) -> Counter[str]:
    return Counter(row["status"] for row in store.select("SELECT status FROM batches"))


TEXTS = [f"text {number}" for number in range(12)]
CAPITALS = [text.upper() for text in TEXTS]


async def test_calls_gather_into_one_batch_and_are_stored_like_any_others(tmp_path):
    async with FakeBatches(api_key=None) as endpoint:
        async with opened(tmp_path, endpoint.base_url, price={"prompt": 1.0, "completion": 2.0}) as (
            store,
            engine,
            ask,
        ):
            assert await ask_all(ask, TEXTS) == CAPITALS
            assert await ask_all(ask, TEXTS) == CAPITALS
            rows = store.select("SELECT * FROM calls")
            assert {(row["status"], row["attempts"], row["prompt_tokens"]) for row in rows} == {("ok", 1, 7)}
            assert engine.budget.spent == Spend(12, 12 * 9, pytest.approx(12 * (7 + 2 * 2) / 1e6))
            assert engine.budget.reserved == Spend()
        assert endpoint.sizes() == [12]
        with Store.open(tmp_path) as store:
            assert statuses(store) == {"prepared": 1, "submitted": 1, "collected": 1, "done": 1}
        assert not list((tmp_path / "batches").iterdir()), "the store has all of it"


async def test_a_request_is_sent_as_it_is_sent_call_by_call(tmp_path):
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    odd = FakeBatches(lambda _: answer('{"a": "\u2028é"}'))
    async with odd as endpoint, opened(tmp_path, endpoint.base_url) as (_, _, ask):
        sampling = Sampling(0.5, 0.9, 33, 7)
        found = await ask([Message("user", "line\nbreak\u2028")], schema=schema, sampling=sampling)
    assert found.json() == {"a": "\u2028é"}
    assert endpoint.bodies == [
        {
            "model": "big",
            "messages": [{"role": "user", "content": "line\nbreak\u2028"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 33,
            "seed": 7,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": schema, "strict": True},
            },
        }
    ]


async def test_a_batch_is_never_larger_than_the_recipe_says(tmp_path):
    few = {"concurrency": 5}
    async with FakeBatches() as endpoint, opened(tmp_path, endpoint.base_url, **few) as (_, _, ask):
        assert await ask_all(ask, TEXTS) == CAPITALS
    assert sorted(endpoint.sizes()) == [2, 5, 5]


class TwoSteps:
    """A generator whose second call depends on the first answer."""

    slices = ("all",)

    def plan(self, allocation, round_number):
        return (Task("two", round_number, index, "all") for index in range(allocation["all"]))

    async def make(self, task, ask):
        first = await ask([Message("user", f"first {task.ordinal}")])
        second = await ask([Message("user", f"second {first.text}")])
        messages = [Message("user", "q"), Message("assistant", second.text)]
        return [Sample.create(messages, [Parent(second.call_id, "call")], "two", {})]


async def make_two_steps(engine, ask, num: int) -> set[str]:
    generator = TwoSteps()
    made = set()
    async with aclosing(engine.run_tasks(generator, generator.plan({"all": num}, 1), ask, 100)) as outcomes:
        async for _, samples in outcomes:
            assert not isinstance(samples, FactoryError), samples
            made.add(samples[0].answer)
    return made


async def test_a_second_call_that_depends_on_the_first_goes_with_the_next_batch(tmp_path):
    async with FakeBatches() as endpoint, opened(tmp_path, endpoint.base_url) as (_, engine, ask):
        made = await make_two_steps(engine, ask, 30)
    assert made == {f"SECOND FIRST {number}" for number in range(30)}
    assert endpoint.sizes() == [30, 30]


async def leave(work: asyncio.Task) -> None:
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work


async def until(condition) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_leaving_and_coming_back_pays_nothing_twice(tmp_path):
    """Twice left, in the first and in the second batch; a third process finishes."""
    async with FakeBatches(num_free=0) as endpoint:
        for num_out in (1, 2):
            endpoint.num_free = num_out - 1
            async with opened(tmp_path, endpoint.base_url) as (store, engine, ask):
                work = asyncio.create_task(make_two_steps(engine, ask, 8))
                await until(lambda n=num_out: statuses(store)["submitted"] == n)
                await leave(work)
                assert store.select("SELECT id FROM calls WHERE status <> 'ok'") == [], "they are not over"
        endpoint.num_free = 2
        async with opened(tmp_path, endpoint.base_url) as (store, engine, ask):
            made = await make_two_steps(engine, ask, 8)
            assert store.select("SELECT count(*) AS n, sum(attempts) AS m FROM calls") == [{"n": 16, "m": 16}]
    assert made == {f"SECOND FIRST {number}" for number in range(8)}
    assert len(endpoint.bodies) == 16, "each request was run once"
    assert endpoint.sizes() == [8, 8]


async def test_what_was_collected_is_not_lost_with_the_endpoint(tmp_path):
    """The answers are on the disk before they are in the store: the endpoint may forget them."""
    async with FakeBatches(num_free=0) as endpoint:
        async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
            work = asyncio.create_task(ask_all(ask, TEXTS))
            await until(lambda: statuses(store)["submitted"] == 1)
            await leave_quietly(work)
        endpoint.num_free = 9
        carrier = EndpointCarrier(endpoint.base_url, None)
        with Store.open(tmp_path) as store:
            await carrier.collect(BatchLog(store, "run_1").open_batches()[0])
        await carrier.close()
    async with opened(tmp_path, endpoint.base_url) as (_, _, ask):  # nobody listens there any more
        assert await ask_all(ask, TEXTS) == CAPITALS


async def leave_quietly(work) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_a_full_disk_is_told_at_once_and_the_batch_is_kept(tmp_path, monkeypatch):
    async with FakeBatches() as endpoint:
        endpoint.reply = lambda _: answer("x" * 3_000_000)
        async with opened(tmp_path, endpoint.base_url) as (store, engine, ask):
            with monkeypatch.context() as full:
                full.setattr(Connection, "download", download_to_full_disk)
                (error,) = await asyncio.wait_for(ask_all(ask, ["x"]), 10)
            assert isinstance(error, WorkspaceError)
            assert "No space left" in str(error)
            assert str(tmp_path) in str(error)
            assert statuses(store) == {"prepared": 1, "submitted": 1}
            assert store.select("SELECT id FROM calls") == []
        async with opened(tmp_path, endpoint.base_url) as (_, engine, ask):
            await ask_all(ask, ["x"])
            assert engine.budget.spent.calls == 1
    assert endpoint.sizes() == [1]


async def download_to_full_disk(self, path, _file, *, download=Connection.download):
    with open("/dev/full", "wb") as file:  # noqa: ASYNC230, PTH123
        return await download(self, path, file)


async def test_a_batch_whose_creation_was_not_answered_is_found_not_made_again(tmp_path):
    async with FakeBatches() as endpoint:
        endpoint.forget_create = True
        async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
            assert await ask_all(ask, TEXTS) == CAPITALS
    assert endpoint.sizes() == [12]


async def test_a_batch_that_was_made_just_before_we_died_is_found(tmp_path):
    """kill -9 between the endpoint's answer and our record of it, with other batches made since."""
    async with FakeBatches() as endpoint:
        async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
            log, lines = BatchLog(store, "run_1"), {}
            request = Request(recipe_id(tmp_path, endpoint), (Message("user", "x"),), None, Sampling())
            lines[request.id] = line_of(request)
            batch = log.prepare("batch_of_before", request.model_id, lines)
            carrier = EndpointCarrier(endpoint.base_url, None)
            await carrier.submit(batch, perhaps_sent=False)
            for number in range(5):
                other = log.prepare(f"batch_{number}", "another model", {})
                await carrier.submit(other, perhaps_sent=False)
            await carrier.close()
        async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
            assert await ask_all(ask, ["x"]) == ["X"]
    assert endpoint.sizes() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("status", [401, 403, 400, 302])
async def test_a_batch_that_cannot_be_looked_for_is_not_made_again(tmp_path, status):
    """kill -9 before our record of it, and a restart with a wrong key: only no list at all means none."""
    async with FakeBatches() as endpoint:
        with Store.open(tmp_path) as store:
            request = Request(recipe_id(tmp_path, endpoint), (Message("user", "x"),), None, Sampling())
            log = BatchLog(store, "run_1")
            batch = log.prepare("batch_of_before", request.model_id, {request.id: line_of(request)})
            carrier = EndpointCarrier(endpoint.base_url, None)
            await carrier.submit(batch, perhaps_sent=False)
            await carrier.close()
        endpoint.refuse = lambda _method, _path: status
        async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
            (error,) = await ask_all(ask, ["x"])
            assert f"answered {status}" in str(error)
            assert error.kind not in REQUEST_FAULTS
            assert statuses(store)["lost"] == 0
        endpoint.refuse = lambda _method, _path: None
        async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
            assert await ask_all(ask, ["x"]) == ["X"]
    assert endpoint.sizes() == [1]


def recipe_id(folder: Path, endpoint: FakeBatches) -> str:
    return ModelPool(recipe(endpoint.base_url), folder, folder, print).model_id("teacher")


def line_of(request: Request) -> bytes:
    return request_line(request.id, ChatRequests("big").encode(request))


async def test_lines_that_failed_go_with_the_next_batch_and_no_other(tmp_path):
    """Errors of every kind, lines that are none, and lines that are missing."""
    seen: Counter[str] = Counter()
    first = {
        0: "batch_expired",
        1: "request_timeout",
        2: Status(429, {"error": {"message": "slow down"}}),
        3: Status(500, {"error": {"message": "oh"}}),
        4: Status(200, {"choices": []}),
        5: b"{not json",
        6: b"",
        7: b'["a list"]',
        8: b'{"custom_id": 3}',
        9: Status(200, None),
        10: "something else",
    }

    def reply(body):
        text = body["messages"][-1]["content"]
        seen[text] += 1
        return first.get(int(text.split()[1]), say_last(body)) if seen[text] == 1 else say_last(body)

    async with FakeBatches(reply) as endpoint, opened(tmp_path, endpoint.base_url) as (store, _, ask):
        assert await ask_all(ask, TEXTS) == CAPITALS
        attempts = store.select("SELECT attempts, count(*) AS n FROM calls GROUP BY ALL ORDER BY ALL")
    assert attempts == [{"attempts": 1, "n": 1}, {"attempts": 2, "n": 11}]
    assert endpoint.sizes()[0] == 12
    assert sum(endpoint.sizes()[1:]) == 11


async def test_retries_are_bounded_and_what_was_called_off_stays_off(tmp_path):
    replies = {"text 0": "batch_expired", "text 1": "batch_cancelled", "text 2": Status(400, {"error": "no"})}

    def reply(body):
        text = body["messages"][-1]["content"]
        return replies.get(text) or say_last(body)

    few = {"max_retries": 2}
    async with FakeBatches(reply) as endpoint, opened(tmp_path, endpoint.base_url, **few) as (store, _, ask):
        found = await ask_all(ask, TEXTS)
        failed = store.select("SELECT error, attempts FROM calls WHERE status = 'failed' ORDER BY ALL")
    assert [error.kind for error in found[:3]] == ["timeout", "refused", "refused"]
    assert found[3:] == CAPITALS[3:]
    assert sorted((row["error"], row["attempts"]) for row in failed) == [
        ("refused", 1),
        ("refused", 1),
        ("timeout", 3),
    ]
    assert endpoint.sizes() == [12, 1, 1]


@pytest.mark.parametrize(
    ("status", "code", "kind", "num_batches"),
    [
        ("failed", "invalid_json_line", "batch_failed", 1),
        ("failed", "token_limit_exceeded", "rate_limited", 3),
    ],
)
async def test_a_batch_that_ends_without_results(tmp_path, status, code, kind, num_batches):
    async with FakeBatches() as endpoint:
        endpoint.status, endpoint.errors = status, [{"code": code, "message": f"it was {code}"}]
        async with opened(tmp_path, endpoint.base_url, max_retries=2) as (store, _, ask):
            found = await ask_all(ask, TEXTS[:2])
            assert [(error.kind, error.worked_on) for error in found] == [(kind, False)] * 2
            assert f"it was {code}" in str(found[0])
            assert statuses(store)["lost"] == num_batches
            endpoint.status, endpoint.errors = "completed", []
            assert await ask_all(ask, TEXTS[:2]) == CAPITALS[:2], "asked anew"
    assert endpoint.sizes() == [2] * (num_batches + 1)


async def test_a_batch_that_the_endpoint_forgot_is_told_before_it_is_paid_again(tmp_path):
    async with FakeBatches(num_free=0) as endpoint:
        async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
            work = asyncio.create_task(ask_all(ask, ["x"]))
            await until(lambda: statuses(store)["submitted"] == 1)
            await leave_quietly(work)
        endpoint.num_free = 9
        endpoint.refuse = lambda method, path: (
            404 if (method, path) == ("GET", "/v1/batches/batch/0") else None
        )
        async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
            (error,) = await ask_all(ask, ["x"])
            assert "cannot be collected" in str(error)
            assert error.kind not in REQUEST_FAULTS, "no request is at fault"
            assert error.worked_on, "its calls may be billed"
            assert statuses(store)["lost"] == 1
        assert endpoint.sizes() == [1]
        async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
            assert await ask_all(ask, ["x"]) == ["X"]
    assert endpoint.sizes() == [1, 1]


def refuse_states(endpoint: FakeBatches, status: int, num: int) -> None:
    """The next `num` questions about a batch are refused, as a proxy may do."""
    left = num

    def refuse(method: str, path: str) -> int | None:
        nonlocal left
        left -= (asked := path.startswith("/v1/batches/"))
        return status if asked and left >= 0 else None

    endpoint.refuse = refuse


@pytest.mark.parametrize("status", [404, 302, 400, 405, 410])
async def test_a_question_that_is_refused_now_and_then_loses_no_batch(tmp_path, status):
    async with FakeBatches() as endpoint:
        refuse_states(endpoint, status, 3)
        async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
            assert await ask_all(ask, TEXTS) == CAPITALS
            assert statuses(store)["lost"] == 0
    assert endpoint.sizes() == [12]


@pytest.mark.parametrize("status", [302, 400, 401, 405])
async def test_a_batch_that_nobody_can_ask_about_is_kept(tmp_path, status):
    async with FakeBatches() as endpoint:
        refuse_states(endpoint, status, 99)
        async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
            (error,) = await ask_all(ask, ["x"])
            assert f"answered {status}" in str(error)
            assert error.kind not in REQUEST_FAULTS
            assert statuses(store)["lost"] == 0
        endpoint.refuse = lambda _method, _path: None
        async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
            assert await ask_all(ask, ["x"]) == ["X"]
    assert endpoint.sizes() == [1]


async def test_an_expired_batch_gives_what_it_has_and_the_rest_is_asked_again(tmp_path):
    num = 0

    def reply(body):
        nonlocal num
        num += 1
        return say_last(body) if num <= 5 or num > 12 else "batch_expired"

    async with FakeBatches(reply) as endpoint:
        endpoint.status = "expired"
        async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
            assert await ask_all(ask, TEXTS) == CAPITALS
    assert endpoint.sizes() == [12, 7]


async def test_an_endpoint_that_is_away_for_a_while_loses_nothing(tmp_path):
    counts: Counter[str] = Counter()

    def refuse(method: str, path: str) -> int | None:
        counts[f"{method} {path.split('/')[2]}"] += 1
        return 503 if counts[f"{method} {path.split('/')[2]}"] % 2 else None

    async with FakeBatches() as endpoint:
        endpoint.refuse = refuse
        async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
            assert await ask_all(ask, TEXTS) == CAPITALS
            assert store.select("SELECT max(attempts) AS n FROM calls") == [{"n": 1}]
    assert endpoint.sizes() == [12]


async def test_a_key_that_is_refused_is_told_without_it(tmp_path):
    async with FakeBatches(api_key="another") as endpoint:
        with Store.open(tmp_path) as store:
            model = BatchModel(
                "m",
                ChatRequests("big"),
                EndpointCarrier(endpoint.base_url, "sk-secret"),
                BatchLog(store, "run_1"),
                10,
                print,
            )
            with pytest.raises(EndpointError) as caught:
                await model.complete(Request("m", (Message("user", "x"),), None, Sampling()))
            await model.close()
    assert caught.value.kind == "unauthorized"
    assert "sk-secret" not in str(caught.value)
    assert endpoint.sizes() == []


@pytest.mark.parametrize("code", [None, "odd"])
async def test_a_key_in_a_line_of_the_answers_is_hidden(tmp_path, code):
    said = {"message": "x" * 270 + " sk-secret-and-long may not use this model", "code": code}
    line = {"response": None, "error": said} if code else {"response": {"status_code": 400, "body": said}}

    def reply(_body):
        return json.dumps({"custom_id": request.id, **line}).encode()

    request = Request("m", (Message("user", "x"),), None, Sampling())
    async with FakeBatches(reply) as endpoint:
        with Store.open(tmp_path) as store:
            carrier = EndpointCarrier(endpoint.base_url, "sk-secret-and-long")
            log = BatchLog(store, "run_1")
            model = BatchModel("m", ChatRequests("big"), carrier, log, 10, print)
            with pytest.raises(EndpointError) as caught:
                await model.complete(request)
            await model.close()
    assert "*** may" in str(caught.value)
    assert "secret" not in str(caught.value)


async def test_an_endpoint_without_batches_is_told(tmp_path):
    async with FakeBatches() as endpoint:
        endpoint.refuse = lambda _method, _path: 404
        async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
            (error,) = await ask_all(ask, ["x"])
    assert error.kind == "batch_failed"
    assert "Batch API" in str(error)


async def test_the_budget_holds_over_a_restart(tmp_path):
    """Calls that are out are not settled: a second process must not spend their share on others."""
    spec = BudgetSpec(calls=10)
    async with FakeBatches(num_free=0) as endpoint:
        async with opened(tmp_path, endpoint.base_url, spec) as (store, engine, ask):
            work = asyncio.create_task(ask_all(ask, TEXTS[:8]))
            await until(lambda: statuses(store)["submitted"] == 1)
            assert engine.budget.reserved.calls == 8
            await leave_quietly(work)
        endpoint.num_free = 9
        async with opened(tmp_path, endpoint.base_url, spec) as (_, engine, ask):
            assert engine.budget.held.calls == 8
            others = await ask_all(ask, [f"other {number}" for number in range(5)])
            assert sum(isinstance(each, str) for each in others) == 2
            assert await ask_all(ask, TEXTS[:8]) == CAPITALS[:8]
            assert engine.budget.held == engine.budget.reserved == Spend()
            assert engine.budget.spent.calls == 10
    assert len(endpoint.bodies) == 10


async def test_attempts_that_failed_count_although_the_last_one_is_out(tmp_path):
    """Left while retries are in a batch: the failures before them were paid."""
    num, spec = 0, BudgetSpec(calls=10)

    def reply(body):
        nonlocal num
        num += 1
        return "server_error" if num <= 5 else say_last(body)

    async with FakeBatches(reply, num_free=1) as endpoint:
        async with opened(tmp_path, endpoint.base_url, spec) as (store, _, ask):
            work = asyncio.create_task(ask_all(ask, TEXTS[:5]))
            await until(lambda: statuses(store)["submitted"] == 2)
            await leave_quietly(work)
            rows = store.select("SELECT status, error, attempts FROM calls")
            assert rows == [{"status": "failed", "error": "cancelled", "attempts": 1}] * 5
        endpoint.num_free = 99
        async with opened(tmp_path, endpoint.base_url, spec) as (_, engine, ask):
            assert (engine.budget.spent.calls, engine.budget.held.calls) == (5, 5)
            found = await ask_all(ask, [*TEXTS[:5], *[f"other {number}" for number in range(5)]])
            assert found[:5] == CAPITALS[:5]
            assert all(isinstance(each, BudgetExceeded) for each in found[5:])
    assert len(endpoint.bodies) == 10


def test_what_calls_that_are_out_may_cost_is_held_at_the_dearest_price():
    made = Recipe.model_validate(
        {
            **BASICS,
            "servers": {"s": {"kind": "scripted"}},
            "models": {
                "teacher": {"server": "s", "price": {"prompt": 1.0, "completion": 5.0}},
                "refiner": {"server": "s", "price": {"prompt": 3.0, "completion": 2.0}},
            },
        }
    )
    tokens = 244
    held = hold_calls(made, [("call_1", tokens, 50)])
    assert held == {"call_1": Spend(1, tokens + 50, pytest.approx((3 * tokens + 5 * 50) / 1e6))}


async def test_a_batch_of_a_changed_folder_is_asked_again(tmp_path):
    """Somebody deleted the files of a batch: its calls count as not asked."""
    async with FakeBatches(num_free=0) as endpoint:
        async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
            work = asyncio.create_task(ask_all(ask, ["x"]))
            await until(lambda: statuses(store)["submitted"] == 1)
            await leave_quietly(work)
        for file in (tmp_path / "batches").glob("*/*"):
            file.unlink()
        endpoint.num_free = 9
        async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
            assert await ask_all(ask, ["x"]) == ["X"]
    assert endpoint.sizes() == [1, 1]


def fail_even(body) -> Status | str:
    """Every other text is called off, so that there is a file of errors beside that of answers."""
    text = body["messages"][-1]["content"]
    return say_last(body) if int(text.split()[1]) % 2 else "batch_cancelled"


async def test_files_at_the_endpoint_are_deleted_once_the_answers_are_in_the_store(tmp_path):
    """Those of the batch alone: input, output and errors."""
    told: list[str] = []
    async with FakeBatches(fail_even, num_free=0) as endpoint:
        endpoint.files["file/theirs"] = b"somebody else's"
        async with opened(tmp_path, endpoint.base_url, told=told) as (store, _, ask):
            work = asyncio.create_task(ask_all(ask, TEXTS))
            await until(lambda: statuses(store)["submitted"] == 1)
            await leave_quietly(work)
        assert endpoint.deleted == [], "it is out"
        endpoint.num_free = 9
        async with opened(tmp_path, endpoint.base_url, told=told) as (store, _, ask):
            assert (await ask_all(ask, TEXTS))[1::2] == CAPITALS[1::2]
            await until(lambda: statuses(store)["done"] == 1)
            assert store.select("SELECT count(*) AS n FROM calls WHERE status = 'ok'") == [{"n": 6}]
    assert list(endpoint.files) == ["file/theirs"] and len(endpoint.deleted) == 3
    assert not any("delete" in line for line in told)


async def test_files_of_a_batch_that_is_done_go_while_later_ones_are_out(tmp_path):
    async with FakeBatches(num_free=1) as endpoint, opened(tmp_path, endpoint.base_url) as (_, engine, ask):
        work = asyncio.create_task(make_two_steps(engine, ask, 8))
        await until(lambda: len(endpoint.deleted) == 2 and len(endpoint.batches) == 2)
        assert len(endpoint.files) == 1, "of the second"
        await leave(work)


@pytest.mark.parametrize("reply", [say_last, fail_even])
async def test_what_a_killed_process_had_stored_and_not_closed_is_closed_by_the_next(
    tmp_path, monkeypatch, reply
):
    """Nobody asks those calls again; of what failed nothing is held in the budget any more."""
    async with FakeBatches(reply) as endpoint:
        with monkeypatch.context() as killed:
            killed.setattr(BatchModel, "_finish", lambda *_: [])
            async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
                await ask_all(ask, TEXTS)
        assert len(endpoint.files) >= 2
        async with opened(tmp_path, endpoint.base_url) as (_, engine, _):
            assert engine.budget.held == Spend()
    with Store.open(tmp_path) as store:
        assert statuses(store) == {"prepared": 1, "submitted": 1, "collected": 1, "done": 1}
    assert endpoint.files == {} and endpoint.sizes() == [12]
    assert not list((tmp_path / "batches").iterdir())


async def test_a_folder_that_a_killed_process_left_of_a_batch_that_is_done_goes_with_the_next(
    tmp_path, monkeypatch
):
    async with FakeBatches() as endpoint:
        with monkeypatch.context() as killed:
            killed.setattr("factory.models.batch_log.shutil.rmtree", lambda *_, **__: None)
            async with opened(tmp_path, endpoint.base_url) as (_, _, ask):
                await ask_all(ask, TEXTS)
        left = tmp_path / "batches" / "batch_that_is_out"
        left.mkdir()
        row = {"run_id": "run_1", "model_id": "m", "status": "submitted", "num_requests": 1}
        with Store.open(tmp_path) as store:
            store.append("batches", [{"id": left.name, **row}])
        async with opened(tmp_path, endpoint.base_url):
            assert list((tmp_path / "batches").iterdir()) == [left]


async def test_a_batch_of_which_one_answer_is_not_in_the_store_stays(tmp_path, monkeypatch):
    """As many are in the store as were answered, for one that had failed was answered later."""
    async with FakeBatches(fail_even) as endpoint:
        with monkeypatch.context() as killed:
            killed.setattr(BatchModel, "_finish", lambda *_: [])
            async with opened(tmp_path, endpoint.base_url) as (store, _, ask):
                await ask_all(ask, TEXTS)
                paid = store.select("SELECT * EXCLUDE (request) FROM calls WHERE status = 'ok' LIMIT 1")
        with Store.open(tmp_path) as store:
            failed = store.select("SELECT id FROM calls WHERE status = 'failed' LIMIT 1")
            store.append("calls", [{**paid[0], "request": {}, "id": failed[0]["id"]}])
            store._answered.discard(paid[0]["id"])
            assert len(BatchLog(store, "run_1").open_batches()) == 1


@pytest.mark.parametrize("status", [403, 405, 503])
async def test_files_that_cannot_be_deleted_are_told_once_and_fail_nothing(tmp_path, status):
    told: list[str] = []
    async with FakeBatches() as endpoint:
        endpoint.refuse = lambda method, _path: status if method == "DELETE" else None
        async with opened(tmp_path, endpoint.base_url, told=told, concurrency=3) as (_, _, ask):
            assert await ask_all(ask, TEXTS) == CAPITALS
    assert endpoint.sizes() == [3] * 4
    (line,) = [line for line in told if "delete" in line]
    assert str(status) in line and endpoint.base_url in line
    assert "Batch API" not in line, "it has one"


async def test_an_endpoint_that_does_not_answer_any_more_holds_nobody_up(tmp_path, monkeypatch):
    monkeypatch.setattr(EndpointCarrier, "discard_seconds", 0.2)
    told: list[str] = []
    async with (
        asyncio.timeout(20),
        FakeBatches() as endpoint,
        opened(tmp_path, endpoint.base_url, told=told) as (_, _, ask),
    ):
        endpoint.holds_deletions = True
        assert await ask_all(ask, TEXTS) == CAPITALS
    assert sum("delete" in line for line in told) == 1


@pytest.mark.parametrize("metadata", [{}, None, "text", {"dataset_factory_batch": "batch_of_others"}])
async def test_files_of_a_batch_that_bears_another_name_are_left_alone(tmp_path, metadata):
    """The endpoint knows another batch by the id that ours had."""
    told: list[str] = []
    async with FakeBatches() as endpoint, opened(tmp_path, endpoint.base_url, told=told) as (_, _, ask):
        assert await ask_all(ask, TEXTS) == CAPITALS
        endpoint.batches["batch/0"]["metadata"] = metadata
    assert endpoint.deleted == [] and len(endpoint.files) == 2
    assert sum("delete" in line for line in told) == 1


async def test_files_that_are_gone_already_are_no_failure(tmp_path):
    told: list[str] = []
    async with FakeBatches() as endpoint, opened(tmp_path, endpoint.base_url, told=told) as (_, _, ask):
        assert await ask_all(ask, TEXTS) == CAPITALS
        endpoint.files.clear()
    assert not any("delete" in line for line in told)


async def test_files_that_are_left_are_read_when_they_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("factory.models.batch_files.POLL_SECONDS", 0.02)
    told: list[str] = []
    (tmp_path / "m").mkdir()
    made = Recipe.model_validate(
        {
            **BASICS,
            "servers": {"far": {"kind": "vllm", "model": "some/model", "run_as": "files"}},
            "models": {"teacher": {"server": "far"}},
        }
    )

    async def go(before_end) -> list:
        with Store.open(tmp_path / "w") as store:
            pool = ModelPool(made, tmp_path, tmp_path / "w", told.append)
            pool.batched.log = BatchLog(store, "run_1")
            engine = Engine(store, Budget(BudgetSpec()), "run_1")
            ask = engine.ask("teacher", await pool.model("teacher"), made.models["teacher"], "generate", 1)
            work = asyncio.create_task(ask_all(ask, TEXTS[:3]))
            try:
                return await before_end(store, work)
            finally:
                await leave_quietly(work)
                await pool.close()

    async def leave_it(store, _work):
        await until(lambda: statuses(store)["submitted"] == 1)
        await until(lambda: any("command.sh" in line for line in told))
        return []

    async def bring_it(store, work):
        (requests,) = (tmp_path / "w" / "batches").glob("*/requests.jsonl")
        lines = [json.loads(line) for line in requests.read_bytes().splitlines()]
        assert {line["body"]["model"] for line in lines} == {"base"}
        results = [
            {
                "id": "vllm-1",
                "custom_id": line["custom_id"],
                "response": {"status_code": 200, "request_id": "r", "body": say_last(line["body"]).body},
                "error": None,
            }
            for line in lines
        ]
        texts = [json.dumps(result) + "\n" for result in results]
        answers = requests.with_name("answers.jsonl")
        answers.write_text("".join(texts[:2]) + texts[2][:40])
        await asyncio.sleep(0.3)
        assert not work.done(), "half a file is none"
        answers.write_text("".join(texts))
        return await work

    assert await go(leave_it) == []
    assert await go(bring_it) == CAPITALS[:3]


async def test_what_to_run_elsewhere_is_written_whole_and_told(tmp_path):
    """The server's own words, however long they are; a line of progress is cut at 400 characters."""
    out, model = io.StringIO(), "/srv/" + "a long name/" * 30 + "it's"
    keys = {"max_lora_rank": 16, "dtype": "float16", "quantization": "fp8", "extra_args": ["--seed", "7"]}
    spec = VllmServer(model="m", **keys)
    carrier = LeftCarrier(
        spec, model, ("student-1", Path("/adapters/1")), "servers.far", Progress(out, bars=False).note
    )
    with Store.open(tmp_path) as store:
        batch = BatchLog(store, "run_1").prepare("batch_1", "m", {"a": b"{}\n"})
        waiting = asyncio.create_task(carrier.collect(batch))
        await until(lambda: "command.sh" in out.getvalue())
        await leave(waiting)
    script = Path(out.getvalue().split()[-1])
    assert script == batch.folder / "command.sh"
    last = script.read_text().splitlines()[-1]  # noqa: ASYNC240
    command = ["exec", "python3", "-m", "vllm.entrypoints.openai.run_batch", "-i", "requests.jsonl"]
    command += ["-o", "answers.jsonl", "--lora-modules", "student-1=/adapters/1"]
    assert shlex.split(last) == [*command, *engine_words(spec, model, "cuda")]
    assert {"--max-lora-rank", "16", "--quantization", "fp8", "float16", "--seed", model} <= set(
        shlex.split(last)
    )


async def test_a_file_that_lacks_lines_counts_once_it_does_not_grow(tmp_path):
    carrier = LeftCarrier(VllmServer(model="m"), "m", None, "servers.far", print)
    with Store.open(tmp_path) as store:
        batch = BatchLog(store, "run_1").prepare("batch_1", "m", {"a": b"{}\n", "b": b"{}\n"})
        batch.answers.write_bytes(b"{}\n")
        assert not carrier._is_whole(batch)
        carrier.settled_seconds = -1.0
        assert carrier._is_whole(batch)


ABORTED = {"message": {"content": "half an"}, "finish_reason": "abort"}


@pytest.mark.parametrize(
    ("result", "worked_on"),
    [
        ({"response": {"status_code": 200, "body": "<html>"}}, True),
        ({"response": {"status_code": 200, "body": {"choices": [ABORTED]}}}, True),
        ({"response": {"status_code": 504, "body": "gateway timeout"}}, True),
        ({"response": {"status_code": 500, "body": "broken"}}, False),
        ({"response": {"status_code": 429, "body": "slow down"}}, False),
        ({"error": {"code": "batch_expired"}}, False),
    ],
)
def test_a_line_without_an_answer_is_billed_as_a_call_by_itself_would_be(result, worked_on):
    found = read_results([json.dumps({"custom_id": "call_1", **result}).encode()], "here")["call_1"]
    assert isinstance(found, EndpointError) and found.worked_on is worked_on
    assert unanswered("no line is about it", "here").worked_on
