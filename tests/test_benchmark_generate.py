"""The benchmark's command runs, small: every contender that needs no installation, faults, and the kill."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from factory.errors import EndpointError
from factory.models.client import EndpointModel
from factory.types import Message, Request, Sampling

ROOT = Path(__file__).parents[1]


def test_all_contenders_answer_and_nothing_is_lost():
    words = [sys.executable, "-m", "benchmarks.generate", "--requests", "120", "--in-flight", "16", "--kill"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert "failed" not in str(results), results
    for name, result in results.items():
        assert result["samples"] == 120, name
        assert result["cpu_seconds"] > 0 and 20 < result["peak_mib"] < 4000
    killed = results["ours, killed half way"]
    assert killed["answered_before"] >= 60
    assert 0 < killed["paid_twice"] <= killed["allowed"]


def test_memory_is_told_at_each_size():
    words = [sys.executable, "-m", "benchmarks.memory", "--samples", "40", "80", "--in-flight", "16"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]
    assert {int(size): found["samples"] for size, found in results.items()} == {40: 40, 80: 80}
    for found in results.values():
        assert 20 < found["peak_mib"] < 4000 and found["file_mib"] > 0
        assert found["duckdb_mib"] + found["other_mib"] <= found["peak_mib"] + 1


@pytest.fixture
def endpoint_of(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(ROOT)
    from benchmarks.endpoint import Behaviour, endpoint

    return lambda **options: endpoint(Behaviour(delay_ms=1, **options))


async def outcomes(base_url: str, num_requests: int, seed: int = 0) -> list[str]:
    model = EndpointModel(base_url, "bench", "id", None, 20.0)
    kinds = []
    for number in range(num_requests):
        try:
            asked = Request("id", (Message("user", f"{number}"),), None, Sampling(seed=seed))
            json.loads((await model.complete(asked)).text)
            kinds.append("ok")
        except EndpointError as error:
            kinds.append(error.kind)
        except ValueError:
            kinds.append("cut")
    await model.close()
    return kinds


def test_faults_come_in_their_shares_and_again_the_same(endpoint_of):
    shares = {"rate_limited": 0.1, "server_error": 0.1, "malformed": 0.2, "dropped": 0.1, "seed": 3}
    runs = []
    for _ in range(2):
        with endpoint_of(**shares) as server:
            runs.append(asyncio.run(outcomes(server.base_url, 200)))
            counts = server.counts()
    assert runs[0] == runs[1]
    for kind, least in (("rate_limited", 8), ("server_error", 8), ("unreachable", 8), ("malformed", 8)):
        assert runs[0].count(kind) >= least, kind
    assert counts["ok"] == runs[0].count("ok") == counts["distinct"]
    assert counts["paid_twice"] == 0


def test_calls_that_are_paid_twice_are_counted(endpoint_of):
    with endpoint_of() as server:
        asyncio.run(outcomes(server.base_url, 5))
        asyncio.run(outcomes(server.base_url, 3))
        asyncio.run(outcomes(server.base_url, 2, seed=1))
        assert server.counts()["distinct"] == 7
        assert server.counts()["paid_twice"] == 3
