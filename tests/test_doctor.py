from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory import cli
from factory.doctor import examine, judge_gpus
from factory.store.store import Store


def found(workspace: Path) -> dict[str, tuple[str, str]]:
    return {finding.what: (finding.status, finding.found) for finding in examine(workspace)}


def test_everything_is_looked_at_and_advice_goes_with_trouble(tmp_path: Path) -> None:
    findings = examine(tmp_path)
    assert [finding.what for finding in findings] == [
        *(
            "Python",
            "packages",
            "training packages",
            "vLLM",
            "processors",
            "GPU",
            "memory",
            "disk",
            "database",
        )
    ]
    assert all(bool(finding.advice) == (finding.status != "ok") for finding in findings)
    assert "duckdb 2" in findings[1].found


def test_the_database_is_opened_and_one_that_cannot_be_is_a_failure(tmp_path: Path) -> None:
    assert found(tmp_path)["database"][0] == "ok"
    with Store.open(tmp_path):
        pass
    assert "opens, 0 runs" in found(tmp_path)["database"][1]
    (tmp_path / "factory.duckdb").write_bytes(b"no database at all")
    assert found(tmp_path)["database"][0] == "fail"


def test_a_failure_is_exit_code_1_and_json_holds_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", "-w", str(tmp_path), "--json"]) == 0
    assert {"status", "what", "found", "advice"} == set(json.loads(capsys.readouterr().out)[0])
    (tmp_path / "factory.duckdb").write_bytes(b"no database at all")
    assert cli.main(["doctor", "-w", str(tmp_path)]) == 1
    assert "fail" in capsys.readouterr().out


def test_a_workspace_that_is_not_there_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    status, text = found(tmp_path / "a" / "b")["disk"]
    assert str(tmp_path) in text
    assert status in ("ok", "warn")


def test_gpus_are_told_with_their_memory() -> None:
    listing = "NVIDIA H100 80GB HBM3, 81559, 81000\n"
    assert judge_gpus(listing, has_vllm=True).status == "ok"
    assert "79 of 80 GiB free" in judge_gpus(listing, has_vllm=True).found
    assert "serve-cuda" in judge_gpus(listing, has_vllm=False).advice
    assert "gpu_memory_utilization" in judge_gpus("A, 24000, 3000\n", has_vllm=True).advice
    assert judge_gpus("", has_vllm=True).status == "warn"
    assert "? of ? GiB" in judge_gpus("NVIDIA GB10, [N/A], [N/A]\n", has_vllm=True).found
