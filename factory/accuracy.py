"""How well each student of a run did on the test split, and whether the last one is truly better.

A run is reported together with its controls: base first, then each control, then each round.
Intervals of slices are Wilson's; comparisons are paired item by item. All of it is read from the
store with SQL. Which student gets promoted is not decided here, and never on the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from factory.significance import mcnemar, wilson

Kind = Literal["base", "control", "round"]

# A call counts in the first round that rests on it.
TEACHER_CALLS = """
    WITH used AS (
        SELECT r.run_id, e.parent AS id, min(r.round) AS round FROM round_samples r
        JOIN edges e ON e.child = r.sample_id AND e.relation = 'call'
        WHERE list_contains($1::VARCHAR[], r.run_id) GROUP BY r.run_id, e.parent
    ), counted AS (
        SELECT u.run_id, u.round, 1 AS used, 0 AS paid FROM used u
        JOIN calls c ON c.id = u.id AND c.role = 'teacher' AND c.status = 'ok'
        UNION ALL SELECT run_id, round, 0, 1 FROM calls
        WHERE role = 'teacher' AND status = 'ok' AND list_contains($1::VARCHAR[], run_id)
    )
    SELECT run_id, round, sum(used)::BIGINT AS num_used, sum(paid)::BIGINT AS num_paid
    FROM counted GROUP BY run_id, round"""


class Selects(Protocol):
    """Anything that answers SQL: the store itself, or whatever asks the process that holds it."""

    def select(self, sql: str, params: Sequence[Any] = (), /) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Accuracy:
    """A mean score in [0, 1] with its 95 % interval."""

    mean: float
    low: float
    high: float
    num_items: int


@dataclass(frozen=True)
class ModelResult:
    """A student on the test split, with what was asked for it up to its round.

    `num_teacher_calls` are the answers that its run's samples rest on, whoever paid for them;
    `num_teacher_calls_paid` are those that its own run was answered, found nowhere.
    """

    label: str
    kind: Kind
    run_id: str
    round: int
    model_id: str
    evaluation_id: str
    metric: str
    overall: Accuracy
    slices: Mapping[str, Accuracy]
    num_samples: int
    num_teacher_calls: int
    num_teacher_calls_paid: int


@dataclass(frozen=True)
class Paired:
    """`label` against `against` on the same items; `gain` is the difference of mean scores."""

    label: str
    against: str
    num_items: int
    num_better: int
    num_worse: int
    gain: float
    p_value: float


def read_results(store: Selects, run_id: str, control_ids: Sequence[str]) -> tuple[ModelResult, ...]:
    """The students of a run and its controls in the order base, controls, rounds."""
    rows = store.select(
        """
        SELECT e.id, e.run_id, e.round, r.control, e.model_id, e.metric, e.num_items, e.mean, e.low, e.high,
               coalesce(d.num_samples, 0) AS num_samples
        FROM evaluations e JOIN runs r ON r.id = e.run_id
        LEFT JOIN datasets d ON d.run_id = e.run_id AND d.round = e.round
        WHERE e.split = 'test' AND e.round IS NOT NULL AND list_contains(?::VARCHAR[], e.run_id)
          AND (r.control IS NULL OR e.round > 0)
        QUALIFY row_number() OVER (PARTITION BY e.run_id, e.round ORDER BY e.created_at DESC, e.id) = 1
        ORDER BY e.round > 0, r.control IS NULL, list_position(?::VARCHAR[], e.run_id), e.round
        """,
        ([run_id, *control_ids], [run_id, *control_ids]),
    )
    slices = _slices(store, [row["id"] for row in rows])
    calls = store.select(TEACHER_CALLS, ([run_id, *control_ids],))
    return tuple(_result(row, slices.get(row["id"], {}), calls) for row in rows)


def _result(
    row: Mapping[str, Any], slices: Mapping[str, Accuracy], calls: Sequence[Mapping[str, Any]]
) -> ModelResult:
    asked = [call for call in calls if call["run_id"] == row["run_id"] and call["round"] <= row["round"]]
    kind: Kind = "base" if row["round"] == 0 else "control" if row["control"] else "round"
    return ModelResult(
        label={"base": "base", "control": row["control"], "round": f"round {row['round']}"}[kind],
        kind=kind,
        run_id=row["run_id"],
        round=row["round"],
        model_id=row["model_id"],
        evaluation_id=row["id"],
        metric=row["metric"],
        overall=Accuracy(row["mean"], row["low"], row["high"], row["num_items"]),
        slices=slices,
        num_samples=row["num_samples"],
        num_teacher_calls=sum(call["num_used"] for call in asked),
        num_teacher_calls_paid=sum(call["num_paid"] for call in asked),
    )


def _slices(store: Selects, evaluation_ids: Sequence[str]) -> dict[str, dict[str, Accuracy]]:
    found: dict[str, dict[str, Accuracy]] = {}
    for row in store.select(
        "SELECT evaluation_id, slice, count(*) AS n, avg(score) AS mean FROM evaluation_items "
        "WHERE list_contains(?::VARCHAR[], evaluation_id) GROUP BY ALL ORDER BY slice",
        (list(evaluation_ids),),
    ):
        low, high = wilson(row["mean"], row["n"])
        found.setdefault(row["evaluation_id"], {})[row["slice"]] = Accuracy(row["mean"], low, high, row["n"])
    return found


def compare_last(store: Selects, results: Sequence[ModelResult]) -> tuple[Paired, ...]:
    """The last round's student against every other one, item by item."""
    rounds = [result for result in results if result.kind == "round"]
    if not rounds:
        return ()
    return tuple(_compare(store, rounds[-1], other) for other in results if other is not rounds[-1])


def _compare(store: Selects, new: ModelResult, old: ModelResult) -> Paired:
    row = store.select(
        """
        SELECT count(*) AS num_items, count(*) FILTER (new.score > old.score) AS num_better,
               count(*) FILTER (new.score < old.score) AS num_worse,
               coalesce(avg(new.score - old.score), 0) AS gain
        FROM evaluation_items new JOIN evaluation_items old USING (item_key)
        WHERE new.evaluation_id = ? AND old.evaluation_id = ?
        """,
        (new.evaluation_id, old.evaluation_id),
    )[0]
    p_value = mcnemar(row["num_better"], row["num_worse"])
    return Paired(new.label, old.label, p_value=p_value, **row)
