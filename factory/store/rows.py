"""Values to rows and back: how the frozen values of factory.types lie in the tables.

Pure functions; the Store writes what they return. Columns that a row leaves out are NULL, and a
missing time of creation is the time of the append.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from factory.store.text import from_json, quick_json, restore
from factory.types import Decision, Message, Parent, Sample, Score, Seed, Source

Row = dict[str, Any]


def source_row(source: Source) -> Row:
    """A row of `sources`."""
    return _row(source)


def seed_row(seed: Seed) -> Row:
    """A row of `seeds`."""
    return _row(seed)


def sample_rows(samples: Iterable[Sample], run_id: str, round_number: int) -> tuple[list[Row], list[Row]]:
    """Rows of `samples` and of `edges`, one edge for each parent."""
    rows, edges = [], []
    for sample in samples:
        rows.append(
            {
                "id": sample.id,
                "run_id": run_id,
                "round": round_number,
                "strategy": sample.attributes.get("strategy", ""),
                "operation": sample.operation,
                "slice": sample.slice,
                "question": sample.question,
                "answer": sample.answer,
                "messages": quick_json([message._asdict() for message in sample.messages]),
                "attributes": sample.attributes,
                "content_hash": sample.content_hash,
            }
        )
        for parent in sample.parents:
            edges.append({"child": sample.id, "parent": parent.id, "relation": parent.relation})
    return rows, edges


def sample_from_row(row: Mapping[str, Any]) -> Sample:
    """The sample of a row that has id (or sample_id), operation, messages, attributes and content_hash.

    Parents lie in `edges`: they are taken from a column `parents`, a list of {"id", "relation"},
    where the query has one, and are empty otherwise.
    """
    messages = [Message(item["role"], item["content"]) for item in from_json(row["messages"])]
    parents = [Parent(item["id"], item["relation"]) for item in row.get("parents") or ()]
    return Sample(
        row["id"] if "id" in row else row["sample_id"],
        tuple(messages),
        tuple(parents),
        restore(row["operation"]),
        from_json(row["attributes"]),
        row["content_hash"],
    )


def decision_rows(
    decisions: Sequence[Decision], run_id: str, round_number: int, step: int, final_ids: Collection[str]
) -> tuple[list[Row], list[Row]]:
    """Rows of `decisions` and of `scores`; `final_ids` are the samples that these decisions settle."""
    rows = [
        {
            "run_id": run_id,
            "round": round_number,
            "sample_id": decision.sample_id,
            "step": step,
            "refiner": decision.refiner,
            "action": decision.action,
            "reason": decision.reason,
            "evidence": decision.evidence,
            "rewrite_id": decision.rewrite.id if decision.rewrite else None,
            "final": decision.sample_id in final_ids,
        }
        for decision in decisions
    ]
    scores = [{"run_id": run_id, **_row(score)} for decision in decisions for score in decision.scores]
    return rows, scores


def _row(value: Source | Seed | Score) -> Row:
    # dataclasses.asdict would copy every text deeply, at ten times the cost.
    return {name: getattr(value, name) for name in _NAMES[type(value)]}


_NAMES = {kind: tuple(each.name for each in fields(kind)) for kind in (Source, Seed, Score)}
