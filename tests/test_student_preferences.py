"""What a student is given to prefer: refined beside raw answers, judged pairs, and what people said."""

import json

import pytest
from edited import with_answer
from frozen_dataset import DATASET, RUN, freeze
from test_freeze import VARIED, accept, recipe  # noqa: F401 (fixture)

from factory.freeze import freeze as freeze_round
from factory.freeze import write_dataset
from factory.progress import Progress
from factory.recipe import TrainingSpec
from factory.session import open_bench, open_domain
from factory.store.rows import decision_rows, sample_rows
from factory.store.store import Store
from factory.student_preferences import read_preferences
from factory.types import Decision, Message, Parent, Sample


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path) as opened:
        yield opened


def generated(number, answer="In 14 days.", **attributes):
    turns = [Message("user", f"Question {number}?"), Message("assistant", answer)]
    return Sample.create(turns, [Parent(f"call_{number}", "call")], "grounded", {"slice": "a", **attributes})


def rewritten(sample, answer):
    return with_answer(sample, answer, [Parent(sample.id, "rewrite_of")])


def add(store, *samples):
    for table, rows in zip(("samples", "edges"), sample_rows(samples, RUN, 1), strict=True):
        store.append(table, rows)


def decide(store, sample, refiner="form", action="keep"):
    decision = Decision(sample.id, refiner, action, "ok")
    store.append("decisions", decision_rows([decision], RUN, 1, len(refiner), {sample.id})[0])


def say(store, sample, action, corrected=None, reviewer="ann"):
    said = {"sample_id": sample.id, "reviewer": reviewer, "action": action, "reason": "r"}
    store.append("verdicts", [said | ({"corrected": corrected} if corrected is not None else {})])


def read(store, method="dpo", checks_leaks=False):
    found = []
    for origin, line in read_preferences(store, RUN, DATASET, method, checks_leaks=checks_leaks):
        question = line["prompt"][-1]["content"].removeprefix("Question ").removesuffix("?")
        if "label" in line:
            found.append((origin, question, line["completion"][0]["content"], line["label"]))
        else:
            found.append((origin, question, line["chosen"][0]["content"], line["rejected"][0]["content"]))
    return found


def test_a_refined_answer_is_better_than_the_one_that_was_generated(store):
    raw = generated(1)
    once = rewritten(raw, "In 15 days.")
    twice = rewritten(once, "In 21 days.")
    add(store, raw, once)
    freeze(store, [twice, generated(2)])
    assert read(store) == read(store, "kto") == [("refined", "1", "In 21 days.", "In 14 days.")]


def test_a_refined_question_makes_no_pair(store):
    raw = generated(1)
    turns = [Message("user", "Question 9?"), Message("assistant", "In 21 days.")]
    add(store, raw)
    freeze(store, [Sample.create(turns, [Parent(raw.id, "rewrite_of")], "rewrite", {"slice": "a"})])
    assert read(store) == []


@pytest.mark.parametrize(
    ("value", "is_taken"), [("unjudged", True), (1.0, True), (0.5, False), (0.0, False), (None, False)]
)
def test_a_pair_is_one_unless_a_judge_saw_it_otherwise(store, value, is_taken):
    pair = generated(1, "In 21 days.", rejected="In 7 days.")
    freeze(store, [pair])
    if value != "unjudged":
        score = {"run_id": RUN, "sample_id": pair.id, "metric": "prefers_chosen", "scorer": "judge"}
        store.append("scores", [{**score, "value": value}])
    assert read(store) == ([("judged", "1", "In 21 days.", "In 7 days.")] if is_taken else [])


def test_what_people_said_goes_before_what_was_made(store):
    samples = [generated(number) for number in range(1, 5)]
    children = [rewritten(sample, "In 21 days.") for sample in samples]
    add(store, *samples)
    freeze(store, children)
    for sample in (*samples, *children):
        decide(store, sample)
    say(store, children[0], "drop")
    say(store, children[1], "edit", "In 30 days.")
    say(store, samples[2], "keep")  # so it is none to reject
    say(store, children[3], "keep")
    assert sorted(read(store)) == [
        ("refined", "4", "In 21 days.", "In 14 days."),
        ("verdict", "2", "In 30 days.", "In 21 days."),
    ]
    assert sorted(read(store, "kto"))[1:] == [
        ("verdict", "1", "In 21 days.", False),
        ("verdict", "2", "In 30 days.", "In 21 days."),
        ("verdict", "3", "In 14 days.", True),
        ("verdict", "4", "In 21 days.", True),
    ]


def test_nothing_is_taken_that_disputes_leaks_or_says_nothing(store):
    disputed, leaked, empty, same, other_run, unchecked = (
        generated(number, "" if number == 3 else "In 14 days.") for number in range(1, 7)
    )
    add(store, disputed, leaked, empty, same, other_run, unchecked)
    freeze(store, [])
    for sample in (disputed, leaked, empty, same):
        decide(store, sample, "contamination", "drop" if sample is leaked else "keep")
    decide(store, unchecked, "form", "drop")
    say(store, disputed, "keep")
    say(store, disputed, "drop", reviewer="bob")
    say(store, leaked, "keep")
    say(store, empty, "keep")
    say(store, same, "edit", "In 14 days.")
    say(store, other_run, "keep")
    say(store, unchecked, "keep")
    assert read(store, "kto", checks_leaks=True) == []
    assert [row[1] for row in read(store, "kto")] == ["2", "6"]  # nobody asked for a check


async def test_answers_of_one_kind_are_left_out_and_told(recipe, tmp_path, capsys):  # noqa: F811
    """A run does not end over them: KTO waits for what people say of later rounds."""
    domain = open_domain(recipe, None)
    spec = {"name": "qlora", "base": "some/base", "preference": {"method": "kto"}}
    domain.recipe.training["student"] = TrainingSpec.model_validate(spec)
    async with open_bench(domain, tmp_path / "w", Progress(bars=False)) as bench:
        bench.record_run()
        accept(bench, 1, VARIED[:20])
        dataset_id = await freeze_round(bench, 1)
        ids = [row["id"] for row in bench.store.select("SELECT id FROM samples ORDER BY id LIMIT 3")]
        passed = [Decision(id, "contamination", "keep", "ok") for id in ids]
        bench.store.append("decisions", decision_rows(passed, bench.run_id, 1, 5, ())[0])
        for id in ids[:2]:
            said = {"sample_id": id, "reviewer": "ann", "action": "keep", "reason": "r"}
            bench.store.append("verdicts", [said])
        path = write_dataset(bench, dataset_id)
        assert len(path.read_text().splitlines()) == 20
        assert "none of 2 verdict, for KTO needs good and bad answers" in capsys.readouterr().err
        path.unlink()
        bench.store.append("verdicts", [{**said, "sample_id": ids[2], "action": "drop"}])
        lines = [json.loads(line) for line in write_dataset(bench, dataset_id).read_text().splitlines()[20:]]
    assert sorted(line["label"] for line in lines) == [False, True, True]


async def test_a_rounds_dataset_holds_them_where_its_student_learns_them(recipe, tmp_path):  # noqa: F811
    domain = open_domain(recipe, None)
    async with open_bench(domain, tmp_path / "w", Progress(bars=False)) as bench:
        bench.record_run()
        accept(bench, 1, VARIED[:20])
        dataset_id = await freeze_round(bench, 1)
        rows = bench.store.select("SELECT id FROM samples ORDER BY id LIMIT 2")
        verdict = {"sample_id": rows[0]["id"], "reviewer": "ann", "action": "edit", "reason": "r"}
        bench.store.append("verdicts", [{**verdict, "corrected": "no"}])
        passed = Decision(rows[0]["id"], "contamination", "keep", "ok")
        bench.store.append("decisions", decision_rows([passed], bench.run_id, 1, 5, ())[0])
        plain = write_dataset(bench, dataset_id)
        assert len(plain.read_text().splitlines()) == 20
        plain.unlink()
        spec = {"name": "qlora", "base": "some/base", "preference": {"method": "dpo"}}
        bench.recipe.training["student"] = TrainingSpec.model_validate(spec)
        lines = [json.loads(line) for line in write_dataset(bench, dataset_id).read_text().splitlines()]
    assert len(lines) == 21
    assert [turn["content"] for turn in (*lines[-1]["chosen"], *lines[-1]["rejected"])] == ["no", "yes"]
