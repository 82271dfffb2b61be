"""A dataset is everything accepted so far, frozen: content-addressed, ordered, never replaced.

Rounds accumulate (arXiv 2404.01413: replacing data with the newest generation collapses, adding
to it does not). Where more passed than a round wants, it is the dataset of the round before and what is
chosen now (factory.candidates). The guards look at it before anybody trains on it. Files are written from
the store when a trainer or an export wants them, streamed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from factory import guard
from factory.bench import Bench
from factory.candidates import Selected, select
from factory.errors import TargetMissed
from factory.examples import student_examples, write_jsonl
from factory.store.rows import sample_from_row
from factory.student_preferences import Preference, read_preferences, with_both_sides
from factory.types import Json

# An empty answer, which only a run without refiners accepts, teaches nothing and is refused in training.
ACCEPTED = """
    SELECT d.sample_id, s.content_hash, d.round FROM decisions d JOIN samples s ON s.id = d.sample_id
    WHERE d.run_id = ? AND d.round <= ? AND d.final AND d.action = 'keep' AND s.answer <> ''
    ORDER BY d.round, d.sample_id"""

MEMBERS = """
    SELECT m.sample_id, s.content_hash FROM dataset_samples m JOIN samples s ON s.id = m.sample_id
    WHERE m.dataset_id = ? ORDER BY m.position"""

# The questions of a round's members beside others, slice by slice one to one: a round that turns to weak
# slices has other subjects, which is no collapse. Hashes give the order, which favours no sample.
PAIRS = """
    WITH own AS (
        SELECT d.round, s.slice, s.question AS text, row_number() OVER (
            PARTITION BY d.round, s.slice ORDER BY d.sample_id) AS place
        FROM dataset_samples m JOIN samples s ON s.id = m.sample_id
        JOIN decisions d ON d.run_id = $1 AND d.sample_id = m.sample_id AND d.final
        WHERE m.dataset_id = $5 AND d.round IN (1, $2)
    ), prompts AS (
        SELECT slice, prompt AS text, row_number() OVER (PARTITION BY slice ORDER BY id) AS place
        FROM seeds WHERE id = ANY($4)
    )
    SELECT own.text AS now, other.text AS other FROM own JOIN {other} other USING (slice, place)
    WHERE own.round = $2 ORDER BY place, slice LIMIT $3"""
FIRST_ROUND = "(SELECT * FROM own WHERE round = 1)"
SEEDS = "prompts"


async def freeze(bench: Bench, number: int, missed: TargetMissed | None = None) -> str:
    """Freezes what is accepted up to this round and checks it; returns the dataset's id.

    Raises GuardTripped, after the dataset and its measures were written down as evidence, and else `missed`
    where samples are missing: only where the stage is done may the dataset be trained on.
    """
    done = bench.done(number, "freeze")
    if done is not None:
        return str(done["dataset"])
    with bench.stage(number, "freeze") as detail:
        dataset_id, num_samples = await write_members(bench, number)
        now, first = measure(bench, number, dataset_id, FIRST_ROUND)
        as_seeds, seeds = measure(bench, number, dataset_id, SEEDS)
        measures = {"now": now, "first": first}
        if seeds["size"]:
            measures["seeds"] = {
                "size": seeds["size"],
                "distinct2": seeds["distinct2"],
                "now_distinct2": as_seeds["distinct2"],
            }
        row = {"id": dataset_id, "run_id": bench.run_id, "round": number, "num_samples": num_samples}
        bench.store.append("datasets", [{**row, "guards": measures}])
        detail.update({"dataset": dataset_id, "samples": num_samples, "guards": measures})
        guard.check(bench.recipe.guard, num_samples, now, first)
        for before, what, own in ((first, "round 1", now), (seeds, "the seeds", as_seeds)):
            if told := guard.warning(bench.recipe.guard, own, before, what):
                bench.progress.note(f"{bench.label(number)}, {told}")
        if missed:
            detail["missing"] = missed.num_missing
            raise missed
    return dataset_id


async def write_members(bench: Bench, number: int) -> tuple[str, int]:
    """Names the dataset by run, round and what is in it, and writes its members; two streaming passes.

    What a selection left out is part of the name too: what it chose from may grow and the choice stay.
    """
    spec, before = bench.recipe.loop.selection, _dataset_before(bench, number)
    selected = None if spec is None else await select(bench, number, spec, before)
    hasher, num_samples = hashlib.blake2b(f"{bench.run_id} {number}".encode(), digest_size=10), 0
    for row in _members(bench, number, before, selected):
        hasher.update(row["content_hash"].encode())
        num_samples += 1
    for each in selected or ():
        hasher.update(b"" if each.chosen else f" {each.content_hash}".encode())
    dataset_id = f"dat_{hasher.hexdigest()}"
    for each in selected or ():
        row = {"sample_id": each.sample_id, "chosen": each.chosen, "reason": each.reason}
        bench.store.append("selections", [{"dataset_id": dataset_id, **row, "evidence": each.evidence}])
    for position, row in enumerate(_members(bench, number, before, selected)):
        member = {"dataset_id": dataset_id, "sample_id": row["sample_id"], "position": position}
        bench.store.append("dataset_samples", [member])
    return dataset_id, num_samples


def _members(
    bench: Bench, number: int, before: str | None, selected: Sequence[Selected] | None
) -> Iterator[Mapping[str, Any]]:
    """What the dataset holds, in order; without a selection all that is accepted."""
    if selected is None:
        yield from bench.store.stream(ACCEPTED, (bench.run_id, number))
        return
    if before:
        yield from bench.store.stream(MEMBERS, (before,))
    yield from (each._asdict() for each in selected if each.chosen)


def _dataset_before(bench: Bench, number: int) -> str | None:
    """The dataset of the round before, None where this is the first."""
    done = bench.done(number - 1, "freeze")
    return str(done["dataset"]) if done else None


def measure(
    bench: Bench, number: int, dataset_id: str, other: str
) -> tuple[dict[str, float], dict[str, float]]:
    """Diversity of the questions that a round brought into its dataset, and of as many others by slice."""
    ids = [seed.id for seed in bench.domain.seeds]
    params = (bench.run_id, number, guard.SAMPLE_SIZE, ids, dataset_id)
    rows = bench.store.select(PAIRS.format(other=other), params)
    return guard.measure([row["now"] for row in rows]), guard.measure([row["other"] for row in rows])


def write_dataset(bench: Bench, dataset_id: str) -> Path:
    """The dataset as a JSONL file of lines that training reads, in the workspace; written once.

    Where the student learns preferences too, they follow the samples: what there is at that time.
    """
    path = bench.workspace / "datasets" / f"{dataset_id}.jsonl"
    if not path.exists():
        sql = """SELECT s.* FROM dataset_samples d JOIN samples s ON s.id = d.sample_id
                 WHERE d.dataset_id = ? ORDER BY d.position"""
        samples = map(sample_from_row, bench.store.stream(sql, (dataset_id,)))
        write_jsonl(chain(student_examples(samples), _preferences(bench, dataset_id)), path)
    return path


def _preferences(bench: Bench, dataset_id: str) -> Iterator[Json]:
    spec = bench.recipe.training.get("student")
    preference = spec.options().get("preference") if spec else None
    if preference is None:
        return
    checks_leaks = any(step.name == "contamination" for step in bench.recipe.refiners)
    method, origins = preference.get("method", "dpo"), Counter[str]()
    found = read_preferences(bench.store, bench.run_id, dataset_id, method, checks_leaks=checks_leaks)

    def counted() -> Iterator[Preference]:
        for each in found:
            origins[each.origin] += 1
            yield each

    num_lines = 0
    for each in with_both_sides(counted()) if method == "kto" else counted():
        num_lines += 1
        yield each.line
    told = ", ".join(f"{num:,} {origin}" for origin, num in sorted(origins.items())) or "none"
    if origins and not num_lines:
        told = f"none of {told}, for KTO needs good and bad answers and all are of one kind"
    bench.progress.note(f"{dataset_id}: preferences to learn after its samples: {told}")
