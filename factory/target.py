"""What a round with a target came to: the step that cuts off the surplus, and the counts of what was reached.

The last step of such a round, `target`, keeps the first samples of each slice and drops what is beyond its
target as `surplus`: the accepted samples are exactly those that were asked for, and the others stay in the
store with the reason. Where a selection will ask an endpoint for their vectors, the kept ones have them from
here, while the budget lasts. How a round gets there is in factory.reach.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel

from factory.bench import Bench
from factory.candidates import embed
from factory.errors import BudgetExceeded, TargetMissed
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Sample
from factory.waves import Cell

if TYPE_CHECKING:
    from factory.embedding.options import Embedder

STEP = "target"  # what decisions of the last step are signed with

# The samples that came as far as the last step, by the cell of the generated one that they descend from.
REACHED = """
    WITH RECURSIVE line (root, id) AS (
        SELECT sample_id, sample_id FROM round_samples
        WHERE run_id = $1 AND round = $2 AND position < $3
        UNION SELECT l.root, d.rewrite_id FROM line l
        JOIN decisions d ON d.run_id = $1 AND d.sample_id = l.id AND d.rewrite_id IS NOT NULL
    )
    SELECT s.strategy, s.slice, count(DISTINCT l.id) AS n FROM line l
    JOIN decisions d ON d.run_id = $1 AND d.round = $2 AND d.sample_id = l.id AND d.refiner = $4 AND d.final
    JOIN samples s ON s.id = l.root GROUP BY s.strategy, s.slice"""
ACCEPTED = """
    SELECT s.slice, count(*) AS n FROM decisions d JOIN samples s ON s.id = d.sample_id
    WHERE d.run_id = ? AND d.round = ? AND d.final AND d.action = 'keep' GROUP BY s.slice"""
DROPPED = """
    SELECT d.reason, count(*) AS n FROM decisions d JOIN samples s ON s.id = d.sample_id
    WHERE d.run_id = ? AND d.round = ? AND d.final AND d.action = 'drop' AND s.slice = ?
    GROUP BY d.reason ORDER BY n DESC, d.reason LIMIT 1"""


class TargetOptions(Strict):
    """None: the targets come from the allocation."""


class Target:
    """The last step of a round with a target: keeps the first samples of a slice, as many as it has room.

    With an `embedder` those that it keeps are embedded, so that what the account keeps is there to choose by
    though the budget ends here: a sample whose vector it cannot bear is not kept but stays open.
    """

    Options: ClassVar[type[BaseModel]] = TargetOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, room: Mapping[str, int], embedder: Embedder | None = None) -> None:
        self.room = dict(room)
        self._embedder = embedder

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing: the room is that of one round, and what is kept already was taken off it."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order; raises what the embedder does, and has then kept none."""
        room = dict(self.room)
        decisions = [_judge(sample, room) for sample in samples]
        kept = [sample for sample, each in zip(samples, decisions, strict=True) if each.action == "keep"]
        if self._embedder and kept:
            await embed(self._embedder, kept)
        self.room = room
        return decisions


def _judge(sample: Sample, room: dict[str, int]) -> Decision:
    if room.get(sample.slice, 0) <= 0:
        return Decision(sample.id, STEP, "drop", "surplus")
    room[sample.slice] -= 1
    return Decision(sample.id, STEP, "keep", "ok")


def num_reached(bench: Bench, number: int, end: int) -> dict[Cell, int]:
    """Samples of a round, from positions before `end`, that were good enough: kept, or dropped as surplus."""
    rows = bench.store.select(REACHED, (bench.run_id, number, end, STEP))
    return {(row["strategy"], row["slice"]): int(row["n"]) for row in rows}


def num_accepted(bench: Bench, number: int) -> dict[str, int]:
    """Accepted samples of a round by slice."""
    rows = bench.store.select(ACCEPTED, (bench.run_id, number))
    return {row["slice"]: int(row["n"]) for row in rows}


def num_missing(bench: Bench, number: int, targets: Mapping[str, int]) -> dict[str, int]:
    """Samples that slices lack, where they do."""
    accepted = num_accepted(bench, number)
    lacking = {slice: num - accepted.get(slice, 0) for slice, num in targets.items()}
    return {slice: num for slice, num in lacking.items() if num > 0}


def refuse_if_missed(
    bench: Bench, number: int, targets: Mapping[str, int], spent: BudgetExceeded | None
) -> None:
    """Raises TargetMissed where samples are missing, which says how many and why: `spent`, or slices."""
    missing = num_missing(bench, number, targets)
    if not missing:
        return
    total, lacking = sum(targets.values()), sum(missing.values())
    num = total - lacking
    what = f"round {number} has {num:,} of {total:,} accepted samples"
    keeps = "; `factory export` writes what there is" if num else ""
    if spent:
        what, hint = f"{what}: {spent.what}", f"{spent.hint}{keeps}"
        raise TargetMissed(what, num, lacking, where=spent.where, hint=hint)
    dry = ", ".join(_explain(bench, number, slice, each) for slice, each in missing.items())
    what, hint = f"{what}: nothing more comes of {dry}", f"mend what drops them, or ask for fewer{keeps}"
    raise TargetMissed(what, num, lacking, where="loop.accepted", hint=hint)


def _explain(bench: Bench, number: int, slice: str, lacking: int) -> str:
    """A slice with what it lacks, and what most of its samples were dropped for."""
    rows = bench.store.select(DROPPED, (bench.run_id, number, slice))
    why = f", {rows[0]['n']:,} dropped as {rows[0]['reason']}" if rows else ""
    return f"{slice} ({lacking:,} missing{why})"
