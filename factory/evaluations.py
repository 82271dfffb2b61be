"""Evaluations: had from the evaluator, written item by item, read back for comparison and allocation.

Asking and scoring is the evaluator's; splitting a round's budget is factory.allocate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, cast

from factory.allocate import SliceState
from factory.asking import judging_role
from factory.bench import Bench
from factory.comparison import Comparison, read_comparison
from factory.ports import Ask
from factory.store.text import from_json
from factory.types import Evaluation, ItemResult, Message, Split, digest

TOKENS = """
    WITH asked AS (
        SELECT r.sample_id, e.parent AS call_id FROM round_samples r
        JOIN edges e ON e.child = r.sample_id AND e.relation = 'call'
        WHERE r.run_id = $1 AND r.round = $2
        UNION SELECT d.sample_id, d.evidence ->> 'call' FROM decisions d
        WHERE d.run_id = $1 AND d.round = $2
        UNION SELECT d.sample_id, unnest(d.evidence ->> '$.calls[*]') FROM decisions d
        WHERE d.run_id = $1 AND d.round = $2
        UNION SELECT d.sample_id, e.parent FROM decisions d
        JOIN edges e ON e.child = d.rewrite_id AND e.relation = 'call'
        WHERE d.run_id = $1 AND d.round = $2
    )
    SELECT slice, sum(c.prompt_tokens + c.completion_tokens) AS tokens
    FROM (SELECT DISTINCT s.slice, a.call_id FROM asked a JOIN samples s ON s.id = a.sample_id)
    JOIN calls c ON c.id = call_id AND c.status = 'ok' GROUP BY slice"""


def evaluation_id(run_id: str, round_number: int, split: Split) -> str:
    """One evaluation for each run, round and split."""
    return "evl_" + digest([run_id, round_number, split])


async def evaluate_splits(
    bench: Bench, number: int, splits: Sequence[Split], model_id: str, ask: Ask, label: str
) -> list[Evaluation]:
    """A student's evaluations on these splits; `ask` is its own.

    Where a second model scores the answers, it is asked once all of them are there, so that two models which
    share a device take turns once.
    """
    found = []
    for split in splits:
        items = getattr(bench.domain, split)
        with bench.progress.stage(f"{label} {split}", len(items), "items") as bar:
            found.append(await bench.evaluator.evaluate(model_id, split, items, ask, bar.update))
    role = judging_role(bench.recipe)
    if role is None:
        return found
    judge = cast("Any", bench.evaluator).judge
    own_ask, _ = await bench.ask(role, "evaluate", number)
    judged: list[Evaluation] = []
    for each in found:
        with bench.progress.stage(f"{label} {each.split} {role}", len(each.items), "items") as bar:
            judged.append(await judge(each, own_ask, bar.update))
    return judged


def record_evaluation(
    bench: Bench,
    number: int,
    evaluation: Evaluation,
    before: Evaluation | None,
    comparison: Comparison | None,
) -> None:
    """Writes an evaluation with its items; `before` is the one it was compared with."""
    key = evaluation_id(bench.run_id, number, evaluation.split)
    items = [
        {
            "evaluation_id": key,
            "item_key": item.key,
            "slice": item.slice,
            "cluster": item.cluster,
            "question": item.question,
            "expected": item.expected,
            "answer": item.answer,
            "score": item.score,
            "call_id": item.call_id,
            "before": [message._asdict() for message in item.before] or None,
            "detail": item.detail or None,
            "judge_call_id": item.judge_call_id or None,
        }
        for item in evaluation.items
    ]
    row = {
        "id": key,
        "run_id": bench.run_id,
        "round": number,
        "model_id": evaluation.model_id,
        "split": evaluation.split,
        "metric": evaluation.metric,
        "num_items": len(evaluation.items),
        "mean": evaluation.mean,
        "low": evaluation.low,
        "high": evaluation.high,
        "compared_with": before.model_id if before else None,
        "comparison": asdict(comparison) if comparison else None,
    }
    bench.store.append("evaluation_items", items)
    bench.store.append("evaluations", [row])


def load_evaluation(bench: Bench, number: int, split: Split) -> Evaluation | None:
    """The evaluation of a round; a control's base is the main run's."""
    run_id = bench.run_id if number else bench.run_id.removesuffix(f"_{bench.control}")
    key = evaluation_id(run_id, number, split)
    rows = bench.store.select("SELECT * FROM evaluations WHERE id = ?", (key,))
    if not rows:
        return None
    found = bench.store.select(
        "SELECT * FROM evaluation_items WHERE evaluation_id = ? ORDER BY item_key", (key,)
    )
    items = tuple(
        ItemResult(
            item["item_key"],
            item["slice"],
            item["cluster"],
            item["question"],
            item["expected"],
            item["answer"],
            item["score"],
            item["call_id"],
            tuple(Message(**message) for message in from_json(item["before"] or "[]")),
            item["detail"] or "",
            item["judge_call_id"] or "",
        )
        for item in found
    )
    row = rows[0]
    return Evaluation(row["model_id"], split, row["metric"], row["mean"], row["low"], row["high"], items)


def load_comparison(bench: Bench, number: int, split: Split, with_model: str) -> Comparison | None:
    """What was found when the round's student was compared with this model; None where it was not.

    What was found stays: a later version of the gate decides about later rounds.
    """
    rows = bench.store.select(
        "SELECT comparison FROM evaluations WHERE id = ? AND compared_with = ? AND comparison IS NOT NULL",
        (evaluation_id(bench.run_id, number, split), with_model),
    )
    return read_comparison(from_json(rows[0]["comparison"])) if rows else None


def slice_states(bench: Bench, number: int) -> dict[str, SliceState]:
    """What dev says before round `number`, by slice; empty before the first evaluation.

    The base's own accuracy is no gain, so before round 1 all slices have gained the same: nothing.

    Tokens are those of the last round's generation and refinement, by the slice of the sample that
    rests on the call: as its parent, or as what a refiner decided by.
    """
    last = load_evaluation(bench, number - 1, "dev")
    if last is None:
        return {}
    previous = load_evaluation(bench, number - 2, "dev") if number >= 2 else None
    spent = bench.store.select(TOKENS, (bench.run_id, number - 1))
    tokens = {row["slice"]: int(row["tokens"]) for row in spent}
    before, after = means(previous), means(last)
    counts = {name: sum(item.slice == name for item in last.items) for name in after}
    return {
        name: SliceState(
            after[name], before.get(name, after[name]), counts[name] / len(last.items), tokens.get(name, 0)
        )
        for name in after
    }


def means(evaluation: Evaluation | None) -> dict[str, float]:
    """Mean score of each slice."""
    scores: dict[str, list[float]] = {}
    for item in evaluation.items if evaluation else ():
        scores.setdefault(item.slice, []).append(item.score)
    return {name: sum(values) / len(values) for name, values in scores.items()}
