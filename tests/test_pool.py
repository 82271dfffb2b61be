"""ModelPool over processes that stand in for vLLM, over an endpoint, and over scripts."""

import asyncio
import os
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web
from fake_endpoint import FakeEndpoint, answer
from tiny_llama import make_adapter, make_tiny_llama

from factory.budget import Budget
from factory.engine import Engine
from factory.errors import EndpointError, RecipeError, ServerError
from factory.models import ending, shares, vllm_replicas, vllm_server
from factory.models.pool import ModelPool
from factory.models.remote_adapter import load_adapter
from factory.proof import Probing, look, prove, read_proof
from factory.recipe import BudgetSpec, Recipe
from factory.store.store import Store
from factory.types import GoldItem, Message, Request, Sampling

FAKE = str(Path(__file__).with_name("fake_vllm.py"))
BASICS = {
    "name": "test",
    "domain": {"title": "t"},
    "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
    "strategies": [{"name": "grounded"}],
}


def recipe(servers, models, **loop) -> Recipe:
    return Recipe.model_validate({**BASICS, "servers": servers, "models": models, "loop": loop})


def request(text="hello") -> Request:
    return Request("m", (Message("user", text),), None, Sampling())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models and three adapters, of which `a` and `copy` are the same."""
    found = tmp_path_factory.mktemp("models")
    make_tiny_llama(found / "one")
    make_tiny_llama(found / "two", seed=1)
    for name, seed in (("a", 1), ("b", 2), ("copy", 1)):
        make_adapter(found / name, seed=seed)
    return found


@pytest.fixture
def pooled(monkeypatch, folder, tmp_path):
    """A pool whose vLLM servers are fake processes on a device of the test's choice."""
    words: list[str] = []

    @asynccontextmanager
    async def make(servers, models, *, device="cpu", told=None, **loop):
        def command(_spec, _model, _device, port):
            return [sys.executable, FAKE, "--port", str(port), *words]

        monkeypatch.setattr(vllm_server, "build_command", command)
        monkeypatch.setattr(vllm_server, "find_device", lambda *_: device)
        tell = [] if told is None else told
        pool = ModelPool(recipe(servers, models, **loop), folder, tmp_path, tell.append)
        try:
            yield pool
        finally:
            await pool.close()
        assert not servers_left()

    make.words = words
    return make


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store") as opened:
        yield opened


def servers_left() -> list[int]:
    """Fake servers that descend from this test and still run."""
    return [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and FAKE in process.cmdline()[1:2]
    ]


async def pid_of(model) -> int:
    return int((await model.complete(request())).text.rpartition(" ")[2])


async def history(pool, server, replica=0) -> list[str]:
    process = pool._servers[server].processes[replica]
    headers = {"Authorization": f"Bearer {process.api_key}"}
    session = aiohttp.ClientSession(headers=headers)
    async with session, session.get(f"{process.base_url}/history") as reply:
        return list(await reply.json())


ONE = {"one": {"kind": "vllm", "model": "one"}}
TWO = {**ONE, "two": {"kind": "vllm", "model": "two"}}


async def test_roles_share_a_server_and_load_each_adapter_once(pooled, folder):
    roles = {"teacher": {"server": "one", "adapter": "a"}, "student": {"server": "one"}}
    async with pooled(ONE, {**roles, "refiner": {"server": "one", "adapter": "copy"}}) as pool:
        asked = [pool.model(role) for role in ("teacher", "student", "refiner", "teacher")]
        teacher, student, refiner, again = await asyncio.gather(*asked)
        trained = await pool.model("student", folder / "b")
        texts = [(await model.complete(request())).text for model in (teacher, student, refiner, trained)]
        names, pids = zip(*(text.split(" at ") for text in texts), strict=True)
        assert len(set(pids)) == 1
        assert again is teacher
        assert names[0] == names[2], "the same content is served once"
        assert names[1] == "base"
        assert names[0].startswith(("teacher-", "refiner-"))
        assert names[3].startswith("student-")
        loads = [entry for entry in await history(pool, "one") if entry.startswith("load")]
        assert sorted(loads) == sorted(f"load {name}" for name in {names[0], names[3]})
        assert len({teacher.id, student.id, trained.id}) == 3
        assert teacher.id == refiner.id == pool.model_id("teacher")
        assert trained.id == pool.model_id("student", folder / "b")
        assert trained.name in pool.describe(trained)


async def test_ids_follow_content_not_paths(pooled, folder, tmp_path):
    async with pooled(TWO, {"teacher": {"server": "one"}, "student": {"server": "two"}}) as pool:
        plain = pool.model_id("teacher")
        assert plain != pool.model_id("student")
        assert pool.model_id("teacher", folder / "a") == pool.model_id("teacher", folder / "copy")
        moved = make_adapter(tmp_path / "c", seed=1, config={"lora_alpha": 99})
        assert pool.model_id("teacher", moved) != pool.model_id("teacher", folder / "a")
        changed = make_adapter(tmp_path / "d", seed=1)
        before = pool.model_id("teacher", changed)
        make_adapter(changed, seed=7)
        os.utime(changed / "adapter_model.safetensors", ns=(1, 1))
        assert pool.model_id("teacher", changed) != before
    other = {"one": {"kind": "vllm", "model": str(folder / "one"), "max_model_len": 99, "kv_cache_gib": 2}}
    assert ModelPool(recipe(other, {"teacher": {"server": "one"}}), tmp_path, tmp_path, print).model_id(
        "teacher"
    ) == (plain), "neither where it lies nor how it is served matters"


async def test_two_servers_run_side_by_side_on_a_cpu(pooled):
    async with pooled(TWO, {"teacher": {"server": "one"}, "student": {"server": "two"}}) as pool:
        teacher, student = await asyncio.gather(pool.model("teacher"), pool.model("student"))
        assert await pid_of(teacher) != await pid_of(student)
        assert len(servers_left()) == 2
        async with pool.device_free():
            assert len(servers_left()) == 2, "on a CPU training runs beside"
        assert await history(pool, "one") == ["start"]


async def test_servers_on_a_gpu_take_turns(pooled):
    models = {"teacher": {"server": "one", "adapter": "a"}, "student": {"server": "two"}}
    async with pooled(TWO, models, device="cuda") as pool:
        teacher = await pool.model("teacher")
        first = await pid_of(teacher)
        student = await pool.model("student")
        assert await history(pool, "one") == ["start", f"load {teacher.name}", "/sleep"]
        await pid_of(student)
        assert await pid_of(teacher) == first, "woken, not started again"
        assert (await history(pool, "one"))[-1] == "/wake_up"
        assert (await history(pool, "two"))[-1] == "/sleep"
        async with pool.device_free():
            assert (await history(pool, "one"))[-1] == "/sleep"
            assert len(servers_left()) == 2
        assert (await history(pool, "one"))[-1] == "/sleep", "it comes back when it is asked"
        assert await pid_of(teacher) == first
        assert (await history(pool, "one"))[-1] == "/wake_up"


@pytest.mark.parametrize(("device", "how"), [("cuda", "stop"), ("cpu", "stop"), ("cpu", "sleep")])
async def test_a_server_that_was_stopped_comes_back_with_its_adapters(pooled, device, how):
    models = {"teacher": {"server": "one", "adapter": "a"}}
    async with pooled(ONE, models, device=device, while_training=how) as pool:
        teacher = await pool.model("teacher")
        first = await pid_of(teacher)
        async with pool.device_free():
            assert servers_left() == []
        again = await asyncio.gather(*[pid_of(teacher) for _ in range(5)])
        assert len(set(again)) == 1
        assert again[0] != first
        assert await history(pool, "one") == ["start", f"load {teacher.name}"]
        assert (await pool.model("teacher")) is teacher


THREE = {"one": {**ONE["one"], "replicas": 3}}
TAUGHT = {"teacher": {"server": "one", "adapter": "a"}}


def environment_of(pool, replica, variable):
    guard = psutil.Process(pool._servers["one"].processes[replica]._process.pid)
    return guard.environ().get(variable)


async def test_replicas_are_processes_with_the_same_adapters_and_the_same_identity(pooled):
    async with pooled(ONE, TAUGHT) as pool:
        alone = pool.model_id("teacher")
    async with pooled(THREE, TAUGHT, while_training="stop") as pool:
        teacher = await pool.model("teacher")
        assert teacher.id == alone and await pool.model("teacher") is teacher
        pids = [await pid_of(replica) for replica in teacher.replicas]
        assert len(set(pids)) == 3 and len(servers_left()) == 3
        name = teacher.replicas[0].name
        for replica in range(3):
            assert await history(pool, "one", replica) == ["start", f"load {name}"]
        told = pool.describe(teacher)
        assert told.count("http://127.0.0.1:") == told.count(".key") == 3
        async with pool.device_free():
            assert servers_left() == []
        again = await asyncio.gather(*[pid_of(replica) for replica in teacher.replicas])
        assert len({*pids, *again}) == 6
        assert await history(pool, "one", 2) == ["start", f"load {name}"]


async def test_replicas_share_the_cores_of_a_cpu(pooled, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(shares, "num_cores", lambda: 8)
    async with pooled({"one": {**ONE["one"], "replicas": 2}}, TAUGHT) as pool:
        await pool.model("teacher")
        assert [environment_of(pool, replica, "OMP_NUM_THREADS") for replica in (0, 1)] == ["3", "3"]


async def test_replicas_on_gpus_have_one_each_and_sleep_and_wake_together(pooled, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    async with pooled(THREE, TAUGHT, device="cuda") as pool:
        teacher = await pool.model("teacher")
        found = [environment_of(pool, replica, "CUDA_VISIBLE_DEVICES") for replica in range(3)]
        assert found == ["4", "5", "7"]
        pids = [await pid_of(replica) for replica in teacher.replicas]
        async with pool.device_free():
            assert [(await history(pool, "one", replica))[-1] for replica in range(3)] == ["/sleep"] * 3
        assert [await pid_of(replica) for replica in teacher.replicas] == pids
        assert [(await history(pool, "one", replica))[-1] for replica in range(3)] == ["/wake_up"] * 3


async def test_more_replicas_than_gpus_are_refused(pooled, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    async with pooled(THREE, TAUGHT, device="cuda") as pool:
        with pytest.raises(RecipeError, match=r"servers\.one\.replicas: 3 replicas need a GPU each.* 2"):
            await pool.model("teacher")
        assert servers_left() == []


async def test_calls_of_a_replica_that_died_go_to_the_others_until_none_is_left(pooled, store, monkeypatch):
    told: list[str] = []
    async with pooled(THREE, TAUGHT, told=told) as pool:
        teacher = await pool.model("teacher")
        engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]
        ask = engine.ask("teacher", teacher, spec, "generate", 1)
        await kill(teacher.replicas[1])
        pids = set()
        for number in range(60):
            asked = [ask([Message("user", f"hello {number}")], ordinal=ordinal) for ordinal in range(6)]
            pids |= {answer.text.rpartition(" ")[2] for answer in await asyncio.gather(*asked)}
            if any("one-2' died" in text for text in told):
                break
            await asyncio.sleep(0.1)
        assert sum("one-2' died" in text for text in told) == 1, told
        assert len(pids) == 2 and not engine.counts.failed
        assert (await pool.model("teacher")) is teacher
        monkeypatch.setattr(vllm_replicas, "MAX_RETURNS", 0)
        for replica in (0, 2):
            await kill(teacher.replicas[replica])
        with pytest.raises(ServerError, match="died"):
            while True:
                with suppress(EndpointError):
                    await teacher.complete(request())
                await asyncio.sleep(0.05)


async def test_where_no_replica_is_left_all_of_them_come_back(pooled, store):
    async with pooled(THREE, TAUGHT) as pool:
        teacher = await pool.model("teacher")
        pids = {await pid_of(replica) for replica in teacher.replicas}
        for replica in teacher.replicas:
            await kill(replica)
        engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]
        ask = engine.ask("teacher", teacher, spec, "generate", 1)
        asked = [ask([Message("user", f"hello {number}")]) for number in range(30)]
        after = {int(answer.text.rpartition(" ")[2]) for answer in await asyncio.gather(*asked)}
        assert after <= set(servers_left()) - pids and not engine.counts.failed
        assert len(servers_left()) == 3


async def kill(model) -> None:
    psutil.Process(await pid_of(model)).kill()


async def test_one_replica_that_does_not_start_leaves_none(pooled, monkeypatch):
    ports = []

    def command(_spec, _model, _device, port):
        ports.append(port)
        return [sys.executable, FAKE, "--port", str(port), *(["--die", "no"] if len(ports) == 2 else [])]

    async with pooled(THREE, TAUGHT) as pool:
        monkeypatch.setattr(vllm_server, "build_command", command)
        with pytest.raises(ServerError, match=r"'one-\d' did not start"):
            await pool.model("teacher")
        assert len(ports) == 3 and servers_left() == []


FACTORY = """
import asyncio, sys
from pathlib import Path
from factory.models import vllm_server
from factory.models.vllm_replicas import VllmReplicas
from factory.servers import VllmServer

folder, logs, fake = sys.argv[1:]
vllm_server.build_command = lambda _spec, _model, _device, port: [sys.executable, fake, "--port", str(port)]
vllm_server.find_device = lambda *_: "cpu"

async def main():
    spec = VllmServer(model="one", replicas=3)
    await VllmReplicas("one", spec, Path(folder), Path(logs), lambda text: None).start()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def test_no_replica_outlives_a_factory_that_was_killed(folder, tmp_path):
    words = [sys.executable, "-c", FACTORY, str(folder), str(tmp_path / "logs"), FAKE]
    factory = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert factory.stdout is not None and factory.stdout.readline() == "ready\n"
    started = psutil.Process(factory.pid).children(recursive=True)
    assert len([process for process in started if FAKE in process.cmdline()[1:2]]) == 3
    factory.kill()
    factory.wait()
    _, left = psutil.wait_procs(started, timeout=20)
    assert left == []


async def test_keep_keeps_the_gpu(pooled):
    async with pooled(ONE, {"teacher": {"server": "one"}}, device="cuda", while_training="keep") as pool:
        await pool.model("teacher")
        async with pool.device_free():
            assert await history(pool, "one") == ["start"]


async def test_training_that_fails_leaves_a_pool_that_works(pooled):
    async with pooled(ONE, {"teacher": {"server": "one"}}, device="cuda") as pool:
        teacher = await pool.model("teacher")
        with pytest.raises(ZeroDivisionError):
            async with pool.device_free():
                raise ZeroDivisionError
        await pid_of(teacher)


async def test_a_server_that_dies_is_started_again_with_its_adapters_and_its_log_is_kept(
    pooled, store, tmp_path
):
    told: list[str] = []
    adapter = {"teacher": {"server": "one", "adapter": "a"}}
    async with pooled(ONE, adapter, told=told) as pool:
        teacher = await pool.model("teacher")
        engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]
        ask = engine.ask("teacher", teacher, spec, "generate", 1)
        first = (await ask([Message("user", "hello")])).text
        logs = tmp_path / "logs"
        (logs / "one.log").write_text("IndexError: a fault of the engine\n")
        await kill(teacher)
        asked = [ask([Message("user", f"hello {number}")]) for number in range(20)]
        answers = {answer.text for answer in await asyncio.gather(*asked)}
        assert len(answers) == 1 and first not in answers
        assert answers.pop().split()[0] == first.split()[0] == teacher.name, "with its adapter"
        assert not engine.counts.failed and engine.counts.num_attempts > 21
        assert (logs / "one-died-1.log").read_text() == "IndexError: a fault of the engine\n"
        again = [text for text in told if "started again" in text]
        assert len(again) == 1
        assert "servers.one: the vLLM server 'one' died: IndexError: a fault of the engine" in again[0]
        assert "one-died-1.log" in again[0]


async def test_a_server_that_comes_back_is_asked_once_it_has_its_adapters(pooled):
    """At the same port too, where it has another key; nobody's call is refused meanwhile."""
    async with pooled(ONE, {"teacher": {"server": "one", "adapter": "a"}}) as pool:
        pool._port = vllm_server.find_free_port()
        teacher = await pool.model("teacher")
        before = await teacher.complete(request())
        await kill(teacher)
        process = pool._servers["one"]
        while process.is_running:  # noqa: ASYNC110 (until it is known to be dead)
            await asyncio.sleep(0.01)

        async def later(seconds: float) -> str:
            await asyncio.sleep(seconds)
            return (await teacher.complete(request())).text

        answers = await asyncio.gather(*[later(0.02 * number) for number in range(30)])
        assert {text.split()[0] for text in answers} == {teacher.name}
        assert before.text not in answers and len(set(answers)) == 1


async def test_a_server_that_comes_back_loads_no_other_adapter_under_the_old_name(pooled, folder, tmp_path):
    mine = shutil.copytree(folder / "a", tmp_path / "mine")
    base = shutil.copytree(folder / "one", tmp_path / "base")
    server = {"one": {"kind": "vllm", "model": str(base)}}
    changed = [
        (mine / "adapter_model.safetensors", folder / "b", f"cannot be loaded: {mine} does not hold it"),
        (base / "model.safetensors", folder / "two", f"cannot come back: {base} holds another model"),
    ]
    async with pooled(server, {"teacher": {"server": "one"}}) as pool:
        teacher = await pool.model("teacher", mine)
        for file, other, told in changed:
            await teacher.complete(request())
            before = file.read_bytes()
            shutil.copy(other / file.name, file)
            await kill(teacher)
            with pytest.raises(ServerError, match=told):
                for _ in range(100):
                    with suppress(EndpointError):
                        await teacher.complete(request())
                    await asyncio.sleep(0.05)
            file.write_bytes(before)
            assert (await teacher.complete(request())).text.split()[0] == teacher.name


async def test_a_proof_goes_on_where_its_server_dies_in_the_middle(pooled, folder, store, tmp_path):
    async with pooled(ONE, {"teacher": {"server": "one", "adapter": "a"}}) as pool:
        teacher = await pool.model("teacher")
        await teacher.complete(request())
        engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]

        def ask_at(place):
            return engine.for_run("run_1", apart=True).ask("teacher", place, spec, "prove", 1)

        seen = await look(teacher)
        assert await look(teacher) == seen
        items = [GoldItem("i", f"die once {tmp_path / 'died'}", "7 days", "s")]
        probing = Probing(items, ask_at, pool.base_id("teacher"))
        proof = await prove(teacher, read_proof(folder / "a"), folder / "a", probing)
        assert (proof.difference, proof.served_as) == (1.0, teacher.name)
        assert await look(teacher) != seen, "which says that it has to be proven again"
        assert (tmp_path / "died").exists() and engine.counts.num_attempts > 4


async def test_calls_wait_until_a_server_that_died_is_back_with_its_adapters(pooled, store):
    """None is sent to one that only just starts: it would be lost, or refused for want of its adapter."""
    adapter = {"teacher": {"server": "one", "adapter": "a", "max_retries": 0}}
    async with pooled(ONE, adapter) as pool:
        teacher = await pool.model("teacher")
        engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]
        ask = engine.ask("teacher", teacher, spec, "generate", 1)
        await ask([Message("user", "hello")])
        await kill_until_it_ended(pool, teacher)
        pooled.words[:] = ["--slow", "0.7"]
        asked = []
        for number in range(20):
            asked.append(asyncio.create_task(ask([Message("user", f"hello {number}")])))
            await asyncio.sleep(0.1)
        assert {answer.text.split()[0] for answer in await asyncio.gather(*asked)} == {teacher.name}
        assert engine.counts.num_attempts == 21


async def test_a_restart_whose_call_is_cancelled_is_made_by_the_next(pooled):
    async with pooled(ONE, {"teacher": {"server": "one", "adapter": "a"}}) as pool:
        teacher = await pool.model("teacher")
        await kill_until_it_ended(pool, teacher)
        pooled.words[:] = ["--slow", "0.5"]
        first = asyncio.create_task(teacher.complete(request()))
        while not servers_left():  # noqa: ASYNC110 (it is another process)
            await asyncio.sleep(0.01)
        first.cancel()
        answer = await teacher.complete(request())
        assert answer.text.split()[0] == teacher.name, "with its adapter"


async def test_a_call_that_is_lost_while_its_server_comes_back_does_not_end_the_run(pooled):
    """Between the end of one process and the start of the next it is not dead for good."""
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        teacher = await pool.model("teacher")
        await kill_until_it_ended(pool, teacher)
        server = pool._servers["one"]
        starting = asyncio.create_task(teacher.complete(request()))
        states = set()
        while not starting.done():
            states.add((server.has_died, server.is_running))
            server.raise_if_dead()
            await asyncio.sleep(0)
        assert states == {(True, False), (False, False), (False, True)}


async def test_one_that_dies_while_an_adapter_is_loaded_comes_back_with_it(pooled, folder):
    pooled.words[:] = ["--slow", "0.5"]
    async with pooled(ONE, {"teacher": {"server": "one"}, "student": {"server": "one"}}) as pool:
        before = await pid_of(await pool.model("teacher"))
        loading = asyncio.create_task(pool.model("student", folder / "b"))
        await asyncio.sleep(0.2)
        psutil.Process(before).kill()
        student = await loading
        answer = await student.complete(request())
        assert answer.text.split()[0] == student.name and await pid_of(student) != before


async def test_one_that_neither_answers_nor_ends_is_ended_and_started_again(
    pooled, folder, store, monkeypatch
):
    """As vLLM whose engine died while an adapter was loaded: who loads it waits, and holds up everybody."""
    monkeypatch.setattr(ending, "END_SECONDS", 0.5)
    async with pooled(ONE, {"teacher": {"server": "one"}, "student": {"server": "one"}}) as pool:
        teacher = await pool.model("teacher")
        engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]
        ask = engine.ask("teacher", teacher, spec, "generate", 1)
        before = (await ask([Message("user", "half")])).text
        loading = asyncio.create_task(pool.model("student", folder / "b"))
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*[ask([Message("user", f"hello {number}")]) for number in range(20)])
        assert before not in {answer.text for answer in answers} and not engine.counts.failed
        student = await loading
        assert (await student.complete(request())).text.split()[0] == student.name


async def test_one_that_was_killed_did_not_die_of_the_last_line_of_its_log(pooled):
    told: list[str] = []
    async with pooled(ONE, {"teacher": {"server": "one"}}, told=told) as pool:
        teacher = await pool.model("teacher")
        await kill_until_it_ended(pool, teacher)
        await pid_of(teacher)
    assert any("'one' died: it ended without a word, as what the system kills" in text for text in told), told


async def test_a_connection_that_breaks_says_nothing_of_a_server_that_is_well(pooled):
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        await pool.model("teacher")
        async with asyncio.timeout(ending.END_SECONDS / 2):
            process = pool._servers["one"].processes[0]
            await ending.wait_for_end(process, process.started)


async def test_who_asks_one_that_is_about_to_end_what_it_serves_is_told_by_the_next(pooled):
    pooled.words[:] = ["--children"]
    async with pooled(ONE, {"teacher": {"server": "one", "adapter": "a"}}) as pool:
        teacher = await pool.model("teacher")
        await kill(teacher)
        pooled.words.clear()
        assert set(await teacher.list_models()) == {"base", teacher.name}


async def test_a_call_is_lost_once_to_one_that_is_about_to_end(pooled, store):
    """However long that takes: it is not tried again where nobody can answer."""
    pooled.words[:] = ["--children"]
    async with pooled(ONE, {"teacher": {"server": "one", "max_retries": 1}}) as pool:
        teacher = await pool.model("teacher")
        engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]
        ask = engine.ask("teacher", teacher, spec, "generate", 1)
        await ask([Message("user", "hello")])
        await kill(teacher)
        pooled.words.clear()
        await asyncio.gather(*[ask([Message("user", f"hello {number}")]) for number in range(20)])
        assert engine.counts.num_attempts == 1 + 2 * 20 and not engine.counts.failed


async def test_one_that_is_about_to_end_needs_not_be_put_to_sleep(pooled):
    """Its guard is there as long as anything is that it started, and nobody answers."""
    pooled.words[:] = ["--children"]
    async with pooled(
        TWO, {"teacher": {"server": "one"}, "student": {"server": "two"}}, device="cuda"
    ) as pool:
        teacher = await pool.model("teacher")
        before = await pid_of(teacher)
        psutil.Process(before).kill()
        pooled.words.clear()
        student = await pool.model("student")
        await pid_of(student)
        assert await pid_of(teacher) != before


async def test_whoever_watches_a_model_that_others_ask_is_told_that_its_server_died(pooled):
    told: list[str] = []
    async with pooled(THREE, TAUGHT, told=told) as pool:
        model = await pool.model("teacher")
        watching = asyncio.create_task(pool.watch(model))
        pids = servers_left()
        psutil.Process(pids[0]).kill()
        while not any("its calls go to the other replicas" in text for text in told):
            await asyncio.sleep(0.1)
            assert not watching.done()
        for pid in pids[1:]:
            psutil.Process(pid).kill()
        with pytest.raises(ServerError, match="died"):
            await asyncio.wait_for(watching, 10)


async def test_closing_while_a_server_that_died_comes_back_leaves_none(pooled):
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        teacher = await pool.model("teacher")
        await kill_until_it_ended(pool, teacher)
        starting = asyncio.create_task(teacher.complete(request()))
        while pool._servers["one"].has_died:  # noqa: ASYNC110 (it is another process)
            await asyncio.sleep(0)
        assert not servers_left(), "between the two"
        await pool.close()
        with pytest.raises(ServerError, match=r"closed|did not start"):  # whichever comes first
            await starting
        assert not servers_left()


async def test_calls_that_come_back_together_leave_no_connection_open(pooled, monkeypatch):
    opened = []
    open_model = vllm_server.VllmProcess.open_model

    def counted(*arguments):
        opened.append(open_model(*arguments))
        return opened[-1]

    monkeypatch.setattr(vllm_server.VllmProcess, "open_model", counted)
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        teacher = await pool.model("teacher")
        await kill_until_it_ended(pool, teacher)
        await asyncio.gather(*[pid_of(teacher) for _ in range(20)])
        assert len(opened) == 2, "one for each start"


async def kill_until_it_ended(pool, model) -> None:
    await kill(model)
    while pool._servers["one"].is_running:  # noqa: ASYNC110 (it is another process)
        await asyncio.sleep(0.01)


async def test_one_that_dies_again_and_again_is_an_error_of_the_run(pooled, store, monkeypatch, tmp_path):
    told: list[str] = []
    async with pooled(ONE, {"teacher": {"server": "one"}}, told=told) as pool:
        teacher = await pool.model("teacher")
        engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]
        ask = engine.ask("teacher", teacher, spec, "generate", 1)
        for number in range(vllm_replicas.MAX_RETURNS + 1):
            await ask([Message("user", f"hello {number}")])
            await kill(teacher)
        with pytest.raises(ServerError, match="died"):
            await ask([Message("user", "one more")])
        assert sum("started again" in text for text in told) == vllm_replicas.MAX_RETURNS
        kept = {f"one-died-{number}.log" for number in range(1, vllm_replicas.MAX_RETURNS + 1)}
        assert {path.name for path in (tmp_path / "logs").glob("*.log")} == {"one.log"} | kept
        monkeypatch.setattr(vllm_replicas, "HOUR_SECONDS", 0.0)
        await ask([Message("user", "an hour later")])


async def test_one_that_does_not_come_back_is_told_and_tried_again_by_whoever_asks_next(pooled):
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        teacher = await pool.model("teacher")
        await kill(teacher)
        while pool._servers["one"].is_running:  # noqa: ASYNC110 (it is another process)
            await asyncio.sleep(0.01)
        pooled.words[:] = ["--die", "RuntimeError: out of memory"]
        for _ in range(2):
            with pytest.raises(ServerError, match="did not start: RuntimeError: out of memory"):
                await teacher.complete(request())
        pooled.words.clear()
        await teacher.complete(request())


async def test_a_call_that_kills_its_server_each_time_ends_the_run_soon(pooled, store):
    told: list[str] = []
    async with pooled(ONE, {"teacher": {"server": "one"}}, told=told) as pool:
        teacher = await pool.model("teacher")
        engine, spec = Engine(store, Budget(BudgetSpec()), "run_1"), pool._recipe.models["teacher"]
        ask = engine.ask("teacher", teacher, spec, "generate", 1)
        await ask([Message("user", "hello")])
        with pytest.raises(ServerError, match="died"):
            await ask([Message("user", "die")])
        assert sum("started again" in text for text in told) == 1


async def test_one_that_died_in_its_sleep_is_started_again(pooled):
    async with pooled(ONE, {"teacher": {"server": "one"}}, device="cuda", while_training="sleep") as pool:
        teacher = await pool.model("teacher")
        before = await pid_of(teacher)
        async with pool.device_free():
            psutil.Process(before).kill()
            while pool._servers["one"].is_running:  # noqa: ASYNC110 (it is another process)
                await asyncio.sleep(0.01)
        assert await pid_of(teacher) != before


async def test_a_server_that_died_without_an_answer_is_an_error_of_the_run_not_of_a_call(pooled):
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        teacher = await pool.model("teacher")
        for _ in range(100):
            try:
                await teacher.complete(request("die"))
            except EndpointError as error:
                assert error.kind == "unreachable"
                await asyncio.sleep(0.1)
            except ServerError as error:
                assert "died" in str(error)
                break
        else:
            raise AssertionError("it was never told")
        with pytest.raises(ServerError, match="died"):
            await pool.model("teacher")


async def test_a_start_that_fails_is_told_and_nothing_is_left(pooled):
    pooled.words[:] = ["--die", "RuntimeError: no such kernel"]
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        for _ in range(2):
            with pytest.raises(ServerError, match="no such kernel"):
                await pool.model("teacher")
        assert servers_left() == []


async def test_closing_twice_and_while_a_server_starts(pooled):
    pooled.words[:] = ["--never-ready"]
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        starting = asyncio.create_task(pool.model("teacher"))
        while not servers_left():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await pool.close()
        await pool.close()
        with pytest.raises(ServerError):
            await starting
        with pytest.raises(ServerError, match="closed"):
            await pool.model("teacher")


async def test_cancelling_a_start(pooled):
    pooled.words[:] = ["--never-ready"]
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        starting = asyncio.create_task(pool.model("teacher"))
        while not servers_left():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert servers_left() == []


async def test_bad_input_is_told_before_a_server_starts(pooled, tmp_path):
    refused = make_adapter(tmp_path / "dora", config={"use_dora": True})
    servers = {**ONE, "none": {"kind": "vllm", "model": "../none/such"}}
    models = {"teacher": {"server": "one", "adapter": "none"}, "student": {"server": "none"}}
    async with pooled(servers, {**models, "refiner": {"server": "one"}}) as pool:
        with pytest.raises(RecipeError, match=r"models\.teacher\.adapter: there is no adapter directory"):
            await pool.model("teacher")
        with pytest.raises(RecipeError, match=r"models\.refiner\.adapter.*DoRA"):
            await pool.model("refiner", refused)
        with pytest.raises(RecipeError, match=r"servers\.none\.model"):
            await pool.model("student")
    async with pooled(ONE, {"teacher": {"server": "one"}}) as pool:
        with pytest.raises(RecipeError, match=r"models\.student"):
            await pool.model("student")
        assert servers_left() == []


async def test_endpoints(pooled, folder, monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    async with FakeEndpoint([answer("yes")], api_key="sesame") as endpoint:
        server = {"kind": "endpoint", "base_url": endpoint.base_url, "api_key_env": "TEST_KEY"}
        servers = {"plain": server, "loads": {**server, "can_load_adapters": True, "structured": False}}
        models = {
            "teacher": {"server": "plain", "model": "fake"},
            "student": {"server": "loads", "model": "fake"},
        }
        async with pooled(servers, models) as pool:
            with pytest.raises(RecipeError, match=r"servers\.plain\.api_key_env: .*TEST_KEY is not set"):
                await pool.model("teacher")
            monkeypatch.setenv("TEST_KEY", "sesame")
            teacher = await pool.model("teacher")
            assert (await teacher.complete(request())).text == "yes"
            assert await pool.model("teacher") is teacher
            with pytest.raises(RecipeError, match="can_load_adapters"):
                await pool.model("teacher", folder / "a")
            for _ in range(2):
                trained = await pool.model("student", folder / "a")
            assert endpoint.adapters == {trained.name: str(folder / "a")}
            await trained.complete(request())
            assert endpoint.requests[-1]["model"] == trained.name
            async with pool.device_free():
                assert (await teacher.complete(request())).text == "yes"
            assert "sesame" not in pool.describe(teacher) + teacher.id


async def test_an_endpoint_at_several_addresses_loads_adapters_at_each(pooled, folder):
    async with FakeEndpoint([answer("one")]) as first, FakeEndpoint([answer("two")]) as second:
        server = {"kind": "endpoint", "base_url": first.base_url, "can_load_adapters": True}
        more = {**server, "further_base_urls": [second.base_url]}
        models = {"teacher": {"server": "one", "model": "fake"}}
        async with pooled({"one": more}, models) as pool:
            plain, trained = await pool.model("teacher"), await pool.model("teacher", folder / "a")
            texts = [(await replica.complete(request())).text for replica in trained.replicas]
            assert texts == ["one", "two"]
            name = trained.replicas[0].name
            assert first.adapters == second.adapters == {name: str(folder / "a")}
            ids = [plain.id, trained.id]
        async with pooled({"one": server}, models) as pool:
            assert ids == [pool.model_id("teacher"), pool.model_id("teacher", folder / "a")]


async def test_an_address_that_is_down_does_not_stop_the_others(pooled, folder):
    """The adapter is loaded where somebody answers; where nobody does, the call fails."""
    down, told = "http://127.0.0.1:9/v1", []
    models = {"teacher": {"server": "one", "model": "fake"}}
    async with FakeEndpoint([answer("one")]) as endpoint:
        server = {"kind": "endpoint", "base_url": down, "can_load_adapters": True}
        more = {**server, "further_base_urls": [endpoint.base_url]}
        async with pooled({"one": more}, models, told=told) as pool:
            trained = await pool.model("teacher", folder / "a")
            assert (await trained.replicas[1].complete(request())).text == "one"
            assert endpoint.adapters == {trained.replicas[1].name: str(folder / "a")}
        assert down in told[0]
        refusing = {**more, "further_base_urls": [endpoint.base_url, endpoint.base_url + "/odd"]}
        async with pooled({"one": refusing}, models) as pool:
            with pytest.raises(EndpointError, match="answered 404"):
                await pool.model("teacher", folder / "a")
    async with pooled({"one": {**server, "further_base_urls": [down]}}, models) as pool:
        with pytest.raises(EndpointError, match="cannot load"):
            await pool.model("teacher", folder / "a")


async def test_a_server_that_is_added_while_others_fall_asleep_disturbs_nobody(pooled):
    async with pooled(TWO, TAUGHT, device="cuda") as pool:
        await pool.model("teacher")
        sleeping = pool._put_to_sleep("cuda")

        async def add() -> None:
            await asyncio.sleep(0)
            pool._process("two", pool._recipe.servers["two"])

        await asyncio.gather(sleeping, add())


async def test_scripts(pooled):
    told: list[str] = []
    servers = {"dry": {"kind": "scripted"}, "odd": {"kind": "scripted", "script": "odd"}}
    async with pooled(
        servers, {"teacher": {"server": "dry"}, "student": {"server": "odd"}}, told=told
    ) as pool:
        teacher = await pool.model("teacher")
        assert teacher.id == pool.model_id("teacher") == "scripted:echo"
        assert (await teacher.complete(request("hello"))).text == "hello"
        assert "DRY RUN" in told[0]
        with pytest.raises(RecipeError, match=r"servers\.odd\.script: .*known: echo"):
            await pool.model("student")


@pytest.mark.parametrize("status", [401, 500])
async def test_a_refused_adapter_is_told_without_key_and_password(monkeypatch, folder, status):
    class Refusing(FakeEndpoint):
        async def _load(self, _: web.Request) -> web.Response:
            return web.json_response({"error": {"message": "the key sesame is wrong"}}, status=status)

    async with Refusing([answer("yes")]) as endpoint:
        address = endpoint.base_url.replace("http://", "http://me:openup@")
        for url in (address, "http://me:openup@127.0.0.1:9/v1"):
            with pytest.raises(EndpointError) as caught:
                await load_adapter(url, "sesame", "a", folder / "a", "servers.main")
            assert "***@127.0.0.1" in str(caught.value)
            assert not [word for word in ("sesame", "openup") if word in str(caught.value)]
