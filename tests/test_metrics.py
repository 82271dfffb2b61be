"""What Prometheus reads while a command runs: the figures of the progress line, on loopback alone."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections import Counter
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from factory.budget import Budget
from factory.cli import main
from factory.engine import Engine
from factory.errors import EndpointError, InputError
from factory.init import write_template
from factory.metrics import serve_metrics
from factory.models.pool import ModelPool
from factory.models.scripted import ScriptedModel
from factory.models.vllm_server import find_free_port
from factory.progress import Progress
from factory.recipe import BudgetSpec, ModelSpec, Price
from factory.store.store import Store
from factory.types import Completion, Message
from factory.watch import Watch

SPEC = ModelSpec(server="main", concurrency=6, max_retries=0, price=Price(prompt=1e6, completion=0.0))


def read(port: int) -> dict[tuple[str, ...], float]:
    """Value by name and labels, these by their names."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain")
        text = reply.read().decode()
    return {
        (sample.name.removeprefix("factory_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def answer(request):
    if request.ordinal == 4:
        return EndpointError("no", kind="refused", retryable=False)
    return Completion("yes", prompt_tokens=3, completion_tokens=2)


async def test_the_figures_are_those_of_the_engine_and_the_stage(tmp_path: Path) -> None:
    port, progress = find_free_port(), Progress(io.StringIO())
    with Store.open(tmp_path) as store:
        engine = Engine(store, Budget(BudgetSpec()), "run_1")
        ask = engine.ask("teacher", ScriptedModel(answer), SPEC, "generate", 1)
        with serve_metrics(port, engine, progress), progress.stage("round 1 generate", 9) as stage:
            assert (await asyncio.to_thread(read, port))["calls_answered_total",] == 0
            asked = [ask([Message("user", "hello")], ordinal=ordinal) for ordinal in range(5)]
            await asyncio.gather(*asked, return_exceptions=True)
            await ask([Message("user", "hello")], ordinal=0)
            watch = Watch(engine, stage)
            watch.made(5)
            watch.refined(Counter(keep=3, drop=1))
            async with engine.slots["main"].slot():
                found = await asyncio.to_thread(read, port)
    of_stage = "round 1 generate"
    assert (
        found.items()
        >= {
            ("samples_made_total", of_stage): 5,
            ("samples_accepted_total", of_stage): 3,
            ("samples_refined_total", "keep", of_stage): 3,
            ("samples_refined_total", "drop", of_stage): 1,
            ("samples_refined_total", "rewrite", of_stage): 0,
            ("stage_done", of_stage): 5,
            ("stage_planned", of_stage): 9,
            ("calls_answered_total",): 4,
            ("calls_found_total",): 1,
            ("calls_failed_total", "refused"): 1,
            ("tokens_total", "prompt"): 12,
            ("tokens_total", "completion"): 8,
            ("dollars_total",): 12,
            ("calls_in_flight", "0", "main"): 1,
            ("concurrency_limit", "0", "main"): 6,
            ("replica_up", "0", "main"): 1,
        }.items()
    )
    assert found["calls_per_second",] > 0
    with pytest.raises(URLError):
        read(port)


def test_nothing_listens_beyond_loopback_and_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    progress = Progress(io.StringIO())
    with Store.open(tmp_path) as store, socket.socket() as taken:
        engine = Engine(store, Budget(BudgetSpec()), "run_1")
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = f"--metrics: port {port} of 127.0.0.1.*choose another"
        with pytest.raises(InputError, match=told), serve_metrics(port, engine, progress):
            pass
        port = find_free_port()
        with serve_metrics(port, engine, progress), socket.socket() as other:
            other.bind(("127.0.0.2", port))  # would be taken, were it served at every address


@pytest.mark.parametrize("command", ["run", "generate", "refine"])
def test_commands_serve_them_while_they_run(tmp_path: Path, command: str, capsys, monkeypatch) -> None:
    write_template(tmp_path / "domain")
    port, found, close = find_free_port(), [], ModelPool.close

    async def look(pool: ModelPool) -> None:
        found.append(await asyncio.to_thread(read, port))
        await close(pool)

    monkeypatch.setattr(ModelPool, "close", look)
    words = [command, str(tmp_path / "domain"), "-w", str(tmp_path / "w"), "--metrics", str(port), "--json"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert f"metrics at http://127.0.0.1:{port}/metrics" in captured.err
    assert json.loads(captured.out)
    assert found[0]["calls_answered_total",] > 0
    stages = {key[1]: value for key, value in found[0].items() if key[0] == "samples_accepted_total"}
    if command != "generate":
        assert sum(stages.values()) > 0
