"""A dataset is everything accepted so far, frozen: content-addressed, ordered, never replaced.

Rounds accumulate (arXiv 2404.01413: replacing data with the newest generation collapses, adding
to it does not). The guards look at it before anybody trains on it. Files are written from the
store when a trainer or an export wants them, streamed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from factory import guard
from factory.bench import Bench
from factory.errors import TargetMissed
from factory.examples import student_examples, write_jsonl
from factory.store.rows import sample_from_row

# An empty answer, which only a run without refiners accepts, teaches nothing and is refused in training.
ACCEPTED = """
    SELECT d.sample_id, s.content_hash, d.round FROM decisions d JOIN samples s ON s.id = d.sample_id
    WHERE d.run_id = ? AND d.round <= ? AND d.final AND d.action = 'keep' AND s.answer <> ''
    ORDER BY d.round, d.sample_id"""

# A round's accepted questions beside others, slice by slice one to one: a round that turns to weak slices has
# other subjects, which is no collapse. Hashes give the order, which favours no sample.
PAIRS = """
    WITH own AS (
        SELECT d.round, s.slice, s.question AS text, row_number() OVER (
            PARTITION BY d.round, s.slice ORDER BY d.sample_id) AS place
        FROM decisions d JOIN samples s ON s.id = d.sample_id
        WHERE d.run_id = $1 AND d.round IN (1, $2) AND d.final AND d.action = 'keep'
    ), prompts AS (
        SELECT slice, prompt AS text, row_number() OVER (PARTITION BY slice ORDER BY id) AS place
        FROM seeds WHERE id = ANY($4)
    )
    SELECT own.text AS now, other.text AS other FROM own JOIN {other} other USING (slice, place)
    WHERE own.round = $2 ORDER BY place, slice LIMIT $3"""
FIRST_ROUND = "(SELECT * FROM own WHERE round = 1)"
SEEDS = "prompts"


def freeze(bench: Bench, number: int, missed: TargetMissed | None = None) -> str:
    """Freezes what is accepted up to this round and checks it; returns the dataset's id.

    Raises GuardTripped, after the dataset and its measures were written down as evidence, and else `missed`
    where samples are missing: only where the stage is done may the dataset be trained on.
    """
    done = bench.done(number, "freeze")
    if done is not None:
        return str(done["dataset"])
    with bench.stage(number, "freeze") as detail:
        dataset_id, num_samples = write_members(bench, number)
        now, first = measure(bench, number, FIRST_ROUND)
        as_seeds, seeds = measure(bench, number, SEEDS)
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


def write_members(bench: Bench, number: int) -> tuple[str, int]:
    """Names the dataset by run, round and what is in it, and writes its members; two streaming passes."""
    hasher, num_samples = hashlib.blake2b(f"{bench.run_id} {number}".encode(), digest_size=10), 0
    for row in bench.store.stream(ACCEPTED, (bench.run_id, number)):
        hasher.update(row["content_hash"].encode())
        num_samples += 1
    dataset_id = f"dat_{hasher.hexdigest()}"
    for position, row in enumerate(bench.store.stream(ACCEPTED, (bench.run_id, number))):
        member = {"dataset_id": dataset_id, "sample_id": row["sample_id"], "position": position}
        bench.store.append("dataset_samples", [member])
    return dataset_id, num_samples


def measure(bench: Bench, number: int, other: str) -> tuple[dict[str, float], dict[str, float]]:
    """Diversity of a round's own accepted questions, and of as many others of the same slices."""
    ids = [seed.id for seed in bench.domain.seeds]
    params = (bench.run_id, number, guard.SAMPLE_SIZE, ids)
    rows = bench.store.select(PAIRS.format(other=other), params)
    return guard.measure([row["now"] for row in rows]), guard.measure([row["other"] for row in rows])


def write_dataset(bench: Bench, dataset_id: str) -> Path:
    """The dataset as a JSONL file of lines that training reads, in the workspace; written once."""
    path = bench.workspace / "datasets" / f"{dataset_id}.jsonl"
    if not path.exists():
        sql = """SELECT s.* FROM dataset_samples d JOIN samples s ON s.id = d.sample_id
                 WHERE d.dataset_id = ? ORDER BY d.position"""
        write_jsonl(student_examples(map(sample_from_row, bench.store.stream(sql, (dataset_id,)))), path)
    return path
