"""Figures of the refiner over drafts with known answers, computed by hand and through the real engine."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import RUN, fill

from factory import cli
from factory.calibration import load, measure
from factory.edits import target
from factory.errors import RecipeError
from factory.init import write_template
from factory.models import scripted
from factory.progress import Progress
from factory.refiner_evaluation import DraftOutcome, RefinerEvaluation, figures, tally
from factory.refiner_grid import grid_refiner
from factory.refiner_records import evaluate_refiner, points_of, save_map
from factory.report import collect, render_html
from factory.spend import total_spend
from factory.store.queries import read
from factory.store.store import Store
from factory.types import CheckedDraft, Request

QUIET = Progress(bars=False)


def outcome(
    kind: str, expected: str | None, became: str | None, answer: str = "21 days", refused: str = ""
) -> DraftOutcome:
    action = "drop" if became is None else "keep" if became == answer else "rewrite"
    return DraftOutcome("k", kind, "s", answer, expected, became, action, "r", refused, None, "call_0")


FOUND = [
    outcome("ok", "21 days", "21 days"),
    outcome("ok", "21 days", "21 days"),
    outcome("ok", "21 days", "30 days"),  # damaged
    outcome("ok", "21 days", None),  # damaged
    outcome("wrong_quantity", "30 days", "30  days\n"),  # fixed
    outcome("wrong_quantity", "30 days", "31 days"),  # found, not fixed
    outcome("wrong_quantity", "30 days", None, refused="absent"),  # found, not fixed
    outcome("wrong_quantity", "30 days", "21 days"),  # missed
    outcome("off_source", None, None),  # removed
    outcome("off_source", None, "30 days"),  # edited, which is not what it needs
    outcome("off_source", None, "21 days"),  # missed
]


def test_figures_by_hand() -> None:
    found = RefinerEvaluation.of(FOUND)
    assert found.precision == 4 / 7
    assert found.recall == 4 / 7
    assert found.f1 == pytest.approx(4 / 7)
    assert found.fixed == 1 / 4
    assert found.damaged == 2 / 4
    assert found.overall.removed.value == 1 / 3
    assert found.overall.refused.num == 1
    assert list(found.by_kind) == ["off_source", "ok", "wrong_quantity"]
    quantity = found.by_kind["wrong_quantity"]
    assert (quantity.recall.value, quantity.fixed.value, quantity.damaged.value) == (3 / 4, 1 / 4, None)
    assert found.by_kind["ok"].recall.value is None
    assert found.by_kind["ok"].f1 == 0  # two flagged and nothing to find


def test_nothing_has_no_figures() -> None:
    found = RefinerEvaluation.of([])
    assert (found.precision, found.recall, found.f1, found.fixed, found.damaged) == (None,) * 5
    assert figures(found.overall)["f1_interval"] is None
    kept = RefinerEvaluation.of(FOUND[:2])
    assert (kept.precision, kept.f1, kept.damaged) == (None, None, 0)


@given(st.lists(st.sampled_from(FOUND), max_size=60))
def test_f1_is_the_harmonic_mean_and_lies_in_its_interval(outcomes: list[DraftOutcome]) -> None:
    found = tally(outcomes)
    precision, recall = found.precision.value, found.recall.value
    if precision and recall:
        assert found.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    if found.f1 is not None:
        low, high = found.f1_interval
        assert 0 <= low <= found.f1 <= high <= 1


# through the engine


DRAFTS = [
    {"id": "d1", "answer": "14 days", "corrected": "21 days", "reason": "wrong_quantity"},
    {"id": "d2", "answer": "21 days", "corrected": "21 days", "reason": "ok"},
    {"id": "d3", "answer": "Red.", "corrected": None, "reason": "off_source"},
    {"id": "d4", "answer": "12 days", "corrected": "21 days", "reason": "wrong_quantity"},
]


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The template with drafts, and a scripted refiner that errs in d4 alone."""
    folder = tmp_path / "domain"
    write_template(folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    section = json.loads((folder / recipe["gold"]["dev"]).read_text().splitlines()[0])
    rows = [
        {"question": f"Tell {n} of us?", "source": section["source"], "slice": section["slice"], **draft}
        for n, draft in enumerate(DRAFTS)
    ]
    (folder / "drafts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe["gold"]["refiner"] = "drafts.jsonl"
    recipe["refiners"] = [{"name": "edit"}]
    recipe["servers"]["judge"] = {"kind": "scripted", "script": "known"}
    recipe["models"]["refiner"] = {"server": "judge"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setitem(scripted.SCRIPTS, "known", answer_as_known)
    return folder


def answer_as_known(request: Request) -> str:
    for draft in DRAFTS:
        if f"Answer: {draft['answer']}" in request.messages[-1].content:
            right = None if draft["id"] == "d4" else draft["corrected"]
            checked = CheckedDraft("k", "", draft["answer"], right, draft["reason"], "", "")  # type: ignore[arg-type]
            return json.dumps(target(checked))
    raise AssertionError("asked about something else")


def test_drafts_go_through_the_product_and_into_the_store(domain: Path, tmp_path: Path) -> None:
    found = evaluate_refiner(domain, None, tmp_path / "w", QUIET, given=True)
    assert (found["precision"], found["recall"], found["f1"]) == (1, 1, 1)
    assert (found["fixed"], found["removed"], found["damaged"]) == (0.5, 1, 0)
    assert [row["kind"] for row in found["by_kind"]] == ["off_source", "ok", "wrong_quantity"]
    again = evaluate_refiner(domain, None, tmp_path / "w", QUIET, given=True)
    assert again == found
    rows = read(tmp_path / "w", "SELECT draft_key, action, became FROM refiner_evaluation_items ORDER BY 1")
    assert rows.rows == (
        ("d1", "rewrite", "21 days"),
        ("d2", "keep", "21 days"),
        ("d3", "drop", None),
        ("d4", "drop", None),
    )
    (stored,) = read(tmp_path / "w", "SELECT id, figures->>'$.overall.f1' FROM refiner_evaluations").rows
    assert stored == (found["evaluation"], "1.0")
    assert read(tmp_path / "w", "SELECT count(*) FROM calls WHERE stage = 'evaluate'").rows == ((4,),)


def test_the_command_prints_a_table_and_json(
    domain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["refiner", "evaluate", str(domain), "--given", "--workspace", str(tmp_path / "w")]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "100.0\u00a0% (" in shown
    assert "wrong_quantity" in shown
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fixed_of"] == 2


def test_a_map_needs_an_adapter_and_enough_drafts(domain: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no adapter beside which"):
        evaluate_refiner(domain, None, tmp_path / "w", QUIET, given=True, calibrate=True)
    assert not (tmp_path / "w").exists()
    assert evaluate_refiner(domain, None, tmp_path / "w", QUIET, given=True)["calibration"] is None


def test_a_measured_map_is_stored_and_can_be_written(tmp_path: Path) -> None:
    kinds = {0.9: ("21 days", "21 days"), 0.2: ("30 days", "30 days")}
    outcomes = [
        replace(outcome("k", *kinds[p]), key=f"d{n}", section=f"s{n}", p_keep=p)
        for n in range(40)
        for p in [0.9 if n % 2 else 0.2]
    ]
    points = points_of(RefinerEvaluation.of(outcomes))
    assert [(point.probability, point.is_true) for point in points[:2]] == [(0.2, False), (0.9, True)]
    found = measure(points)
    assert found is not None
    written = save_map(found.as_json(), tmp_path)
    assert load(tmp_path) == found.calibration
    assert written == str(tmp_path / "calibration.json")
    with pytest.raises(RecipeError, match="nothing to calibrate by"):
        save_map(None, tmp_path)


def test_what_cannot_be_evaluated_is_told(domain: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no checked drafts to measure by"):
        evaluate_refiner(domain, None, tmp_path / "w", QUIET)
    recipe: dict[str, Any] = yaml.safe_load((domain / "recipe.yaml").read_text())
    (domain / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "refiners": [{"name": "form"}]}))
    with pytest.raises(RecipeError, match="no step 'edit'"):
        evaluate_refiner(domain, None, tmp_path / "w", QUIET, given=True)


def test_the_report_shows_it_and_counts_its_calls_as_used(tmp_path: Path) -> None:
    bins = [{"probability": 0.9, "share": 0.75, "num": 8}, {"probability": 0.1, "share": 0.0, "num": 4}]
    calibration = {"num": 12, "before": 0.1, "after": 0.05, "bins_before": bins, "bins_after": bins}
    found = RefinerEvaluation.of(FOUND)
    with Store.open(tmp_path) as store:
        fill(store)
        before = total_spend(collect(store).spend)
        assert collect(store).refiner is None
        assert "drafts with known answers" not in render_html(collect(store))
        kinds = {kind: figures(each) for kind, each in found.by_kind.items()}
        row = {"id": "rev_a", "run_id": RUN, "model_id": "model_a", "num_drafts": len(FOUND)}
        measured = {"figures": {"overall": figures(found.overall), "by_kind": kinds}}
        store.append("refiner_evaluations", [{**row, **measured, "calibration": calibration}])
        store.append("calls", [{**store.select("SELECT * FROM calls LIMIT 1")[0], "id": "call_new"}])
        assert total_spend(collect(store).spend).num_unused == before.num_unused + 1
        item = {"position": 0, "draft_key": "d", "kind": "ok", "section": "s", "answer": "a"}
        item |= {"action": "keep", "reason": "ok", "call_id": "call_new", "evaluation_id": "rev_a"}
        store.append("refiner_evaluation_items", [item])
        report = collect(store)
    assert total_spend(report.spend).num_unused == before.num_unused
    page = render_html(report)
    assert "drafts with known answers" in page
    assert "Expected calibration error over 12 drafts: 10.0\u00a0% as the refiner said" in page
    assert "held 90.0\u00a0%" in page
    grid = grid_refiner(report.refiner)
    assert grid.rows[0][:3] == ("all", "11", "57.1\u00a0% (25.0–84.2)")
    assert [row[0] for row in grid.rows] == ["all", "off_source", "ok", "wrong_quantity"]
    assert grid.rows[3][5:] == ("25.0\u00a0%", "–", "–", "1")
    assert json.loads(json.dumps(asdict(report)))["refiner"]["num_drafts"] == 11
