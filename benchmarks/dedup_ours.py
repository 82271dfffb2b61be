"""Our contender of `benchmarks.dedup`: python -m benchmarks.dedup_ours refiner|store DATA DROPPED THRESHOLD.

The product's own refiner `near`, opened, in the batches of a run: alone, or as a step of a run whose samples
are in a store and whose decisions are committed to it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.measure import measured
from factory.domain import Domain
from factory.recipe import Recipe
from factory.refine import BATCH_SIZE, Refining
from factory.store.rows import sample_rows
from factory.store.store import Store
from factory.types import Completion, Message, Sample
from refiners.near import Near, NearOptions

Rows = Sequence[tuple[str, str]]
RUN = "run_dedup"


def near(threshold: float) -> Near:
    """The refiner, in a domain without sections, over no samples yet."""
    recipe = Recipe.model_validate(
        {
            "name": "dedup",
            "domain": {"title": "None"},
            "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
            "servers": {"here": {"kind": "scripted"}},
            "models": {"teacher": {"server": "here"}},
            "strategies": [{"name": "template"}],
        }
    )
    domain = Domain(recipe=recipe, folder=Path(), sources=(), seeds=(), dev=(), test=(), drafts=())
    made = Near(NearOptions(threshold=threshold), domain)
    made.open(())
    return made


def sample(number: int, row: tuple[str, str]) -> Sample:
    """One sample with its number as id."""
    messages = (Message("user", row[0]), Message("assistant", row[1]))
    return Sample(str(number), messages, (), "template", {"slice": "all"}, str(number))


async def ask(*_: Any, **__: Any) -> Completion:
    raise AssertionError("no model is asked")


async def through_refiner(rows: Rows, threshold: float) -> list[str]:
    """The ids that the refiner drops."""
    refiner, dropped = near(threshold), []
    numbered = enumerate(rows)
    while batch := [sample(*each) for each in islice(numbered, BATCH_SIZE)]:
        decisions = await refiner.refine(batch, ask)
        dropped += [each.sample_id for each in decisions if each.action == "drop"]
    return dropped


async def through_store(rows: Rows, threshold: float, folder: Path) -> list[str]:
    """The ids that a run's store says were dropped; samples are stored too."""
    with Store.open(folder) as store:
        refining = Refining(store, RUN, 1, [("near", near(threshold))])
        numbered = enumerate(rows)
        while batch := [sample(*each) for each in islice(numbered, BATCH_SIZE)]:
            made, edges = sample_rows(batch, RUN, 1)
            store.append("samples", made)
            store.append("edges", edges)
            await refining.settle(batch, ask)
        return [
            row["sample_id"] for row in store.select("SELECT sample_id FROM decisions WHERE action = 'drop'")
        ]


def main() -> None:
    way, data, out, threshold = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    with data.open() as file:
        rows = [(row["question"], row["answer"]) for row in map(json.loads, file)]
    asyncio.run(through_refiner(rows[:2], threshold))  # the compiled code is there, as after the first run
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with measured() as found, tempfile.TemporaryDirectory(prefix="factory-bench-") as folder:
        if way == "store":
            dropped = asyncio.run(through_store(rows, threshold, Path(folder)))
        else:
            dropped = asyncio.run(through_refiner(rows, threshold))
        found |= {"samples": len(rows), "loaded_mib": loaded}
    out.write_text(json.dumps(dropped))


if __name__ == "__main__":
    main()
