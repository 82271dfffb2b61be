"""What the guards see of a round, and what becomes of a dataset that they stopped."""

import hashlib
import json

import pytest
import yaml
from fake_endpoint import Status, answer
from test_loop import endpoint, point_at, run, sql

from factory.cli import main
from factory.errors import GuardTripped
from factory.freeze import freeze, write_dataset
from factory.init import write_template
from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.store.rows import decision_rows, sample_rows
from factory.types import Decision, Message, Parent, Sample

VARIED = [" ".join(hashlib.blake2b(bytes([n, k])).hexdigest()[:2] for k in range(8)) for n in range(200)]
NARROW = [f"how long may reader {n} keep a book" for n in range(100)]


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "domain"
    write_template(folder)
    return folder


def accept(bench, number, questions, slices=("fees",), answer="yes"):
    """Puts accepted samples into a round as the refiners would."""
    samples = [
        Sample.create(
            [Message("user", question), Message("assistant", answer)],
            [Parent(f"call_{number}_{index}", "call")],
            "grounded",
            {"slice": slices[index % len(slices)], "strategy": "grounded"},
        )
        for index, question in enumerate(questions)
    ]
    decisions = [Decision(sample.id, "form", "keep", "ok") for sample in samples]
    ids = {sample.id for sample in samples}
    for table, rows in zip(("samples", "edges"), sample_rows(samples, bench.run_id, number), strict=True):
        bench.store.append(table, rows)
    bench.store.append("decisions", decision_rows(decisions, bench.run_id, number, 0, ids)[0])


async def test_a_collapse_in_round_2_is_not_hidden_by_round_1(recipe, tmp_path):
    async with open_bench(open_domain(recipe, None), tmp_path / "w", Progress(bars=False)) as bench:
        bench.record_run()
        accept(bench, 1, VARIED[:100])
        await freeze(bench, 1)
        accept(bench, 2, [*VARIED[100:184], *NARROW[:16]])  # distinct-2 of both together falls by 5 %
        with pytest.raises(GuardTripped, match="distinct-2 fell by"):
            await freeze(bench, 2)
        (row,) = bench.store.select("SELECT num_samples, guards FROM datasets WHERE round = 2")
    guards = json.loads(row["guards"])
    assert row["num_samples"] == 200
    assert guards["now"]["size"] == guards["first"]["size"] == 100
    assert guards["now"]["distinct2"] < 0.9 * guards["first"]["distinct2"]


async def test_an_empty_answer_is_in_no_dataset_even_where_nothing_was_refined(recipe, tmp_path):
    """A control without refiners accepts it, and its training would end there."""
    async with open_bench(open_domain(recipe, None), tmp_path / "w", Progress(bars=False)) as bench:
        bench.record_run()
        accept(bench, 1, VARIED[:20])
        accept(bench, 1, VARIED[20:23], answer="")
        lines = write_dataset(bench, await freeze(bench, 1)).read_text().splitlines()
        (row,) = bench.store.select("SELECT num_samples FROM datasets")
    assert {json.loads(line)["messages"][-1]["content"] for line in lines} == {"yes"}
    assert len(lines) == row["num_samples"] == 20


async def test_a_round_that_turns_to_one_slice_is_compared_within_that_slice(recipe, tmp_path):
    async with open_bench(open_domain(recipe, None), tmp_path / "w", Progress(bars=False)) as bench:
        bench.record_run()
        mixed = [question for pair in zip(VARIED[:100], NARROW, strict=True) for question in pair]
        accept(bench, 1, mixed, ("fees", "borrowing"))  # borrowing is narrow by its nature
        await freeze(bench, 1)
        accept(bench, 2, [question.replace("reader ", "reader 7") for question in NARROW], ("borrowing",))
        await freeze(bench, 2)
        (row,) = bench.store.select("SELECT guards FROM datasets WHERE round = 2")
    assert json.loads(row["guards"])["now"]["size"] == 100


async def test_a_first_round_far_narrower_than_the_seeds_is_told(recipe, tmp_path, capsys):
    seeds = [{"id": f"s{n}", "prompt": question, "slice": "fees"} for n, question in enumerate(VARIED[:40])]
    (recipe / "seeds.jsonl").write_text("\n".join(map(json.dumps, seeds)))
    async with open_bench(open_domain(recipe, None), tmp_path / "w", Progress(bars=False)) as bench:
        bench.record_run()
        accept(bench, 1, NARROW)
        await freeze(bench, 1)
        (row,) = bench.store.select("SELECT guards FROM datasets")
    assert json.loads(row["guards"])["seeds"]["size"] == 40
    assert "the seeds" in capsys.readouterr().err


def collapsing(request: dict) -> Status:
    """Two rounds of requests are told apart by their seeds' ordinals alone, so by the state of the test."""
    keys = request["response_format"]["json_schema"]["schema"]["properties"]
    number = request["seed"]
    question = VARIED[number % 200] if collapsing.varied else f"how long may reader {number} keep a book"
    return answer(json.dumps(dict.fromkeys(keys, f"{question} {number} (Rule 1.1)")))


def test_a_dataset_that_the_guard_stopped_is_neither_exported_nor_passed_by_repeating(
    recipe, tmp_path, capsys
):
    workspace, out = tmp_path / "w", tmp_path / "out"
    collapsing.varied = True
    with endpoint(collapsing) as server:
        point_at(recipe, server.base_url, concurrency=4)
        profile = yaml.safe_load((recipe / "profiles" / "test.yaml").read_text())
        loop = {"rounds": 1, "samples_per_round": 60}
        refiners = [{"name": "form"}, {"name": "exact"}]
        profile |= {"loop": loop, "refiners": refiners}
        (recipe / "profiles" / "test.yaml").write_text(yaml.safe_dump(profile))
        assert run(recipe, workspace, "--profile", "test").returncode == 0
        profile["loop"]["rounds"] = 2
        (recipe / "profiles" / "test.yaml").write_text(yaml.safe_dump(profile))
        collapsing.varied = False
        for _ in range(2):
            stopped = run(recipe, workspace, "--profile", "test")
            assert stopped.returncode == 1, stopped.stderr
            assert "guard.max_distinct2_drop" in stopped.stderr
            assert main(["export", str(out), "-w", str(workspace)]) == 1
            line = capsys.readouterr().err
            assert "guard" in line and "distinct-2 fell by" in line and "raise" in line
            assert line.count("\n") == 1 and not out.exists()
        profile["guard"] = {"max_distinct2_drop": 1.0, "max_gzip_ratio": 100.0}  # the user says so
        (recipe / "profiles" / "test.yaml").write_text(yaml.safe_dump(profile))
        collapsing.varied = True  # nothing is asked again
        accepted = run(recipe, workspace, "--profile", "test")
    assert accepted.returncode == 0, accepted.stderr
    assert main(["export", str(out), "-w", str(workspace)]) == 0
    assert len((out / "data" / "train.jsonl").read_text().splitlines()) == sum(
        n for (n,) in sql(workspace, "SELECT max(num_samples) FROM datasets")
    )
