"""A small run written by hand: two samples from one source, one rewritten and accepted, one dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edited import with_answer

from factory.store.rows import decision_rows, sample_rows, seed_row, source_row
from factory.store.store import Store
from factory.types import Decision, Message, Parent, Sample, Score, Seed, Source


@dataclass(frozen=True)
class Example:
    """The things of the run that tests ask about."""

    source: Source
    seed: Seed
    good: Sample
    better: Sample
    bad: Sample


def call(call_id: str, **changes: Any) -> dict[str, Any]:
    """A row of `calls`, answered unless changed."""
    row = {
        "id": call_id,
        "run_id": "run_a",
        "round": 1,
        "stage": "generate",
        "role": "teacher",
        "model_id": "mdl_teacher",
        "request": {"messages": []},
        "response": f"answer of {call_id}",
        "status": "ok",
        "finish_reason": "stop",
        "attempts": 1,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "latency_ms": 250.0,
        "cost_dollars": 0.5,
    }
    return row | changes


def example() -> Example:
    source = Source.create("34-9-80", "handbook.md", "§ 34-9-80", "Notice", "Within 30 days.", "notice")
    seed = Seed.create("s1", "When must notice be given?", "notice")
    question, wrong = Message("user", "When?"), Message("assistant", "Within 60 days.")
    attributes = {"slice": "notice", "strategy": "grounded"}
    parents = [Parent(source.id, "source"), Parent(seed.id, "seed"), Parent("call_1", "call")]
    good = Sample.create([question, wrong], parents, "grounded", attributes)
    better = with_answer(good, "Within 30 days.", [Parent("call_3", "call")])
    garbled = Message("assistant", "\x1b[2J[red]oops\u202e")
    bad = Sample.create(
        [question, garbled], [Parent(source.id, "source"), Parent("call_2", "call")], "grounded", attributes
    )
    return Example(source, seed, good, better, bad)


LOST = {"lost_tokens": 900, "lost_dollars": 0.25}


def fill(store: Store, lost: dict[str, float] = LOST) -> Example:
    """Writes the run `run_a` into the store; `lost` is what its failed call may have cost."""
    made = example()
    store.append(
        "runs", [{"id": "run_a", "recipe": "georgia", "digest": "d", "config": {"a": 1}, "version": "0.1"}]
    )
    store.append("sources", [source_row(made.source)])
    store.append("seeds", [seed_row(made.seed)])
    event = {"run_id": "run_a", "round": 1, "detail": {}}
    frozen = event | {"stage": "freeze", "status": "done", "detail": {"dataset": "dat_1"}}
    store.append("stages", [frozen])
    for stage, state in (("generate", "started"), ("generate", "done"), ("refine", "started")):
        store.append("stages", [event | {"stage": stage, "status": state}])
    store.append(
        "models",
        [
            {"id": "mdl_teacher", "role": "teacher", "name": "teacher", "base": "teacher/"},
            {"id": "mdl_student", "role": "student", "name": "student-1", "base": "base/", "run_id": "run_a"}
            | {"round": 1, "dataset_id": "dat_1", "adapter": "adapters/1"},
        ],
    )
    refine = {"stage": "refine", "role": "refiner", "model_id": "mdl_refiner"}
    failed = call("call_4", status="failed", response=None, error="timeout", attempts=3, completion_tokens=0)
    failed |= lost
    store.append("calls", [call("call_1"), call("call_2"), call("call_3", **refine), failed])
    for table, rows in zip(("samples", "edges"), sample_rows([made.good, made.bad], "run_a", 1), strict=True):
        store.append(table, rows)
    for table, rows in zip(("samples", "edges"), sample_rows([made.better], "run_a", 1), strict=True):
        store.append(table, rows)
    decide(store, made)
    store.append("datasets", [{"id": "dat_1", "run_id": "run_a", "round": 1, "num_samples": 1, "guards": {}}])
    store.append("dataset_samples", [{"dataset_id": "dat_1", "sample_id": made.better.id, "position": 0}])
    evaluate(store)
    store.flush()
    return made


def decide(store: Store, made: Example) -> None:
    """Form drops the bad one; edit rewrites the good one; form and citation keep the rewrite."""
    good, better, bad = made.good, made.better, made.bad
    score = Score(good.id, "correctness", None, "edit", "mdl_refiner")
    steps = [
        (
            0,
            [Decision(good.id, "form", "keep", "ok"), Decision(bad.id, "form", "drop", "not_json")],
            {bad.id},
        ),
        (1, [Decision(good.id, "edit", "rewrite", "wrong_quantity", better, (score,))], {good.id}),
        (0, [Decision(better.id, "form", "keep", "ok")], set()),
        (2, [Decision(better.id, "citation", "keep", "ok", evidence={"found": ["§ 34-9-80"]})], {better.id}),
    ]
    for step, decisions, final_ids in steps:
        rows, scores = decision_rows(decisions, "run_a", 1, step, final_ids)
        store.append("decisions", rows)
        store.append("scores", scores)


def evaluate(store: Store) -> None:
    """The student's evaluation on four dev items of two slices."""
    item = {"evaluation_id": "evl_1", "cluster": "c", "question": "q", "expected": "e", "answer": "a"}
    answers = [("notice", 1.0), ("notice", 0.0), ("benefits", 1.0), ("benefits", 1.0)]
    store.append(
        "evaluation_items",
        [
            item | {"item_key": f"i{n}", "slice": name, "score": score, "call_id": f"call_e{n}"}
            for n, (name, score) in enumerate(answers)
        ],
    )
    row = {"id": "evl_1", "run_id": "run_a", "round": 1, "model_id": "mdl_student", "split": "dev"}
    numbers = {"metric": "exact", "num_items": 4, "mean": 0.75, "low": 0.3, "high": 0.95}
    gate = {"gain": 0.5, "gain_low": 0.1, "p_value": 0.03, "promote": True, "reason": "gain"}
    store.append("evaluations", [row | numbers | {"compared_with": "mdl_base", "comparison": gate}])
