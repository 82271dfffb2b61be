"""What a student may learn to prefer, from what the factory has anyway, as lines of its dataset.

Pairs of a better and a worse answer to the same prompt come from refinement (what a sample became in the
dataset beside what was generated), from pairs that a strategy made, unless a judge saw them otherwise, and
from people who corrected an answer. What a person said goes before what the factory made of a sample. For KTO
what people kept or dropped are good and bad answers. What may hold a test item is in none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple, Protocol

from factory.preference import pair_of
from factory.store.rows import sample_from_row
from factory.store.text import restore
from factory.stored_labels import LATEST_VERDICTS
from factory.types import Json, Message, Sample

Method = Literal["dpo", "kto"]
Origin = Literal["refined", "judged", "verdict"]

# Every member, with the sample at the root of its rewrites, and what people and a judge said.
MEMBERS: Final = f"""
    WITH RECURSIVE way AS (
        SELECT m.sample_id, e.parent, 1 AS depth FROM dataset_samples m
        JOIN edges e ON e.child = m.sample_id AND e.relation = 'rewrite_of' WHERE m.dataset_id = $1
        UNION ALL
        SELECT way.sample_id, e.parent, way.depth + 1 FROM way
        JOIN edges e ON e.child = way.parent AND e.relation = 'rewrite_of'
    ), roots AS (
        SELECT sample_id, arg_max(parent, depth) AS root_id FROM way GROUP BY sample_id
    ), said AS ({LATEST_VERDICTS})
    SELECT s.*, root.messages AS root_messages, coalesce(own.action, 'keep') AS said,
           coalesce(of_root.action, 'drop') AS said_of_root,
           p.value AS prefers, p.sample_id IS NOT NULL AS is_judged
    FROM dataset_samples m JOIN samples s ON s.id = m.sample_id
    LEFT JOIN roots r ON r.sample_id = s.id LEFT JOIN samples root ON root.id = r.root_id
    LEFT JOIN said own ON own.sample_id = s.id LEFT JOIN said of_root ON of_root.sample_id = r.root_id
    LEFT JOIN scores p ON p.run_id = $2 AND p.sample_id = s.id
        AND p.metric = 'prefers_chosen' AND p.scorer = 'judge'
    WHERE m.dataset_id = $1 ORDER BY m.position"""  # noqa: S608 (constants)
# What people agree on about the run's samples, but those that its own check for leaks has not let pass.
JUDGED: Final = f"""
    SELECT s.*, v.action AS said, v.corrected FROM ({LATEST_VERDICTS}) v JOIN samples s ON s.id = v.sample_id
    WHERE v.num_opinions = 1 AND EXISTS (
        SELECT 1 FROM decisions d WHERE d.run_id = $1 AND d.sample_id = s.id
        AND (NOT $2 OR d.refiner = 'contamination' AND d.action = 'keep'))
    ORDER BY s.id"""  # noqa: S608 (constants)


class Streams(Protocol):
    """A store, row by row."""

    def stream(self, sql: str, params: tuple[Any, ...] = ()) -> Iterator[dict[str, Any]]: ...


class Preference(NamedTuple):
    """Where it comes from, and {"prompt", "chosen", "rejected"} or {"prompt", "completion", "label"}."""

    origin: Origin
    line: Json


def read_preferences(
    store: Streams, run_id: str, dataset_id: str, method: Method, *, checks_leaks: bool
) -> Iterator[Preference]:
    """One at a time: of the dataset's members in their order, then what people said of the run's samples.

    `checks_leaks`: the run has a step `contamination`, and only what passed it is taken.
    """
    for row in store.stream(MEMBERS, (dataset_id, run_id)):
        yield from _of_member(row)
    for row in store.stream(JUDGED, (run_id, checks_leaks)):
        yield from _of_verdict(row, method)


def with_both_sides(found: Iterable[Preference]) -> Iterator[Preference]:
    """All of them, or none where no answer is good or none is bad, of which KTO has nothing to learn.

    A pair holds both. What comes before there are both is held back: it is what people said, and no more.
    """
    waiting: list[Preference] = []
    labels: set[Any] = set()
    for each in found:
        labels |= {each.line["label"]} if "label" in each.line else {True, False}
        waiting.append(each)
        if len(labels) == 2:
            yield from waiting
            waiting.clear()


def _of_member(row: Mapping[str, Any]) -> Iterator[Preference]:
    if row["said"] != "keep":
        return
    sample = sample_from_row(row)
    if row["root_messages"] is not None and row["said_of_root"] != "keep":
        root = sample_from_row({**row, "messages": row["root_messages"]})
        if root.messages[:-1] == sample.messages[:-1] and (
            pair := _pair(sample, sample.messages[-1].content, root.messages[-1].content)
        ):
            yield Preference("refined", pair)
    if (not row["is_judged"] or row["prefers"] == 1) and (
        pair := pair_of(sample.messages, sample.attributes)
    ):
        yield Preference("judged", pair)


def _of_verdict(row: Mapping[str, Any], method: Method) -> Iterator[Preference]:
    sample = sample_from_row(row)
    answer = sample.messages[-1].content
    if row["said"] == "edit":
        corrected = restore(row["corrected"] or "")
        if corrected.strip() and (pair := _pair(sample, corrected, answer)):
            yield Preference("verdict", pair)
    elif method == "kto" and answer.strip() and "tools" not in sample.attributes:
        prompt = [message._asdict() for message in sample.messages[:-1]]
        completion = [sample.messages[-1]._asdict()]
        yield Preference(
            "verdict", {"prompt": prompt, "completion": completion, "label": row["said"] == "keep"}
        )


def _pair(sample: Sample, chosen: str, rejected: str) -> Json | None:
    """A pair of answers to the sample's prompt; None where they are the same, one is empty or calls tools."""
    if not rejected.strip():
        return None
    better = [*sample.messages[:-1], Message("assistant", chosen)]
    return pair_of(better, {**sample.attributes, "rejected": rejected})
