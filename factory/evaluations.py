"""Evaluations: had from the evaluator, written item by item, read back for comparison and allocation.

Asking and scoring is the evaluator's; splitting a round's budget is factory.allocate's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, cast

from factory.allocate import SliceState
from factory.asking import judging_role
from factory.bench import Bench
from factory.comparison import Comparison, read_comparison
from factory.store.text import from_json
from factory.types import Evaluation, ItemResult, Json, Message, Split, digest

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

SAME = """
    SELECT e.id, list({'key': i.item_key, 'answer': i.answer, 'score': i.score}) AS items
    FROM evaluations e JOIN evaluation_items i ON i.evaluation_id = e.id
    WHERE e.run_id = ? AND e.model_id = ? AND e.split = ? AND e.metric = ? GROUP BY e.id"""

LOOKED = "SELECT 1 FROM training_steps WHERE model_id = ? AND step > 0 AND dev_loss IS NOT NULL LIMIT 1"


def evaluation_id(run_id: str, round_number: int, split: Split) -> str:
    """One evaluation for each run, round and split."""
    return "evl_" + digest([run_id, round_number, split])


async def judge_answers(
    bench: Bench, number: int, answered: Sequence[Evaluation], label: str
) -> list[Evaluation]:
    """The evaluations of one student with their scores, where a second model gives these; else as they are.

    That model is asked once all answers are there, so that two which share a device take turns once.
    """
    role = judging_role(bench.recipe)
    if role is None:
        return list(answered)
    judge = cast("Any", bench.evaluator).judge
    ask, judge_id = await bench.ask(role, "evaluate", number)
    judged: list[Evaluation] = []
    for each in answered:
        with bench.progress.stage(f"{label} {each.split} {role}", len(each.items), "items") as bar:
            judged.append(await judge(judge_id, each, ask, bar.update))
    return judged


def record_evaluation(
    bench: Bench,
    number: int,
    evaluation: Evaluation,
    before: Evaluation | None,
    comparison: Comparison | None,
) -> None:
    """Writes a round's evaluation with its items; `before` is the one it was compared with."""
    compared = {
        "compared_with": before.model_id if before else None,
        "comparison": asdict(comparison) if comparison else None,
    }
    key = evaluation_id(bench.run_id, number, evaluation.split)
    _write(bench, key, evaluation, {"round": number, **compared})


def record_by_hand(bench: Bench, evaluation: Evaluation) -> str:
    """Writes an evaluation that belongs to no round, unless the very same is there; returns its id."""
    about = (bench.run_id, evaluation.model_id, evaluation.split, evaluation.metric)
    answers = sorted((item.key, item.answer, item.score) for item in evaluation.items)
    for row in bench.store.select(SAME, about):
        if sorted((item["key"], item["answer"], item["score"]) for item in row["items"]) == answers:
            return str(row["id"])
    key = "evl_" + digest([*about, answers])
    _write(bench, key, evaluation, {"round": None})
    return key


def _write(bench: Bench, key: str, evaluation: Evaluation, more: dict[str, Json]) -> None:
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
        "model_id": evaluation.model_id,
        "split": evaluation.split,
        "metric": evaluation.metric,
        "num_items": len(evaluation.items),
        "mean": evaluation.mean,
        "low": evaluation.low,
        "high": evaluation.high,
    }
    bench.store.append("evaluation_items", items)
    bench.store.append("evaluations", [row | more])


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


def compare(bench: Bench, old: Evaluation, new: Evaluation) -> Comparison:
    """The evaluator's comparison of a student with the one in charge, and whether these items chose it."""
    return told_how_chosen(bench, bench.evaluator.compare(old, new), new)


def told_how_chosen(bench: Bench, comparison: Comparison, new: Evaluation) -> Comparison:
    """The comparison, with `chosen_on_dev` as the student's learning curve has it."""
    looked = bench.store.select(LOOKED, (new.model_id,)) if new.split == "dev" else []
    return replace(comparison, chosen_on_dev=bool(looked))


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
