"""Each metric through the whole of an evaluation: options, gold that it cannot score, and what is stored."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from metric_kit import evaluate_base, number_of, write

from factory.cli import main
from factory.errors import EndpointError, RecipeError
from factory.load import load
from factory.models import scripted
from factory.types import Evaluation, ItemResult
from training import gate
from training.tasks import TASKS

PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text("utf-8")


@pytest.fixture
def answers(monkeypatch):
    """Makes a student that gives these answers, in the order of the questions."""

    def use(*texts: str | Exception) -> None:
        monkeypatch.setitem(scripted.SCRIPTS, "mine", lambda request: texts[number_of(request)])

    return use


CASES = {
    "exact": ({}, ["Yes.", "Two"], ["yes", "two bells"], [(1, None), (0, None)]),
    "normalized": ({}, ["The bell", "Two"], ["bell!", "to"], [(1, None), (0, None)]),
    "facts": ({}, ["5 bells (Rule 1)", "6"], ["Rule 1: 5 bells", "7"], [(1, None), (0, None)]),
    "numeric": (
        {"relative": 0.1},
        ["100 bells (Rule 1)", "1/2"],
        ["109", "one half, 0.4"],
        [(1, None), (0, "missing: 1/2; too many: 0.4")],
    ),
    "token_f1": ({}, ["the big bell", "two"], ["a bell", "three"], [(2 / 3, None), (0, None)]),
    "citation": (
        {},
        ["See Rule 1 and Rule 2", "Rule 3"],
        ["Rule 2", "by Rule 3 itself"],
        [(2 / 3, "missing: Rule 1"), (1, None)],
    ),
    "json_fields": (
        {"fields": ["name", "size"]},
        ['{"name": "Big", "size": {"h": 2, "w": 3}, "note": "x"}', '{"name": "Small"}'],
        ['{"name": "Big", "size": {"h": 2, "w": 4}, "note": "y"}', "Small"],
        [(2 / 3, "wrong: size.w"), (0, "no JSON object: Expecting value: line 1 column 1 (char 0)")],
    ),
}


@pytest.mark.parametrize("metric", CASES)
def test_a_student_is_scored_and_what_misses_is_stored(metric, tmp_path, answers):
    options, gold, given, expected = CASES[metric]
    answers(*given)
    folder = write(tmp_path / "domain", gold, {"metric": metric, "metric_options": options})
    items = evaluate_base(folder, tmp_path / "w")
    assert [(item["score"], item["detail"]) for item in items] == [
        (pytest.approx(score), detail) for score, detail in expected
    ]
    assert items[0]["mean"] == pytest.approx(sum(score for score, _ in expected) / 2)
    assert {item["judge_call_id"] for item in items} == {None}
    name, _, special = items[0]["metric"].partition("#")
    assert name == metric and bool(special) == bool(options)


def test_every_metric_is_in_the_page_and_tried_here_or_in_a_file_of_its_own() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert documented == list(TASKS)
    assert TASKS.keys() - CASES.keys() == {"sql", "calls", "judge"}
    for name, metric in TASKS.items():
        row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |"))
        assert all(f"`{option}`" in row for option in metric.Options.model_fields), name


def test_an_item_that_was_not_answered_is_not_right_though_nothing_is_expected(tmp_path, answers):
    answers("x", EndpointError("no", kind="refused", retryable=False))
    items = evaluate_base(write(tmp_path / "domain", ["x", "."], {"metric": "exact"}), tmp_path / "w")
    assert [(item["score"], item["detail"]) for item in items] == [(1, None), (0, "no answer: refused")]


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ({"metric": "numeri"}, ["evaluation.metric:", "no metric 'numeri'", "did you mean 'numeric'"]),
        ({"metric": 3}, ["evaluation.metric:", "valid string"]),
        (
            {"metric": "numeric", "metric_options": {"relativ": 0.1}},
            ["evaluation.metric_options.relativ:", "unknown key 'relativ'", "did you mean 'relative'"],
        ),
        (
            {"metric": "numeric", "metric_options": {"relative": -1}},
            ["evaluation.metric_options.relative:", "greater than or equal to 0, found -1", "'numeric'"],
        ),
        ({"metric": "numeric", "metric_options": {"absolute": "1"}}, ["metric_options.absolute:", "number"]),
        ({"metric": "exact", "metric_options": {"relative": 1}}, ["metric_options.relative:", "unknown key"]),
        ({"metric": "json_fields", "metric_options": {"fields": []}}, ["metric_options.fields:", "1 item"]),
        ({"metric": "exact", "metric_options": [1]}, ["evaluation.metric_options:", "mapping"]),
        (
            {"metric": "judge", "metric_options": {"rubric": [{"name": "overall", "question": "Good?"}]}},
            ["metric_options.rubric", "'overall' is the judge's own"],
        ),
    ],
)
def test_wrong_options_are_told_with_file_line_and_key(evaluation, words, tmp_path, capsys):
    folder = write(tmp_path / "domain", ["5"], evaluation)
    models = "models:\n  judge: {server: main}\n"
    (folder / "recipe.yaml").write_text((folder / "recipe.yaml").read_text().replace("models:\n", models))
    assert main(["check", str(folder)]) == 2
    told = capsys.readouterr().err
    assert re.search(r"recipe\.yaml:\d+ evaluation", told) and told.count("\n") == 1
    assert [word for word in words if word not in told] == [], told


@pytest.mark.parametrize(
    ("metric", "options", "answer", "what"),
    [
        ("normalized", {}, "A", "nothing is left of the answer"),
        ("token_f1", {}, "The!", "nothing is left of the answer"),
        ("numeric", {}, "two, by Rule 1", "no number in the answer"),
        ("citation", {}, "Article 1", "no citation in the answer"),
        ("json_fields", {}, "{'a': 1}", "no JSON object"),
        ("json_fields", {}, "{}", "an object without fields"),
        ("json_fields", {"fields": ["b", "c"]}, '{"a": 1}', "none of the fields b, c"),
    ],
)
def test_gold_that_a_metric_cannot_score_is_told_with_its_line(metric, options, answer, what, tmp_path):
    good = '1 bell, {"a": 1}, Rule 1' if metric != "json_fields" else '{"a": 1, "b": 2}'
    folder = write(tmp_path / "domain", [good, answer], {"metric": metric, "metric_options": options})
    with pytest.raises(RecipeError, match=rf"{folder}/dev\.jsonl:2 answer: {what}"):
        load(folder)


def test_a_metric_of_citations_must_know_what_one_is(tmp_path):
    folder = write(tmp_path / "domain", ["Rule 1"], {"metric": "citation"}, domain={"title": "Bells"})
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+ evaluation\.metric: .*domain\.citation_pattern"):
        load(folder)


def test_other_options_are_another_run_and_another_name(tmp_path):
    names = []
    for options in ({}, {"relative": 0.0}, {"relative": 0.1}, {"relative": 0.2}):
        folder = write(tmp_path / "domain", ["5"], {"metric": "numeric", "metric_options": options})
        domain = load(folder)
        names.append((domain.run_digest(), domain.evaluator._named.label()))
    assert [label == "numeric" for _, label in names] == [True, True, False, False]
    assert len({run for run, _ in names}) == 4 and len({label for _, label in names}) == 3


def evaluation(scores: list[float]) -> Evaluation:
    items = tuple(
        ItemResult(f"i{n:03}", f"s{n % 2}", f"c{n // 2}", "q", "a", "b", score, "call")
        for n, score in enumerate(scores)
    )
    return Evaluation("m", "dev", "token_f1", sum(scores) / len(scores), 0.0, 1.0, items)


def test_the_gate_takes_scores_in_between() -> None:
    rule = gate.Rule(max_slice_drop=0.1, min_items=20, seed=0)
    old = [0.3 + 0.01 * (n % 7) for n in range(60)]
    better = gate.compare(evaluation(old), evaluation([score + 0.15 for score in old]), rule)
    assert (better.reason, better.test, better.num_better) == ("gain", "sign_flips", 60)
    assert 0 < better.gain_low <= better.gain == pytest.approx(0.15)
    lot = [score + (0.15 if n // 2 % 2 else -0.15) for n, score in enumerate(old)]
    assert gate.compare(evaluation(old), evaluation(lot), rule).reason == "no_gain"
    fallen = [score + (0.5 if n % 2 else -0.2) for n, score in enumerate(old)]
    assert gate.compare(evaluation(old), evaluation(fallen), rule).reason == "slice_fell"
