"""`factory run` over an endpoint's Batch API: the same samples, even after kill -9; and a preview without."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest
import yaml
from fake_batches import FakeBatches
from fake_endpoint import FakeEndpoint, Status, answer
from tiny_llama import make_adapter

from factory import session
from factory.calls import Call, Purpose, answered_row
from factory.errors import RecipeError
from factory.init import write_template
from factory.models.batch_endpoint import EndpointCarrier
from factory.models.batch_lines import request_line
from factory.models.batch_log import BatchLog
from factory.models.chat import ChatRequests
from factory.models.pool import ModelPool
from factory.models.scripted import echo
from factory.progress import Progress
from factory.recipe import ModelSpec
from factory.slots import Slots
from factory.store.store import Store
from factory.types import Completion, Message, Request, Sampling


def reply(body) -> Status:
    """What the scripted model would say to it."""
    messages = tuple(Message(turn["role"], turn["content"]) for turn in body["messages"])
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    seed = body.get("seed")
    return answer(echo(Request("m", messages, schema, Sampling(seed=seed))))


async def run(folder: Path, workspace: Path) -> asyncio.subprocess.Process:
    words = [sys.executable, "-m", "factory", "run", str(folder), "-p", "far", "-w", str(workspace), "--json"]
    return await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def test_a_preview_asks_at_once(tmp_path):
    """Its workspace is deleted in the end: a batch would be paid for and never collected."""
    write_template(tmp_path / "domain")
    async with FakeEndpoint(reply) as endpoint:
        far = {"kind": "endpoint", "base_url": endpoint.base_url, "batch": True}
        profile = {"servers": {"far": far}, "models": {"teacher": {"server": "far", "model": "big"}}}
        (tmp_path / "domain" / "profiles" / "far.yaml").write_text(yaml.safe_dump(profile))
        quiet = Progress(bars=False)
        found = await asyncio.to_thread(session.preview, tmp_path / "domain", "far", 4, quiet)
    assert len(found["samples"]) == 4
    assert endpoint.requests


DECIDED = """
    SELECT s.content_hash, d.action, d.reason, s.strategy FROM round_samples r
    JOIN samples s ON s.id = r.sample_id JOIN decisions d ON d.sample_id = s.id AND d.final
    ORDER BY r.position"""


async def test_samples_and_decisions_are_those_of_single_calls(tmp_path):
    write_template(tmp_path / "domain")
    found, batches = [], FakeBatches(reply)
    for batch, endpoint in ((False, FakeEndpoint(reply)), (True, batches)):
        async with endpoint:
            far = {"kind": "endpoint", "base_url": endpoint.base_url, "batch": batch}
            teacher = {"server": "far", "model": "big", "concurrency": 5}
            profile = {"servers": {"far": far}, "models": {"teacher": teacher}}
            (tmp_path / "domain" / "profiles" / "far.yaml").write_text(yaml.safe_dump(profile))
            workspace, quiet = tmp_path / f"w{batch}", Progress(bars=False)
            await asyncio.to_thread(session.run, tmp_path / "domain", "far", workspace, quiet)
        with Store.open(workspace) as store:
            found.append(store.select(DECIDED))
    assert len(found[0]) >= 24
    assert found[0] == found[1]
    sizes = batches.sizes()
    assert max(sizes) == 5
    assert len(sizes) <= sum(sizes) / 5 + 2, "few that are not full"


@pytest.mark.parametrize("num_out", [1, 2])
async def test_kill_9_while_a_batch_is_out(tmp_path, num_out):
    write_template(tmp_path / "domain")
    async with FakeBatches(reply, num_free=num_out - 1) as endpoint:
        far = {"kind": "endpoint", "base_url": endpoint.base_url, "batch": True}
        teacher = {"server": "far", "model": "big", "concurrency": 12}
        profile = {"servers": {"far": far}, "models": {"teacher": teacher}}
        (tmp_path / "domain" / "profiles" / "far.yaml").write_text(yaml.safe_dump(profile))
        first = await run(tmp_path / "domain", tmp_path / "w")
        async with asyncio.timeout(60):
            while len(endpoint.batches) < num_out:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        first.kill()
        _, told = await first.communicate()
        assert first.returncode == -9, told.decode()
        endpoint.num_free = 99
        second = await run(tmp_path / "domain", tmp_path / "w")
        out, told = await second.communicate()
    assert second.returncode == 0, told.decode()
    assert json.loads(out)["run"]["id"]
    asked = [json.dumps(body, sort_keys=True) for body in endpoint.bodies]
    assert len(asked) == len(set(asked)), "nothing was run twice"
    with Store.open(tmp_path / "w") as store:
        rows = store.select("SELECT status, count(*) AS n, sum(attempts) AS m FROM calls GROUP BY ALL")
        assert rows == [{"status": "ok", "n": len(asked), "m": len(asked)}]
        assert store.select("SELECT * FROM batches WHERE status = 'lost'") == []


def left_batch(domain, workspace: Path, adapter: Path | None = None) -> Path:
    """A batch with one call to the teacher, or to a student that the run trained; its folder."""
    with Store.open(workspace) as store:
        pool = ModelPool(domain.recipe, domain.folder, workspace, print)
        log = BatchLog(store, session.name_run(domain, pool))
        model_id = pool.model_id("student" if adapter else "teacher", adapter)
        if adapter:
            row = {"id": model_id, "role": "student", "name": "s", "base": "b", "run_id": log._run_id}
            store.append("models", [row])
        request = Request(model_id, (Message("user", "x"),), None, Sampling())
        line = request_line(request.id, ChatRequests("m").encode(request))
        return log.prepare("batch_1", model_id, {request.id: line}).folder


@pytest.mark.parametrize("trained", [False, True])
async def test_batches_are_not_turned_off_while_one_is_out(tmp_path, trained):
    """Its calls would be asked one by one, and paid twice."""
    write_template(tmp_path / "domain")
    make_adapter(tmp_path / "adapter")
    far = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1", "can_load_adapters": True}
    student = {"server": "far", "model": "small"}
    models = {"teacher": {"server": "main" if trained else "far", "model": "big"}, "student": student}
    profile = tmp_path / "domain" / "profiles" / "far.yaml"

    async def open_with(**keys) -> None:
        servers = {"far": {**far, **keys}, "main": {"kind": "scripted"}}
        profile.write_text(yaml.safe_dump({"servers": servers, "models": models}))
        async with session.open_bench(
            session.open_domain(tmp_path / "domain", "far"), tmp_path / "w", Progress(bars=False)
        ):
            pass

    await open_with(batch=True)
    domain = session.open_domain(tmp_path / "domain", "far")
    folder = left_batch(domain, tmp_path / "w", tmp_path / "adapter" if trained else None)
    await open_with(batch=True)
    with pytest.raises(RecipeError, match=r"servers\.far\.batch: batch_1 is out"):
        await open_with(batch=False)
    (folder / "requests.jsonl").unlink()
    await open_with(batch=False)


async def test_kill_9_while_files_are_deleted(tmp_path):
    """The next run deletes what is left, although all is in the store and it asks nothing."""
    write_template(tmp_path / "domain")
    async with FakeBatches(reply) as endpoint:
        far = {"kind": "endpoint", "base_url": endpoint.base_url, "batch": True}
        teacher = {"server": "far", "model": "big", "concurrency": 99}
        profile = {"servers": {"far": far}, "models": {"teacher": teacher}}
        (tmp_path / "domain" / "profiles" / "far.yaml").write_text(yaml.safe_dump(profile))
        endpoint.holds_deletions = True
        first = await run(tmp_path / "domain", tmp_path / "w")
        before = -1
        async with asyncio.timeout(60):  # until nothing is on its way: no upload without its batch
            while not endpoint.num_held or len(endpoint.files) + len(endpoint.batches) != before:
                before = len(endpoint.files) + len(endpoint.batches)
                await asyncio.sleep(1.0)
        first.kill()
        _, told = await first.communicate()
        assert first.returncode == -9, told.decode()
        assert endpoint.files
        unknown = tmp_path / "w" / "batches" / "bat_killed_before_its_row_was_written"
        unknown.mkdir()
        (unknown / "requests.jsonl").write_text("{}\n")
        endpoint.holds_deletions = False
        second = await run(tmp_path / "domain", tmp_path / "w")
        _, told = await second.communicate()
    assert second.returncode == 0, told.decode()
    assert endpoint.files == {}
    assert not list((tmp_path / "w" / "batches").iterdir())
    with Store.open(tmp_path / "w") as store:
        (ended,) = store.select(
            "SELECT count(DISTINCT id) AS num, count(*) FILTER (status = 'done') AS done FROM batches"
        )
    assert ended["num"] == ended["done"] == len(endpoint.batches)


async def store_answers(workspace: Path, endpoint: FakeBatches) -> None:
    """Carries the batch that was left, up to its answers in the store: what kill -9 then leaves."""
    carrier = EndpointCarrier(endpoint.base_url, None)
    with Store.open(workspace) as store:
        log = BatchLog(store, "run_1")
        (batch,) = log.open_batches()
        batch.remote_id = await carrier.submit(batch, perhaps_sent=False)
        log.record(batch, "submitted")
        await carrier.collect(batch)
        log.record(batch, "collected")
        call = Call(batch.call_ids[0], Request(batch.model_id, (), None, Sampling()), PURPOSE)
        store.append("calls", [answered_row(call, "run_1", Completion("X"), 0.0)])
    await carrier.close()


PURPOSE = Purpose("teacher", (), ModelSpec(server="far"), Slots(1), "generate", 1)


@pytest.mark.parametrize("is_batched", [True, False])
@pytest.mark.parametrize("is_trained", [False, True])
async def test_a_batch_of_which_all_is_stored_is_closed_although_its_model_is_not_asked(
    tmp_path, is_trained, is_batched
):
    write_template(tmp_path / "domain")
    make_adapter(tmp_path / "adapter")
    async with FakeBatches() as endpoint:
        far = {"kind": "endpoint", "base_url": endpoint.base_url, "can_load_adapters": True}
        models = {role: {"server": "far", "model": role} for role in ("teacher", "student")}
        profile = tmp_path / "domain" / "profiles" / "far.yaml"
        profile.write_text(
            yaml.safe_dump({"servers": {"far": {**far, "batch": is_batched}}, "models": models})
        )
        domain, quiet = session.open_domain(tmp_path / "domain", "far"), Progress(bars=False)
        folder = left_batch(domain, tmp_path / "w", tmp_path / "adapter" if is_trained else None)
        await store_answers(tmp_path / "w", endpoint)
        async with session.open_bench(domain, tmp_path / "w", quiet) as bench:
            assert bench.pool.batched.log.open_batches() == []
        assert endpoint.files == {}
    assert not folder.exists()
    with Store.open(tmp_path / "w") as store:
        assert store.select("SELECT id FROM batches WHERE status = 'done'") == [{"id": "batch_1"}]


async def test_a_batch_of_another_recipe_is_left_to_it(tmp_path):
    """Where it went, and with which key, is not known here."""
    write_template(tmp_path / "domain")
    async with FakeBatches() as endpoint:
        far = {"kind": "endpoint", "base_url": endpoint.base_url, "batch": True}
        profile = tmp_path / "domain" / "profiles" / "far.yaml"
        for model in ("big", "other"):
            models = {"teacher": {"server": "far", "model": model}}
            profile.write_text(yaml.safe_dump({"servers": {"far": far}, "models": models}))
            domain = session.open_domain(tmp_path / "domain", "far")
            if model == "big":
                folder = left_batch(domain, tmp_path / "w")
                await store_answers(tmp_path / "w", endpoint)
        async with session.open_bench(domain, tmp_path / "w", Progress(bars=False)):
            pass
        assert len(endpoint.files) == 2 and folder.exists()
