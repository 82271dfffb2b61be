"""Two models side by side on the same test items, and two datasets by what is in only one of them.

A model is taken as it was evaluated: of a round, a control or an adapter, on one split. Items are paired by
their keys; those that only one was asked are counted and left out. Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from factory.audit.pages import access, render
from factory.audit.subject import MAX_SHOWN
from factory.errors import InputError
from factory.significance import mcnemar, wilson
from factory.store.trace import ITEMS as RATED

PAGE: Final = 25  # items
ROWS: Final = 50  # samples
EXCERPT: Final = 400  # characters of a text in a table
CHANGES: Final = {"": "all", "better": "better", "worse": "worse", "same": "same"}
SIDES: Final = {"new": "only in the second", "gone": "only in the first"}

EVALUATIONS = """
    SELECT e.id, e.run_id, e.round, e.split, e.metric, e.num_items, e.mean, e.model_id, e.compared_with,
           coalesce(r.recipe, '') AS recipe, r.control, coalesce(m.name, e.model_id) AS model,
           m.adapter IS NOT NULL AS is_adapter
    FROM evaluations e LEFT JOIN runs r ON r.id = e.run_id LEFT JOIN models m ON m.id = e.model_id
    ORDER BY e.created_at DESC, e.id LIMIT 500"""
PAIRS = f"""
    FROM (SELECT * FROM {RATED} WHERE evaluation_id = $1) a
    JOIN (SELECT * FROM {RATED} WHERE evaluation_id = $2) b ON b.item_key = a.item_key"""  # noqa: S608 (text of ours)
TOTALS = f"""
    SELECT b.slice, count(*) AS num_items, sum(a.score) AS first, sum(b.score) AS second,
           count(*) FILTER (b.score > a.score) AS num_better, count(*) FILTER (b.score < a.score) AS num_worse
    {PAIRS} GROUP BY b.slice ORDER BY b.slice"""
ITEMS = f"""
    SELECT b.item_key, b.slice, b.question, b.expected, b.before,
           a.answer AS first_answer, a.score AS first_score, a.detail AS first_detail,
           a.call_id AS first_call, a.judge_call_id AS first_judgement,
           b.answer AS second_answer, b.score AS second_score, b.detail AS second_detail,
           b.call_id AS second_call, b.judge_call_id AS second_judgement
    {PAIRS}
    WHERE b.item_key > $3 AND ($4 = '' OR b.slice = $4)
      AND ($5 = '' OR $5 = CASE WHEN b.score > a.score THEN 'better' WHEN b.score < a.score THEN 'worse'
                                ELSE 'same' END)
    ORDER BY b.item_key LIMIT {PAGE + 1}"""
DATASETS = """
    SELECT d.id, d.run_id, d.round, d.num_samples, coalesce(r.recipe, '') AS recipe, r.control
    FROM datasets d LEFT JOIN runs r ON r.id = d.run_id ORDER BY d.created_at DESC, d.id LIMIT 500"""
SHARED = """
    SELECT count(*) AS n FROM (SELECT sample_id FROM dataset_samples WHERE dataset_id = $1) a
    JOIN (SELECT sample_id FROM dataset_samples WHERE dataset_id = $2) b ON b.sample_id = a.sample_id"""
SIZE = "SELECT count(*) AS n FROM dataset_samples WHERE dataset_id = ?"
ONLY = f"""
    SELECT sample_id FROM dataset_samples WHERE dataset_id = $1 AND sample_id > $3
      AND sample_id NOT IN (SELECT sample_id FROM dataset_samples WHERE dataset_id = $2)
    ORDER BY sample_id LIMIT {ROWS + 1}"""  # noqa: S608 (constants)
SAMPLES = f"""
    SELECT id, slice, strategy, operation, round, left(question, {EXCERPT + 1}) AS question,
           left(answer, {EXCERPT + 1}) AS answer
    FROM samples WHERE id IN (%s) ORDER BY id"""  # noqa: S608 (constants and placeholders)


@dataclass(frozen=True, slots=True)
class Totals:
    """Two models on the same items; `p_value` is McNemar's over those that changed."""

    num_items: int
    first: float
    second: float
    first_interval: tuple[float, float]
    second_interval: tuple[float, float]
    num_better: int
    num_worse: int
    p_value: float


def compare(request: Request) -> Response:
    """The page of two evaluations."""
    asks, given = access(request), request.query_params
    evaluations = asks.select(EVALUATIONS)
    by_id = {row["id"]: row for row in evaluations}
    first, second = _chosen(evaluations, by_id, given.get("a", ""), given.get("b", ""))
    change, slice_name = given.get("change", ""), given.get("slice", "")
    if change not in CHANGES:
        raise InputError("there is no such filter", where=change[:40], hint="better, worse or same")
    slices: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    if first and second:
        slices = asks.select(TOTALS, [first["id"], second["id"]])
        items = asks.select(ITEMS, [first["id"], second["id"], given.get("after", ""), slice_name, change])
    state = {"a": first["id"] if first else "", "b": second["id"] if second else ""}
    filters = {name: value for name, value in (("change", change), ("slice", slice_name)) if value}
    more = urlencode({**state, **filters, "after": items[PAGE - 1]["item_key"]}) if len(items) > PAGE else ""
    return render(
        request,
        "compare.jinja",
        evaluations=evaluations,
        first=first,
        second=second,
        slices=[(row["slice"], total([row])) for row in slices],
        total=total(slices),
        changes=CHANGES,
        change=change,
        slice_name=slice_name,
        items=items[:PAGE],
        more=more,
        start=urlencode({**state, **filters}) if given.get("after") else "",
        limit=MAX_SHOWN,
    )


def compare_datasets(request: Request) -> Response:
    """The page of two datasets."""
    asks, given = access(request), request.query_params
    datasets = asks.select(DATASETS)
    by_id = {row["id"]: row for row in datasets}
    second = by_id.get(given.get("b") or (datasets[0]["id"] if datasets else ""))
    first = by_id.get(given.get("a") or _dataset_before(datasets, second))
    side = given.get("side", "new")
    if side not in SIDES:
        raise InputError("there is no such side", where=side[:40], hint="new or gone")
    for name in ("a", "b"):
        _refuse_unknown(given.get(name, ""), by_id)
    counts, rows, more = {"both": 0, "new": 0, "gone": 0}, list[dict[str, Any]](), ""
    if first and second:
        ids = [first["id"], second["id"]]
        sizes = [int(asks.select(SIZE, [each])[0]["n"]) for each in ids]
        both = int(asks.select(SHARED, ids)[0]["n"])
        counts = {"both": both, "new": sizes[1] - both, "gone": sizes[0] - both}
        within, without = reversed(ids) if side == "new" else ids
        found = [row["sample_id"] for row in asks.select(ONLY, [within, without, given.get("after", "")])]
        if shown := found[:ROWS]:
            rows = asks.select(SAMPLES % ", ".join("?" * len(shown)), shown)
        state = {"a": ids[0], "b": ids[1], "side": side}
        more = urlencode({**state, "after": found[ROWS - 1]}) if len(found) > ROWS else ""
    return render(
        request,
        "compare_datasets.jinja",
        datasets=datasets,
        first=first,
        second=second,
        counts=counts,
        sides=SIDES,
        side=side,
        rows=rows,
        more=more,
        excerpt=EXCERPT,
    )


def total(slices: Sequence[dict[str, Any]]) -> Totals | None:
    """The sum over slices; None of no items."""
    num = sum(row["num_items"] for row in slices)
    if not num:
        return None
    first, second = (sum(row[name] for row in slices) / num for name in ("first", "second"))
    better, worse = (sum(row[name] for row in slices) for name in ("num_better", "num_worse"))
    intervals = wilson(first, num), wilson(second, num)
    return Totals(num, first, second, *intervals, better, worse, mcnemar(better, worse))


def _chosen(
    evaluations: Sequence[dict[str, Any]], by_id: dict[str, dict[str, Any]], first: str, second: str
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The two that are named; else the newest on test, and the one of the model that it was compared with."""
    for each in (first, second):
        _refuse_unknown(each, by_id)
    on_test = [row for row in evaluations if row["split"] == "test" and not row["control"]]
    after = by_id.get(second) or next(iter([*on_test, *evaluations]), None)
    if after is None or first:
        return by_id.get(first), after
    items = after["split"], after["metric"]
    alike = [
        row for row in evaluations if (row["split"], row["metric"]) == items and row["id"] != after["id"]
    ]
    before = next((row for row in alike if row["model_id"] == after["compared_with"]), None)
    return before or next(iter(alike), None), after


def _refuse_unknown(given: str, known: dict[str, dict[str, Any]]) -> None:
    if given and given not in known:
        raise InputError("nothing of this id can be compared", where=given[:80])


def _dataset_before(datasets: Sequence[dict[str, Any]], second: dict[str, Any] | None) -> str:
    """The one that the same run froze before, else any other."""
    if second is None:
        return ""
    others = [row for row in datasets if row["id"] != second["id"]]
    same = [row for row in others if row["run_id"] == second["run_id"] and row["round"] < second["round"]]
    return str(next(iter([*same, *others]), {"id": ""})["id"])


routes = [Route("/compare", compare), Route("/compare/datasets", compare_datasets)]
