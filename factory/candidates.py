"""The candidates of a round that accepts more than it wants, and what its dataset takes of them.

Slice by slice: candidates are what the round's refiners let pass, each with its quality, its difficulty and
the vector of what it says; the members that the slice has from earlier rounds count as chosen already. Texts
come from the store as a stream; a slice at a time has 2 kB a sample in memory (1 kB for a member of
earlier rounds), and the outcome a few hundred bytes. How it is chosen is in factory.selection.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from factory.bench import Bench
from factory.embedding.account import Account
from factory.embedding.options import Embedder, create_embedder
from factory.selection import NOBODY, choose
from factory.store.rows import sample_from_row
from factory.types import Json, Sample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from factory.recipe import SelectionSpec

BATCH_SAMPLES = 1024  # embedded at once
UNKNOWN = 3.0  # quality of a slice without any score: the middle of 1 to 5

# The refiner's two digits or their probabilities, in [0, 1], as the judge scores: on 1 to 5.
CANDIDATES = """
    WITH scored AS (
        SELECT sample_id, 1 + 4 * avg(value) AS value FROM scores
        WHERE run_id = $1 AND scorer IN ('edit', 'edit_probability') AND metric IN ('grounded', 'form')
        GROUP BY sample_id
        UNION ALL
        SELECT sample_id, value FROM scores WHERE run_id = $1 AND scorer = 'judge' AND metric = 'overall'
    ), quality AS (SELECT sample_id, avg(value) AS quality FROM scored GROUP BY sample_id)
    SELECT s.id, s.slice, s.operation, s.messages, s.attributes, s.content_hash, q.quality,
           TRY_CAST(s.attributes ->> 'difficulty' AS DOUBLE) AS difficulty, length(s.answer) AS num_chars
    FROM decisions d JOIN samples s ON s.id = d.sample_id LEFT JOIN quality q ON q.sample_id = s.id
    WHERE d.run_id = $1 AND d.round = $2 AND d.final AND d.action = 'keep' AND s.answer <> ''
    ORDER BY s.slice, s.id"""
MEMBERS = """
    SELECT s.id, s.operation, s.messages, s.attributes, s.content_hash
    FROM dataset_samples m JOIN samples s ON s.id = m.sample_id
    WHERE m.dataset_id = ? AND s.slice = ? ORDER BY m.position"""
# Also of a round that was cut off or missed its target.
WANTED = """
    SELECT detail -> 'allocation' AS allocation FROM stages
    WHERE run_id = ? AND round = ? AND stage = 'generate' AND (detail -> 'allocation') IS NOT NULL
    ORDER BY created_at DESC, rowid DESC LIMIT 1"""

_Row = Mapping[str, Any]


class Selected(NamedTuple):
    """What became of a candidate; `of` is the id of the chosen sample most like it, '' if there is none."""

    sample_id: str
    content_hash: str
    chosen: bool
    reason: str
    quality: float
    difficulty: float
    of: str
    cosine: float

    @property
    def evidence(self) -> dict[str, Json]:
        """What the choice rests on."""
        found: dict[str, Json] = {
            "quality": round(self.quality, 3),
            "difficulty": round(self.difficulty, 3),
            "score": round(self.quality * self.difficulty, 3),
        }
        return found | ({"of": self.of, "cosine": round(self.cosine, 4)} if self.of else {})


async def select(bench: Bench, number: int, spec: SelectionSpec, before: str | None) -> list[Selected]:
    """What becomes of each candidate of a round, by slice and id: chosen are as many as its slice wants.

    `before` is the dataset of the round before. The same store gives the same choice.
    Raises EndpointError where the recipe's embedder is an endpoint that does not answer, and BudgetExceeded.
    """
    wanted = _wanted(bench, number)
    embedder = create_embedder(spec.embedder, bench.domain)
    embedder.bind(Account.of(bench, number))
    found: list[Selected] = []
    total = _count(bench, number)
    with bench.progress.stage(f"{bench.label(number)} select", total, "samples") as shown:
        rows = _counted(bench.store.stream(CANDIDATES, (bench.run_id, number)), shown.update)
        for slice, candidates in groupby(rows, key=itemgetter("slice")):
            members = bench.store.stream(MEMBERS, (before, slice)) if before else ()
            found += await _select(embedder, candidates, members, wanted.get(slice, 0))
    num = sum(each.chosen for each in found)
    bench.progress.note(f"{bench.label(number)}: {num:,} of {len(found):,} samples that passed were chosen")
    return found


async def _select(
    embedder: Embedder, candidates: Iterable[_Row], members: Iterable[_Row], num: int
) -> list[Selected]:
    """The choice within one slice."""
    names: list[tuple[str, str]] = []
    known: list[tuple[float | None, float | None, int]] = []  # quality, difficulty, characters
    vectors: list[NDArray[np.float16]] = []
    for batch in _batches(candidates):
        names += [(row["id"], row["content_hash"]) for row in batch]
        known += [(row["quality"], row["difficulty"], row["num_chars"]) for row in batch]
        vectors.append(await embed(embedder, list(map(sample_from_row, batch))))
    earlier: list[str] = []
    for batch in _batches(members):
        earlier += [row["id"] for row in batch]
        vectors.append(await embed(embedder, list(map(sample_from_row, batch))))
    quality = qualities([each[0] for each in known])
    difficulty = difficulties([each[1] for each in known], [each[2] for each in known])
    scores = list(quality * difficulty)
    choices = await asyncio.to_thread(choose, scores, np.concatenate(vectors), num)
    ids = [*(name for name, _ in names), *earlier]
    return [
        Selected(
            *name,
            choice.chosen,
            choice.reason,
            float(quality[at]),
            float(difficulty[at]),
            "" if choice.near == NOBODY else ids[choice.near],
            choice.cosine,
        )
        for at, (name, choice) in enumerate(zip(names, choices, strict=True))
    ]


async def embed(embedder: Embedder, samples: Sequence[Sample]) -> NDArray[np.float16]:
    """A row of unit length for each sample: its questions and its answers count the same, however long."""
    texts = ["\n".join(sample.texts(role)) for sample in samples for role in ("user", "assistant")]
    found = await embedder.vectors(texts)
    both = found.reshape(len(samples), 2, found.shape[1]).sum(axis=1)
    lengths = np.linalg.norm(both, axis=1, keepdims=True)
    return np.asarray(both / np.where(lengths > 0, lengths, 1), dtype=np.float16)


def qualities(values: Iterable[float | None]) -> NDArray[np.float64]:
    """The values, and their mean where one is unknown."""
    found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    is_known = np.isfinite(found)
    found[~is_known] = found[is_known].mean() if is_known.any() else UNKNOWN
    return found


def difficulties(values: Iterable[float | None], lengths: Iterable[int]) -> NDArray[np.float64]:
    """The rank of each value among the others, on 1 to 5; where one is unknown, that of its length."""
    found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    ranks = ranks_of(np.fromiter(lengths, np.float64))
    is_known = np.isfinite(found)
    ranks[is_known] = ranks_of(found[is_known])
    return ranks


def ranks_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 (least) to 5 (most) at even distances; equal values share the mean of theirs."""
    if len(values) < 2:
        return np.full(len(values), UNKNOWN)
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts + 1) / 2  # from 0
    return np.asarray(1 + 4 * mean_ranks[places] / (len(values) - 1), dtype=np.float64)


def _counted(rows: Iterable[_Row], on_progress: Callable[[int], None]) -> Iterator[_Row]:
    num = 0
    for num, row in enumerate(rows, 1):
        yield row
        if num % BATCH_SAMPLES == 0:
            on_progress(num)
    on_progress(num)


def _batches(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH_SAMPLES)):
        yield batch


def _wanted(bench: Bench, number: int) -> dict[str, int]:
    rows = bench.store.select(WANTED, (bench.run_id, number))
    return dict(json.loads(rows[0]["allocation"])) if rows else {}


def _count(bench: Bench, number: int) -> int:
    sql = """SELECT count(*) AS n FROM decisions
             WHERE run_id = ? AND round = ? AND final AND action = 'keep'"""
    return int(bench.store.select(sql, (bench.run_id, number))[0]["n"])
