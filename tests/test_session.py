"""What a run is and what resumes it: changed material, controls, promoted students, a finished training."""

import asyncio
import dataclasses
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import example_store
import pytest
import yaml

from factory import loop, making, session
from factory.bench import Bench
from factory.cli import main
from factory.commands.look import print_report
from factory.domain import Domain
from factory.errors import FactoryError, InputError, RecipeError
from factory.evaluation_session import evaluate_models
from factory.evaluations import record_evaluation, slice_states
from factory.findings import find_run
from factory.freeze import freeze
from factory.init import write_template
from factory.load import load_domain, load_recipe
from factory.models.pool import ModelPool
from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.store.queries import Reader, read
from factory.types import Adapter, Evaluation, ItemResult, Message, Sample, Task

QUIET = Progress(bars=False)
TRAINED = {
    "models": {"student": {"server": "main"}},
    "training": {"student": {"base": "tiny-base"}},
    "loop": {"controls": {"raw": [], "checks": ["form", "exact"]}},
}


@pytest.fixture
def folder(tmp_path):
    write_template(tmp_path / "domain")
    return tmp_path / "domain"


@pytest.fixture
def trained(folder):
    """The folder with a profile `trained`: a scripted student, and two controls."""
    (folder / "profiles" / "trained.yaml").write_text(yaml.safe_dump(TRAINED))
    return folder


@pytest.fixture
def trainings(monkeypatch):
    """Every training asked for, done by a trainer that only makes a folder."""
    asked: list[Path] = []

    class Folders:
        def train(self, dataset, base, directory, on_progress):
            asked.append(directory)
            directory.mkdir(parents=True)
            (directory / "adapter_config.json").write_text("{}")
            return Adapter(directory, f"digest{len(asked)}", base, 3, 0.5, 1.0)

        def cancel(self):
            raise AssertionError("nothing is cancelled here")

    monkeypatch.setattr(Bench, "trainer", lambda self, role="student": (Folders(), "tiny-base"))
    return asked


def name_of(domain: Domain) -> str:
    return session.name_run(domain, ModelPool(domain.recipe, domain.folder, domain.folder / "w", print))


def run_of(folder: Path, workspace: Path, profile: str | None = None) -> str:
    """Runs the loop; returns the run that it reports on."""
    report = session.run(folder, profile, workspace, Progress(bars=False))
    return str(report["run"]["id"])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("sources/rules.md", "21 days", "28 days"),
        ("seeds.jsonl", "How long may I keep", "For how many days may I keep"),
        ("gold/dev.jsonl", "first of May", "first of June"),
        ("gold/test.jsonl", "8 dollars", "9 dollars"),
    ],
)
def test_changed_material_is_another_run(folder, tmp_path, file, old, new, capsys):
    first = run_of(folder, tmp_path / "w")
    edit(folder / file, old, new)
    capsys.readouterr()
    second = run_of(folder, tmp_path / "w")
    assert second != first
    assert f"changed since {first} (a file that it names)" in capsys.readouterr().err


def test_changed_weights_are_another_run(folder, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    profile = {"servers": {"main": {"kind": "vllm", "model": str(base)}}}
    (folder / "profiles" / "served.yaml").write_text(yaml.safe_dump(profile))
    domain = open_domain(folder, "served")
    found = []
    for weights in (b"old", b"new", b"new"):
        (base / "model.safetensors").write_bytes(weights)
        found.append(name_of(domain))
    assert found[0] != found[1] == found[2]


def test_going_back_to_an_earlier_recipe_goes_on_and_reports_it(folder, tmp_path, capsys):
    first = run_of(folder, tmp_path / "w")
    edit(folder / "recipe.yaml", "samples_per_round: 24", "samples_per_round: 8")
    second = run_of(folder, tmp_path / "w")
    edit(folder / "recipe.yaml", "samples_per_round: 8", "samples_per_round: 24")
    capsys.readouterr()
    assert main(["run", str(folder), "-w", str(tmp_path / "w"), "--json"]) == 0
    told = capsys.readouterr()
    assert first != second
    assert json.loads(told.out)["run"]["id"] == first
    assert "new run" not in told.err


def test_a_strategy_that_stands_twice_is_refused(folder):
    edit(folder / "recipe.yaml", "{name: seeded, weight: 1}", "{name: grounded, weight: 1}")
    with pytest.raises(RecipeError, match=r"strategies\[1\].name: 'grounded' stands in the list twice"):
        load_recipe(folder)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_training_without_a_student_is_told(folder, tmp_path, capsys, command):
    assert main([command, str(folder), "-w", str(tmp_path / "w")]) == 2
    assert "training.student" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_a_page_that_cannot_be_written_is_told(folder, tmp_path, capsys):
    run_of(folder, tmp_path / "w")
    for page in (tmp_path / "no" / "report.html", tmp_path):
        assert main(["report", "-w", str(tmp_path / "w"), "--html", str(page)]) == 2
        assert str(page) in capsys.readouterr().err


async def test_a_control_that_changed_is_refused_before_anything_runs(trained, tmp_path, trainings):
    domain = open_domain(trained, "trained")
    async with open_bench(domain, tmp_path / "w", QUIET) as bench:
        await loop.run_loop(bench)
    controls = {"raw": [], "checks": ["form"]}
    changed = domain.recipe.loop.model_copy(update={"controls": controls})
    domain = dataclasses.replace(domain, recipe=domain.recipe.model_copy(update={"loop": changed}))
    async with open_bench(domain, tmp_path / "w", QUIET) as bench:
        with pytest.raises(RecipeError, match=r"loop.controls.checks: .*other refiners"):
            await loop.run_loop(bench)


async def test_a_finished_run_with_training_does_nothing_when_repeated(trained, tmp_path, trainings):
    events = []
    for _ in range(2):
        async with open_bench(open_domain(trained, "trained"), tmp_path / "w", QUIET) as bench:
            await loop.run_loop(bench)
            events.append(bench.store.select("SELECT * FROM stages ORDER BY ALL"))
    assert len(trainings) == 3
    assert events[0] == events[1]


async def test_a_finished_training_whose_folder_is_gone_is_done_again(trained, tmp_path, trainings):
    async with open_bench(open_domain(trained, "trained"), tmp_path / "w", QUIET) as bench:
        bench.record_run()
        await loop.run_round(bench, 1, until="train")
        shutil.rmtree(trainings[0])
        await loop.run_round(bench, 1, until="train")
    assert len(trainings) == 2


async def test_the_promoted_student_is_the_runs_own_and_found_in_a_moved_workspace(trained, tmp_path):
    domain = open_domain(trained, "trained")
    async with open_bench(domain, tmp_path / "w", QUIET) as bench:
        for number, promote in ((1, True), (2, False)):
            with bench.stage(number, "promote") as detail:
                detail.update({"promote": promote})
        with bench.for_control("raw").stage(1, "promote") as detail:
            detail.update({"promote": True})
    (tmp_path / "w").rename(tmp_path / "moved")
    async with open_bench(domain, tmp_path / "moved", QUIET) as bench:
        assert loop.promoted_adapter(bench) == tmp_path / "moved" / "adapters" / f"student_{bench.run_id}_1"


async def test_only_a_control_was_promoted(trained, tmp_path):
    async with open_bench(open_domain(trained, "trained"), tmp_path / "w", QUIET) as bench:
        with bench.for_control("raw").stage(1, "promote") as detail:
            detail.update({"promote": True})
        with pytest.raises(InputError, match="no student"):
            loop.promoted_adapter(bench)


def test_a_control_takes_the_samples_of_round_1_in_their_places(trained, tmp_path, trainings):
    domain_run = run_of(trained, tmp_path / "w", "trained")
    sql = "SELECT round, position, sample_id FROM round_samples WHERE run_id = ? AND round = 1 ORDER BY ALL"
    rows = [read(tmp_path / "w", sql, (run,)).rows for run in (domain_run, f"{domain_run}_raw")]
    assert rows[0] == rows[1] != ()


def test_evaluate_takes_up_a_round_that_was_cut_off_before_its_promotion(trained, tmp_path, trainings):
    async def cut_off() -> None:
        async with open_bench(open_domain(trained, "trained"), tmp_path / "w", QUIET) as bench:
            bench.record_run()
            await loop.evaluate(bench, 0, None)
            await loop.run_round(bench, 1, until="train")
            await loop.evaluate(bench, 1, Adapter(trainings[0], "d", "b", 3, 0.5, 1.0))

    asyncio.run(cut_off())
    found = session.run_until(trained, "trained", tmp_path / "w", QUIET, "evaluate")
    assert found["round"] == 1
    again = session.run_until(trained, "trained", tmp_path / "w", QUIET, "evaluate")
    assert again["round"] is None


@pytest.mark.parametrize("stage", ["generate", "train"])
def test_a_later_round_looks_for_the_student_before_it_asks_it(trained, tmp_path, trainings, stage):
    """Round 1 up to training needs none; a later one begins with the evaluation of the base."""
    away = {"kind": "vllm", "model": "./gone"}
    changed = {"servers": {"away": away}, "models": {"student": {"server": "away"}}, "loop": {"rounds": 2}}
    (trained / "profiles" / "trained.yaml").write_text(yaml.safe_dump(TRAINED | changed))
    found = session.run_until(trained, "trained", tmp_path / "w", QUIET, stage)
    assert found["round"] == 1
    with pytest.raises(RecipeError, match=r"trained.yaml:\d+ servers\.away\.model: "):
        session.run_until(trained, "trained", tmp_path / "w", QUIET, stage)


async def test_before_the_first_round_no_slice_has_gained(folder, tmp_path):
    async with open_bench(open_domain(folder, None), tmp_path / "w", QUIET) as bench:
        items = tuple(
            ItemResult(f"{name}{i}", name, name, "q", "a", "b", score, "call_x")
            for name, scores in {"borrowing": (1.0, 0.0), "fees": (0.0, 0.0)}.items()
            for i, score in enumerate(scores)
        )
        record_evaluation(bench, 0, Evaluation("m", "dev", "facts", 0.25, 0.0, 1.0, items), None, None)
        states = slice_states(bench, 1)
    assert states["fees"].weight == pytest.approx(2 * states["borrowing"].weight)


def test_an_adapter_that_was_evaluated_by_hand_is_among_the_models(trained, tmp_path, capsys):
    adapter = tmp_path / "mine"
    adapter.mkdir()
    evaluate_models(trained, "trained", [str(adapter)], "dev", tmp_path / "w", QUIET)
    missing = "SELECT DISTINCT model_id FROM calls WHERE model_id NOT IN (SELECT id FROM models)"
    assert read(tmp_path / "w", missing).rows == ()


def test_serve_passes_its_port_to_the_server(trained, tmp_path, monkeypatch):
    ports = []

    async def model(self, role, adapter=None):
        ports.append(self._port)
        raise InputError("that is enough")

    monkeypatch.setattr(ModelPool, "model", model)
    monkeypatch.setattr(loop, "promoted_adapter", lambda bench: tmp_path)
    with pytest.raises(InputError):
        session.serve(trained, "trained", tmp_path / "w", 8123, QUIET)
    assert ports == [8123]


def test_a_report_can_be_of_any_run(folder, tmp_path, capsys):
    first = run_of(folder, tmp_path / "w")
    edit(folder / "recipe.yaml", "samples_per_round: 24", "samples_per_round: 8")
    run_of(folder, tmp_path / "w")
    capsys.readouterr()
    print_report(tmp_path / "w", json=True, run_id=first)
    assert json.loads(capsys.readouterr().out)["run"]["id"] == first


def test_an_unchanged_domain_keeps_its_run(folder, tmp_path):
    recipe, place = load_recipe(folder)
    names = {name_of(load_domain(recipe, place)) for _ in range(2)}
    assert len(names) == 1


async def test_a_round_that_accepts_nothing_has_a_dataset_of_its_own(folder, tmp_path):
    async with open_bench(open_domain(folder, None), tmp_path / "w", QUIET) as bench:
        bench.record_run()
        await loop.run_round(bench, 1)
        await freeze(bench, 2)
        rows = bench.store.select("SELECT round, num_samples FROM datasets ORDER BY round")
        members = bench.store.select("SELECT count(*) AS n FROM dataset_samples")
    assert rows == [{"round": 1, "num_samples": 24}, {"round": 2, "num_samples": 24}]
    assert members == [{"n": 48}]


def test_the_newest_run_is_the_one_that_worked_last(folder, tmp_path):
    first = run_of(folder, tmp_path / "w")
    edit(folder / "recipe.yaml", "samples_per_round: 24", "samples_per_round: 8")
    run_of(folder, tmp_path / "w")
    edit(folder / "recipe.yaml", "samples_per_round: 8", "samples_per_round: 24")
    edit(folder / "recipe.yaml", "rounds: 1", "rounds: 2")
    assert run_of(folder, tmp_path / "w") == first
    with Reader(tmp_path / "w") as reader:
        assert find_run(reader)["id"] == first


def test_an_empty_dataset_is_not_exported(folder, tmp_path, capsys):
    edit(folder / "recipe.yaml", "{name: form}", "{name: form, max_answer_chars: 1}")
    assert main(["run", str(folder), "-w", str(tmp_path / "w")]) == 1
    hint = capsys.readouterr().err.rpartition("see `factory ")[2].partition("`")[0]
    assert main([*shlex.split(hint), "-w", str(tmp_path / "w")]) == 0
    assert main(["export", str(tmp_path / "out"), "-w", str(tmp_path / "w")]) == 2
    assert "empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


async def test_a_slice_s_tokens_are_those_of_generation_and_refinement(folder, tmp_path):
    async with open_bench(open_domain(folder, None), tmp_path / "w", QUIET) as opened:
        made = example_store.fill(opened.store)
        bench = replace(opened, run_id="run_a")
        place = {"run_id": "run_a", "round": 1}
        samples = [made.good.id, made.bad.id]
        bench.store.append(
            "round_samples", [place | {"position": n, "sample_id": each} for n, each in enumerate(samples)]
        )
        kept = {"step": 3, "refiner": "edit", "action": "keep", "reason": "ok", "final": False}
        evidence = {"sample_id": made.bad.id, "evidence": {"call": "call_5"}}
        bench.store.append("decisions", [place | kept | evidence])
        refine = {"stage": "refine", "role": "refiner", "model_id": "mdl_refiner"}
        more = {"prompt_tokens": 100, "completion_tokens": 50}
        bench.store.append("calls", [example_store.call("call_5", **refine, **more)])
        items = (ItemResult("i", "notice", "c", "q", "e", "a", 0.0, "call_e"),)
        record_evaluation(bench, 1, Evaluation("m", "dev", "facts", 0.0, 0.0, 1.0, items), None, None)
        states = slice_states(bench, 2)
    generated, edited, read = 2 * 15, 15, 150  # two answers, one rewrite, one that the refiner let stand
    assert states["notice"].tokens == generated + edited + read


async def test_every_slice_gets_its_share_from_whoever_can_serve_it(folder, tmp_path):
    lines = (folder / "seeds.jsonl").read_text().splitlines()[:3]  # fees has sources alone
    seed = {"id": "talk", "prompt": "Say hello to a reader.", "slice": "talk"}  # talk has seeds alone
    (folder / "seeds.jsonl").write_text("\n".join([*lines, json.dumps(seed)]))
    domain = open_domain(folder, None)
    loop_spec = domain.recipe.loop.model_copy(update={"samples_per_round": 10})
    domain = replace(domain, recipe=domain.recipe.model_copy(update={"loop": loop_spec}))
    async with open_bench(domain, tmp_path / "w", QUIET) as bench:
        bench.record_run()
        await loop.generate(bench, 1)
        rows = bench.store.select(
            """SELECT s.slice, s.strategy, count(*) AS n FROM round_samples r
               JOIN samples s ON s.id = r.sample_id GROUP BY ALL ORDER BY ALL"""
        )
    assert sum(row["n"] for row in rows) == 10
    found = {(row["slice"], row["strategy"]): row["n"] for row in rows}
    assert found["fees", "grounded"] + found["talk", "seeded"] == 6
    assert ("fees", "seeded") not in found and ("talk", "grounded") not in found


def test_a_preview_has_samples_of_every_strategy(folder):
    found = session.preview(folder, None, 4, QUIET)["samples"]
    assert sorted(sample["strategy"] for sample in found) == ["grounded"] * 3 + ["seeded"]


async def test_a_task_with_more_samples_than_have_places_is_told(folder, tmp_path):
    async with open_bench(open_domain(folder, None), tmp_path / "w", QUIET) as bench:
        task = Task("grounded", 1, 1_000_000, "fees")
        samples = [
            Sample.create([Message("user", f"{n}?"), Message("assistant", "x")], [], "grounded", {})
            for n in range(1001)
        ]
        making.store_samples(bench, 1, 0, task, samples[:1000])
        with pytest.raises(FactoryError, match="1,001 samples of one task"):
            making.store_samples(bench, 1, 0, task, samples)
