"""Selection at size: how long it takes, and what it gains over the first ones and the best by score alone.

Candidates are windows of words out of the sections of this repository's recipes, a few sections far more
often than most, as teachers repeat themselves; scores of the refiner and the judge are drawn by lot. They
stand in a real database, from which a dataset is made as a round makes it. "nearest" is the cosine of a
chosen sample to the chosen one most like it, on average over 500 of them: the lower, the less is repeated.

python -m benchmarks.selection [NUM_CANDIDATES] [NUM_WANTED]
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.measure import measured
from factory import candidates
from factory.bench import Bench
from factory.embedding.bundled import bundled
from factory.embedding.options import InThread
from factory.freeze import write_members
from factory.init import write_template
from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.store.rows import decision_rows, sample_rows
from factory.types import Decision, Message, Parent, Sample, Score

RECIPES = Path(__file__).parents[1] / "recipes"
BATCH = 1000
LOOKED_AT = 500
CHOSEN = """
    SELECT s.id, s.operation, s.messages, s.attributes, s.content_hash,
           (x.evidence ->> 'score')::DOUBLE AS score
    FROM selections x JOIN samples s ON s.id = x.sample_id WHERE x.dataset_id = $1 AND {which}"""
WHICH = {
    "first": "true ORDER BY s.rowid LIMIT $2",
    "best by score": "true ORDER BY score DESC, s.id LIMIT $2",
    "selection": "x.chosen LIMIT $2",
}


def sections() -> list[list[str]]:
    """The words of every section of the recipes' Markdown files."""
    texts = [path.read_text("utf-8") for path in sorted(RECIPES.glob("*/**/*.md"))]
    found = [part.split() for text in texts for part in text.split("\n#")]
    return [words for words in found if len(words) >= 25]


def make(num: int) -> Iterator[Sample]:
    """Windows of the sections; the n-th section comes 1 / n times as often as the first."""
    lot, known = random.Random(0), sections()
    lot.shuffle(known)
    weights = [1 / place for place in range(1, len(known) + 1)]
    for index in range(num):
        (at,) = lot.choices(range(len(known)), weights)
        parts = [window(lot, known[at], 12), window(lot, known[at], lot.randint(15, 60))]
        messages = [Message("user", f"{parts[0]} {index}?"), Message("assistant", parts[1])]
        attributes = {"slice": "fees", "strategy": "grounded", "source_key": str(at)}
        yield Sample.create(messages, [Parent(f"call_{index}", "call")], "grounded", attributes)


def window(lot: random.Random, words: list[str], size: int) -> str:
    """So many words in a row, or all."""
    start = lot.randint(0, max(0, len(words) - size))
    return " ".join(words[start : start + size])


def fill(bench: Bench, num: int, num_wanted: int) -> None:
    """Writes the candidates as a round would have them after its last step."""
    lot, batch = random.Random(1), list[Sample]()
    event: dict[str, Any] = {"allocation": {"fees": num_wanted}}
    bench.event(1, "generate", "done", event)
    for index, sample in enumerate(make(num), 1):
        batch.append(sample)
        if len(batch) == BATCH or index == num:
            rows, edges = sample_rows(batch, bench.run_id, 1)
            known = [Decision(each.id, "target", "keep", "ok", scores=scored(lot, each)) for each in batch]
            decisions, scores = decision_rows(known, bench.run_id, 1, 0, {each.id for each in batch})
            for table, of in (
                ("samples", rows),
                ("edges", edges),
                ("decisions", decisions),
                ("scores", scores),
            ):
                bench.store.append(table, of)
            batch.clear()
    bench.store.flush()


def scored(lot: random.Random, sample: Sample) -> tuple[Score, ...]:
    """Two probabilities of the refiner, and for one of ten samples a judge's score."""
    found = [
        Score(sample.id, name, lot.betavariate(8, 2), "edit_probability") for name in ("grounded", "form")
    ]
    if lot.random() < 0.1:
        found.append(Score(sample.id, "overall", float(lot.randint(2, 5)), "judge"))
    return tuple(found)


async def describe(bench: Bench, dataset_id: str, name: str, num: int) -> str:
    """One line: sections covered, mean score, how near the chosen ones are."""
    rows = bench.store.select(CHOSEN.format(which=WHICH[name]), (dataset_id, num))
    vectors = (await candidates.embed(InThread(bundled()), rows)).astype(np.float32)
    places = np.random.default_rng(0).choice(len(rows), min(LOOKED_AT, len(rows)), replace=False)
    cosines = vectors[places] @ vectors.T
    cosines[np.arange(len(places)), places] = -1
    covered = len({row["attributes"] for row in rows})
    score = float(np.mean([row["score"] for row in rows]))
    return f"{name:15}{len(rows):9,}{covered:10,}{score:9.2f}{cosines.max(axis=1).mean():9.3f}"


async def work(folder: Path, num: int, num_wanted: int) -> None:
    write_template(folder / "domain")
    loop = {"accepted": num_wanted, "selection": {"name": "diverse", "candidates": num / num_wanted}}
    profile = folder / "domain/profiles/sized.yaml"
    profile.write_text(yaml.safe_dump({"loop": {"samples_per_round": None, **loop}}))
    domain = open_domain(folder / "domain", "sized")
    async with open_bench(domain, folder / "w", Progress(bars=False)) as bench:
        bench.record_run()
        fill(bench, num, num_wanted)
        with measured() as found:
            dataset_id, found["samples"] = await write_members(bench, 1)
            bench.store.flush()
        print(f"{'':15}{'samples':>9}{'sections':>10}{'score':>9}{'nearest':>9}")
        for name in WHICH:
            print(await describe(bench, dataset_id, name, num_wanted))


def main() -> None:
    num = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    num_wanted = int(sys.argv[2]) if len(sys.argv) > 2 else num // 2
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(work(Path(folder), num, num_wanted))


if __name__ == "__main__":
    main()
