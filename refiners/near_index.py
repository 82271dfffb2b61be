"""The index of `near` from Python's side: it makes room, and takes samples in batches to the compiled part.

What is found is a number, counted from the first sample that passed. Nothing here judges.
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np

from refiners.near_kernel import settle
from refiners.near_known import (
    COMMON,
    KEYS,
    SAMPLES,
    SEEN,
    SHINGLES,
    SKETCHES,
    SOURCES,
    WORDS,
    Batch,
    Known,
    rehash,
)
from refiners.near_words import Array, Tokens

MIN_RECALL = 0.995  # of the search for candidates, at the threshold
MAX_SKETCH = 64
GROWTH = 1.5
MAX_LOAD = 0.6  # of a table
PER_SAMPLE = {
    "varied": 0,
    "numbers": 0,
    "ids": 0,
    "families": 0,
    "marks": 0,
    "shingle_ends": 1,
    "word_ends": 1,
}
PER_SAMPLE["source_ends"] = 1


class Found(NamedTuple):
    """For each sample of a batch the number of the one that it repeats, or -1, and their similarity."""

    others: list[int]
    similarities: list[float]


class NearIndex:
    """All that passed, to be asked whether a sample repeats one of them."""

    def __init__(self, threshold: float, shingle_words: int) -> None:
        self._options = (threshold, shingle_words, sketch_size(threshold))
        self._known = _empty()

    def settle(self, tokens: Tokens, batch: Batch, passed: bool = False) -> Found:
        """Decides about the samples one after the other, and adds those that repeat none, or all `passed`."""
        num = batch.ids.size
        self._make_room(num, tokens.words.size, batch.sources.size)
        others, similarities = np.empty(num, np.int64), np.zeros(num)
        settle(self._known, tokens, batch, self._options, passed, others, similarities)
        return Found(others.tolist(), similarities.tolist())

    def _make_room(self, samples: int, words: int, sources: int) -> None:
        known, sizes = self._known, self._known.sizes
        entries = sizes[SKETCHES] + self._options[2] * samples
        wanted = {name: sizes[SAMPLES] + samples + more for name, more in PER_SAMPLE.items()}
        wanted |= {"shingles": sizes[SHINGLES] + words, "words": sizes[WORDS] + words}
        wanted |= {"sources": sizes[SOURCES] + sources, "sketch_samples": entries, "sketch_next": entries}
        changes = {
            name: _enlarged(getattr(known, name), int(size))
            for name, size in wanted.items()
            if getattr(known, name).size < size
        }
        self._known = known = known._replace(**changes)
        most = self._options[2] * samples
        if sizes[KEYS] + most > MAX_LOAD * known.keys.size:
            keys, heads, listed = _table(sizes[KEYS] + most, np.int32, np.uint8)
            rehash(known.keys, known.heads, known.listed, keys, heads, listed)
            self._known = known = known._replace(keys=keys, heads=heads, listed=listed)
        # Each may show that it is of a template, or that the one is which it repeats, as long at most.
        most += ceil(words / self._options[0])
        if sizes[COMMON] + most > MAX_LOAD * known.common_keys.size:
            keys, counts, unused = _table(sizes[COMMON] + most, np.int32, np.uint8)
            rehash(known.common_keys, known.common_counts, known.common_counts, keys, counts, unused)
            self._known = known._replace(common_keys=keys, common_counts=counts)


def sketch_size(threshold: float) -> int:
    """The fewest lowest shingles of which two samples at `threshold` share two with MIN_RECALL, at most 64.

    Each of the lowest of both samples together is in both with a probability of `threshold` (Broder 1997).
    """
    for size in range(2, MAX_SKETCH):
        missed = (1 - threshold) ** size + size * threshold * (1 - threshold) ** (size - 1)
        if missed <= 1 - MIN_RECALL:
            return size
    return MAX_SKETCH


def _empty() -> Known:
    keys, heads, listed = _table(1, np.int32, np.uint8)
    common_keys, common_counts, _ = _table(1, np.int32, np.uint8)
    ends = np.zeros(1, np.int64)
    return Known(
        shingles=np.empty(0, np.uint32),
        shingle_ends=ends,
        words=np.empty(0, np.uint32),
        word_ends=ends.copy(),
        numbers=np.empty(0, np.uint64),
        ids=np.empty(0, np.int64),
        families=np.empty(0, np.int64),
        sources=np.empty(0, np.int32),
        source_ends=ends.copy(),
        keys=keys,
        heads=heads,
        listed=listed,
        sketch_samples=np.empty(0, np.int32),
        sketch_next=np.empty(0, np.int32),
        common_keys=common_keys,
        common_counts=common_counts,
        seen=np.zeros(int(SEEN) + 1, np.uint8),
        varied=np.zeros(0, np.uint8),
        marks=np.zeros(0, np.uint16),
        sizes=np.zeros(7, np.int64),
    )


def _enlarged(array: Array, size: int) -> Array:
    """The array with room for `size` values and more; the new ones are 0."""
    larger = np.zeros(max(size, int(GROWTH * array.size)), array.dtype)
    larger[: array.size] = array
    return larger


def _table(size: int, values: type, more: type) -> tuple[Array, Array, Array]:
    """An open table with room for twice `size` keys; its length is a power of two."""
    length = 1 << int(2 * size / MAX_LOAD).bit_length()
    return np.zeros(length, np.uint32), np.zeros(length, values), np.zeros(length, more)
