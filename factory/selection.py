"""Chooses among good samples: the best by score, less what those already chosen say.

Greedy: each pick is the candidate with the largest score × (1 − largest cosine to those chosen before). The
score comes first, as in DEITA (arXiv 2312.15685, section 2.4), which leaves out what is closer than a
threshold instead; a product needs none and always ends at the number that is wanted. Many candidates are
split by random hyperplanes into parts whose samples are compared with one another alone, so that cost grows
linearly. Where scores and vectors come from, and what becomes of the others, is not decided here.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from math import ceil, log2
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST = 2048  # rows that are compared with one another
LEAST = 1e-6  # what a copy still counts, so that of copies too the better one comes first
NOBODY = -1


class Choice(NamedTuple):
    """What became of a candidate; `near` is the row most like it among the chosen, NOBODY where none is."""

    chosen: bool
    reason: str  # chosen; near_chosen: by its score alone it would be; outscored
    near: int
    cosine: float


def choose(scores: Sequence[float], rows: NDArray[Any], num: int) -> list[Choice]:
    """What becomes of each candidate, in order, with exactly min(`num`, all) chosen.

    `scores` are above zero. `rows` are unit vectors (or zero): first those of the candidates, then those of
    samples that were chosen before. Of equal candidates the first is taken.
    """
    values: NDArray[np.float64] = np.asarray(scores, dtype=np.float64)
    parts = [_Part(values, rows, members) for members in split(rows)]
    # A part's worth only falls, so taking the best of all parts is what one greedy pass over all would do.
    queue = [(-part.worth, at) for at, part in enumerate(parts) if part.num_open]
    heapq.heapify(queue)
    for _ in range(min(num, len(values))):
        at = queue[0][1]
        parts[at].take()
        if parts[at].num_open:
            heapq.heapreplace(queue, (-parts[at].worth, at))
        else:
            heapq.heappop(queue)
    by_score = np.zeros(len(values), dtype=bool)
    by_score[np.argsort(-values, kind="stable")[:num]] = True
    found: dict[int, Choice] = {}
    for part in parts:
        found.update(part.choices(by_score))
    return [found[index] for index in range(len(values))]


def split(rows: NDArray[Any]) -> list[NDArray[np.int64]]:
    """All rows in parts of MOST at most, halved at the median along random directions, like beside like."""
    random = np.random.default_rng(0)
    parts = [np.arange(len(rows))]
    for _ in range(ceil(log2(len(rows) / MOST)) if len(rows) > MOST else 0):
        direction = random.standard_normal((rows.shape[1],), dtype=np.float32)
        places = np.concatenate(
            [rows[at : at + MOST].astype(np.float32) @ direction for at in range(0, len(rows), MOST)]
        )
        halves = []
        for part in parts:
            order = part[np.argsort(places[part], kind="stable")]
            halves += [np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])]
        parts = halves
    return parts


class _Part:
    """Candidates that are compared with one another and with the samples chosen before among them."""

    def __init__(self, values: NDArray[np.float64], rows: NDArray[Any], members: NDArray[np.int64]) -> None:
        self._members = members[members < len(values)]
        before = members[members >= len(values)]
        self._values = values[self._members]
        self._rows: NDArray[np.float32] = rows[self._members].astype(np.float32)
        self._cosines = np.zeros(len(self._members), dtype=np.float32)  # to the nearest of the chosen
        self._near = np.full(len(self._members), NOBODY)
        self._is_open = np.ones(len(self._members), dtype=bool)
        self.num_open = len(self._members)
        for row in before:
            self._come_closer(rows[row].astype(np.float32), int(row))
        self._find_best()

    def take(self) -> None:
        """Chooses the best candidate that is open."""
        self._is_open[self._best] = False
        self.num_open -= 1
        self._come_closer(self._rows[self._best], int(self._members[self._best]))
        self._find_best()

    def choices(self, by_score: NDArray[np.bool_]) -> dict[int, Choice]:
        """What became of each, as things stand; `by_score` are those that the score alone would choose."""
        found = {}
        for at, (index, near, cosine) in enumerate(
            zip(self._members, self._near, self._cosines, strict=True)
        ):
            reason = "chosen"
            if self._is_open[at]:
                reason = "near_chosen" if by_score[index] and near != NOBODY else "outscored"
            found[int(index)] = Choice(not self._is_open[at], reason, int(near), float(cosine))
        return found

    def _come_closer(self, row: NDArray[np.float32], index: int) -> None:
        # Not by BLAS, whose threads spin and crawl for so small a product where the cores are busy.
        cosines = np.einsum("nd,d->n", self._rows, row)
        closer = self._is_open & (cosines > self._cosines)
        self._cosines[closer], self._near[closer] = np.minimum(cosines[closer], 1), index

    def _find_best(self) -> None:
        worth = np.where(self._is_open, self._values * np.maximum(1 - self._cosines, LEAST), -1)
        self._best = int(np.argmax(worth)) if self.num_open else NOBODY
        self.worth = float(worth[self._best]) if self.num_open else -1.0
