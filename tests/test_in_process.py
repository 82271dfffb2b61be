"""A vLLM behind a socket pair: asked side by side, cancelled, broken, and gone with whoever started it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
from tiny_llama import make_adapter, make_tiny_llama

from factory import session
from factory.budget import Budget
from factory.engine import Engine
from factory.errors import EndpointError, RecipeError, ServerError
from factory.init import write_template
from factory.models import in_process, vllm_server
from factory.models.pool import ModelPool
from factory.models.vllm_worker import Worker, encode
from factory.progress import Progress
from factory.recipe import BudgetSpec, Recipe
from factory.store.store import Store
from factory.types import Message, Request, Sampling

FAKE = str(Path(__file__).with_name("fake_worker.py"))
BASICS = {
    "name": "test",
    "domain": {"title": "t"},
    "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
    "strategies": [{"name": "grounded"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("models")
    make_tiny_llama(found / "one")
    make_adapter(found / "a")
    return found


@pytest.fixture
def pooled(monkeypatch, folder, tmp_path):
    """A pool whose vLLM is a fake worker; its words can be changed."""
    words: list[str] = []

    @asynccontextmanager
    async def make(device: str = "cpu", replicas: int = 1, **model):
        monkeypatch.setattr(in_process, "build_worker_command", lambda *_: [sys.executable, FAKE, *words])
        monkeypatch.setattr(vllm_server, "find_device", lambda *_: device)
        server = {"kind": "vllm", "model": "one", "run_as": "in_process", "replicas": replicas}
        models = {
            "teacher": {"server": "one", "adapter": "a", **model},
            "student": {"server": "one", **model},
        }
        made = Recipe.model_validate({**BASICS, "servers": {"one": server}, "models": models})
        pool = ModelPool(made, folder, tmp_path, lambda _: None)
        try:
            yield pool
        finally:
            await pool.close()
        assert not workers_left()

    make.words = words
    return make


def workers_left() -> list[int]:
    return [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and FAKE in process.cmdline()[1:2]
    ]


def request(text: str) -> Request:
    return Request("m", (Message("user", text),), None, Sampling())


async def history(pool: ModelPool, replica: int = 0) -> list[str]:
    return list(await pool._servers["one"].processes[replica]._request("GET", "/history"))


async def test_base_and_adapter_are_asked_side_by_side(pooled):
    odd = 'a"\\\n\u2028\U0001f600' + "x" * 200_000
    async with pooled() as pool:
        teacher, student = await asyncio.gather(pool.model("teacher"), pool.model("student"))
        asked = [teacher.complete(request("slow")), student.complete(request(odd))]
        asked += [student.complete(request(f"text {number}")) for number in range(300)]
        slow, found, *others = await asyncio.gather(*asked)
        pid = workers_left()[0]
        assert slow.text == f"{teacher.name} slow {pid}"
        assert teacher.name.startswith("teacher-")
        assert found.text == f"base {odd} {pid}"
        assert [each.text for each in others] == [f"base text {number} {pid}" for number in range(300)]
        assert (found.prompt_tokens, found.completion_tokens, found.finish_reason) == (3, 2, "stop")
        assert slow.latency_ms >= 200
        assert "/v1/load_lora_adapter" in await history(pool)
        assert "127.0.0.1" not in pool.describe(student)


@pytest.mark.parametrize(
    ("text", "kind", "retryable"),
    [
        ("status 400 too long", "refused", False),
        ("status 500 oh", "server_error", True),
        ("status 200 none", "malformed", True),
        ("break", "server_error", True),
    ],
)
async def test_failures_are_those_of_a_server(pooled, text, kind, retryable):
    async with pooled() as pool:
        student = await pool.model("student")
        with pytest.raises(EndpointError) as caught:
            await student.complete(request(text))
        assert (caught.value.kind, caught.value.retryable) == (kind, retryable)
        assert "servers.one" in str(caught.value)
        assert (await student.complete(request("still there"))).text.startswith("base still there")


async def test_what_nobody_waits_for_is_taken_back(pooled):
    async with pooled(timeout_seconds=0.3) as pool:
        student = await pool.model("student")
        with pytest.raises(EndpointError) as caught:
            await student.complete(request("hang"))
        assert caught.value.kind == "timeout"
        task = asyncio.create_task(student.complete(request("hang")))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await student.complete(request("x"))
        assert (await history(pool)).count("taken back") == 2


class Nowhere:
    """A writer whose lines nobody reads."""

    def write(self, _line: bytes) -> None: ...

    async def drain(self) -> None: ...


async def test_what_is_taken_back_before_it_began_is_forgotten():
    asked: list[str] = []

    async def answered(path, _body):
        asked.append(path)
        return 200, "null"

    reader, worker = asyncio.StreamReader(), Worker(answered, Nowhere())
    for number in range(1, 101):
        reader.feed_data(encode(number, "/x", b"{}") + encode(number, None, b"null"))
    reader.feed_data(encode(101, "/y", b"{}"))
    serving = asyncio.create_task(worker.serve(reader))
    await asyncio.sleep(0.1)
    assert worker._tasks == {}
    assert asked == ["/y"]
    reader.feed_eof()
    await serving


async def test_a_process_that_hangs_is_told(pooled, monkeypatch):
    async with pooled() as pool:
        await pool.model("student")
        monkeypatch.setattr(in_process, "REQUEST_SECONDS", 0.2)
        with pytest.raises(ServerError, match=r"servers\.one: /hang failed: TimeoutError"):
            await asyncio.wait_for(pool._servers["one"].processes[0]._request("POST", "/hang"), 5)


async def test_a_process_that_died_is_an_error_of_the_run(pooled):
    async with pooled() as pool:
        student = await pool.model("student")
        waiting = asyncio.create_task(student.complete(request("hang")))
        await asyncio.sleep(0.1)
        errors = []
        for text in ("die", "x", "x", "x"):
            with pytest.raises((EndpointError, ServerError)) as caught:
                await student.complete(request(text))
            errors.append(caught.value)
            await asyncio.sleep(0.4)
        assert isinstance(errors[-1], ServerError)
        assert "died" in str(errors[-1])
        with pytest.raises((EndpointError, ServerError)):
            await waiting


async def test_a_start_that_fails_is_told(pooled):
    pooled.words[:] = ["--die"]
    async with pooled() as pool:
        with pytest.raises(ServerError, match="no such kernel"):
            await pool.model("student")


async def test_cancelling_a_start_leaves_nothing(pooled):
    pooled.words[:] = ["--never-ready"]
    async with pooled() as pool:
        starting = asyncio.create_task(pool.model("student"))
        while not workers_left():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert workers_left() == []


async def test_it_comes_back_after_a_training(pooled):
    async with pooled(device="cuda") as pool:
        pool._recipe = pool._recipe.model_copy(
            update={"loop": pool._recipe.loop.model_copy(update={"while_training": "stop"})}
        )
        teacher = await pool.model("teacher")
        first = (await teacher.complete(request("x"))).text
        async with pool.device_free():
            assert workers_left() == []
        second = (await teacher.complete(request("x"))).text
        assert first != second
        assert first.split()[0] == second.split()[0] == teacher.name, "with its adapter"


async def test_replicas_are_processes_behind_sockets_of_their_own(pooled, tmp_path):
    async with pooled(replicas=2) as pool:
        teacher = await pool.model("teacher")
        alone = Recipe.model_validate(
            {**BASICS, "servers": {"one": {"kind": "vllm", "model": "one"}}, "models": pool._recipe.models}
        )
        assert teacher.id == ModelPool(alone, pool._folder, tmp_path, print).model_id("teacher")
        answers = await asyncio.gather(*[each.complete(request("slow")) for each in teacher.replicas])
        pids = [int(answer.text.split()[-1]) for answer in answers]
        assert sorted(pids) == sorted(workers_left()) and len(set(pids)) == 2
        for replica in (0, 1):
            assert "/v1/load_lora_adapter" in await history(pool, replica)
        assert {path.name for path in (tmp_path / "logs").glob("*.log")} == {"one-1.log", "one-2.log"}


async def test_calls_of_a_replica_that_died_go_to_the_other(pooled, tmp_path):
    async with pooled(replicas=2) as pool:
        teacher = await pool.model("teacher")
        with Store.open(tmp_path / "store") as store:
            engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]
            ask = engine.ask("teacher", teacher, spec, "generate", 1)
            with pytest.raises(EndpointError):
                await teacher.replicas[0].complete(request("die"))
            texts = [f"text {number}" for number in range(40)]
            answers = await asyncio.gather(*[ask([Message("user", text)]) for text in texts])
            assert {answer.text.split()[-1] for answer in answers} == {str(pid) for pid in workers_left()}
            assert not engine.counts.failed
        while len(workers_left()) == 1:
            with suppress(EndpointError):
                await teacher.replicas[1].complete(request("die"))
            await asyncio.sleep(0.05)
        answer = await teacher.replicas[0].complete(request("x"))
        assert answer.text.split()[0] == teacher.replicas[0].name, "all are back, with their adapter"
        assert len(workers_left()) == 2


PROGRAM = """
import asyncio, sys
from pathlib import Path
from factory.models import in_process, vllm_server
from factory.servers import VllmServer

async def main(folder, fake):
    in_process.build_worker_command = lambda *_: [sys.executable, fake]
    vllm_server.find_device = lambda *_: "cpu"
    process = in_process.VllmInProcess("one", VllmServer(model="one"), folder, folder / "one.log", print)
    await process.start()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
"""


def test_nothing_is_left_after_kill_9(folder):
    factory = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), FAKE], stdout=subprocess.PIPE, text=True
    )
    while (line := factory.stdout.readline()) and line != "ready\n":
        pass
    left = psutil.Process(factory.pid).children(recursive=True)
    assert any(FAKE in process.cmdline() for process in left)
    factory.kill()
    factory.wait()
    deadline = time.monotonic() + 20
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [each for each in left if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert left == []


@pytest.mark.parametrize("run_as", ["in_process", "batch", "files"])
def test_only_a_server_can_be_served_to_others(tmp_path, run_as):
    write_template(tmp_path / "domain")
    server = f"{{kind: vllm, model: x/y, run_as: {run_as}}}"
    profile = f"servers: {{main: {server}}}\nmodels: {{student: {{server: main}}}}\n"
    (tmp_path / "domain" / "profiles" / "odd.yaml").write_text(profile)
    with pytest.raises(RecipeError, match=r"servers\.main\.run_as"):
        session.serve(tmp_path / "domain", "odd", tmp_path / "w", None, Progress(bars=False))


def test_how_a_model_is_run_is_no_part_of_a_run():
    def digest(**server) -> str:
        base = {"kind": "vllm", "model": "x/y", **server}
        models = {"teacher": {"server": "main"}}
        return Recipe.model_validate({**BASICS, "servers": {"main": base}, "models": models}).run_digest()

    assert len({digest(run_as=way) for way in ("server", "in_process", "batch", "files")}) == 1
    assert digest(dtype="float16") != digest()
