"""Base and adapters side by side on one real vLLM: the recipe's items, a suite's tasks, and swapped files."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from real_server import serving
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from factory.by_hand import find_contender
from factory.cli import main
from factory.contender import Contender, proven
from factory.errors import FactoryError
from factory.models.identity import digest_adapter
from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.store.queries import read

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "georgia_workers_comp"
MODELS = ROOT / "tiny" / "models"
QUIET = Progress(bars=False)
TASKS = {"other_law", "which_repeats"}


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A profile whose student is at a vLLM that runs already and may load adapters."""
    folder = tmp_path_factory.mktemp("side")
    with serving(folder, MODELS / "base") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIDE_KEY", server.key)
        here = {"kind": "endpoint", "base_url": server.base_url, "api_key_env": "SIDE_KEY"}
        text = yaml.safe_load((RECIPE / "profiles" / "tiny.yaml").read_text())
        text["servers"]["here"] = here | {"can_load_adapters": True}
        text["models"]["student"] |= {"server": "here", "model": "base"}
        text["training"]["student"]["base"] = str(MODELS / "base")
        file = folder / "side.yaml"
        file.write_text(yaml.safe_dump(text))
        yield file


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A copy of the teacher's adapter, which may be spoilt."""
    return Path(shutil.copytree(MODELS / "teacher", tmp_path / "teacher"))


def words(profile: Path, workspace: Path, *more: str) -> list[str]:
    return ["evaluate", str(RECIPE), "-p", str(profile), "-w", str(workspace), *more]


def test_base_and_adapters_are_asked_the_same_items(profile, tmp_path, capsys) -> None:
    models = [f"--model={each}" for each in ("base", MODELS / "teacher", MODELS / "refiner")]
    asked = words(profile, tmp_path / "w", "--split", "dev", "--json", *models)
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)["models"]
    base, teacher, refiner = found
    assert base["mean"] == 0 and teacher["mean"] > 0.1
    assert [each["digest"] for each in found[1:]] == [
        digest_adapter(MODELS / name)[0] for name in ("teacher", "refiner")
    ]
    assert teacher["difference"]["gain"] == teacher["mean"] and teacher["difference"]["p_value"] < 0.05
    for each in (teacher, refiner):
        assert each["served"]["difference"] > 0.1 and each["served"]["note"] == ""
    counts = (
        "SELECT e.model_id, count(*) FROM evaluations e JOIN evaluation_items i ON i.evaluation_id = e.id \
        JOIN calls c ON c.id = i.call_id WHERE e.round IS NULL GROUP BY ALL ORDER BY ALL"
    )
    rows = read(tmp_path / "w", counts).rows
    assert rows == tuple(sorted((each["model_id"], 64) for each in found))
    assert main(asked) == 0
    assert json.loads(capsys.readouterr().out)["models"] == found
    assert read(tmp_path / "w", counts).rows == rows


async def test_files_that_are_swapped_after_loading_are_refused(profile, teacher, tmp_path) -> None:
    weights = MODELS / "refiner" / "adapter_model.safetensors"
    domain = open_domain(RECIPE, str(profile))
    async with open_bench(domain, tmp_path / "w", QUIET) as bench:
        bench.record_run()
        row = {"role": "student", "name": "student-t", "base": "b", "adapter": str(teacher)}
        bench.store.append("models", [row | {"id": bench.pool.model_id("student", teacher)}])
        student = find_contender(bench, "student-t")
        async with proven(bench, student) as served:
            assert served.proof is not None and served.proof.difference
        shutil.copy(weights, teacher)
        with pytest.raises(FactoryError, match="what was trained is model_"):
            async with proven(bench, student):
                raise AssertionError("it was asked")
        shutil.copy(MODELS / "teacher" / weights.name, teacher)
        with pytest.raises(FactoryError, match="was changed on disk after it was loaded"):
            async with proven(bench, student):
                shutil.copy(weights, teacher)


async def test_an_adapter_of_zeros_is_legal_and_told(profile, teacher, tmp_path) -> None:
    file = teacher / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as opened:
        halves = {name: opened.get_tensor(name).float().numpy() for name in opened.keys()}  # noqa: SIM118
    save_file({name: value * ("lora_A" in name) for name, value in halves.items()}, file)
    assert not load_file(file)[next(name for name in halves if "lora_B" in name)].any()
    domain = open_domain(RECIPE, str(profile))
    zeros = Contender("zeros", teacher)
    async with open_bench(domain, tmp_path / "w", QUIET) as bench, proven(bench, zeros) as served:
        proof = served.proof
    assert proof is not None and (proof.largest_change, proof.difference) == (0.0, 0.0)
    assert "answers as its base does" in proof.note


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")
def test_a_suite_tells_what_each_model_can_do(profile, tmp_path, capsys) -> None:
    models = [f"--model={each}" for each in ("base", MODELS / "teacher", MODELS / "refiner")]
    assert main(words(profile, tmp_path / "w", "--suite", str(RECIPE / "suite"), "--json", *models)) == 0
    found = json.loads(capsys.readouterr().out)["models"]
    base, teacher, refiner = ({task["task"]: task for task in each["tasks"]} for each in found)
    assert base.keys() == teacher.keys() == TASKS
    assert {task["num_items"] for task in base.values()} == {40}
    assert base["other_law"]["mean"] > 0.7 and base["which_repeats"]["mean"] > 0.5
    assert refiner["other_law"]["mean"] > 0.7
    for task in teacher.values():
        assert task["difference"]["high"] < -0.3 and task["difference"]["p_value"] < 1e-4, "it forgot"
    rows = read(
        tmp_path / "w",
        "SELECT e.metric, e.mean, count(*), avg(i.score) FROM evaluations e "
        "JOIN evaluation_items i ON i.evaluation_id = e.id "
        "WHERE e.split = 'suite' AND e.round IS NULL GROUP BY e.id, e.metric, e.mean ORDER BY ALL",
    ).rows
    assert len(rows) == 6 and {row[0] for row in rows} == {"other_law/exact_match", "which_repeats/acc"}
    assert all(count == 40 and mean == pytest.approx(average) for _, mean, count, average in rows)
