"""Drops a sample that says in almost the same words what one before it says.

MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, section 3.4) find candidates, the exact Jaccard similarity of their word shingles decides.
Two rules in one template differ in few words and are no duplicates: answers must agree by themselves,
in all their numbers, and in the section they are about. Paraphrases in other words are not found.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, Field
from rensa import RMinHash, RMinHashLSH

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Sample
from refiners.source import KnownSources
from refiners.words import jaccard, words

NUM_PERMUTATIONS = 120  # divides into many numbers of bands
MIN_RECALL = 0.995  # of the candidate search, at the threshold
SEED = 1


class NearOptions(Strict):
    """What counts as almost the same."""

    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of duplicates, at least.")
    shingle_words: int = Field(3, ge=1, description="Words in a shingle, fewer in short texts.")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is remembered of a sample; shingles as hashes, 8 bytes each."""

    id: str
    shingles: array[int]
    answer: frozenset[str]
    numbers: frozenset[str]
    source_key: str


class Near:
    """The first of near samples stays."""

    Options: ClassVar[type[BaseModel]] = NearOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: NearOptions, domain: Domain) -> None:
        self.options = options
        self._sources = KnownSources(domain)
        self._entries: list[_Entry] = []
        bands = num_bands(options.threshold)
        self._index = RMinHashLSH(threshold=options.threshold, num_perm=NUM_PERMUTATIONS, num_bands=bands)

    def open(self, accepted: Iterable[Sample]) -> None:
        """Indexes what passed before."""
        for sample in accepted:
            self._insert(*self._sketch(sample))

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order; near ones within the batch count too."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        entry, signature = self._sketch(sample)
        relatives = {sample.id, *(parent.id for parent in sample.parents)}
        found = min(self._duplicates(entry, signature, relatives), default=None)
        if found is None:
            self._insert(entry, signature)
            return Decision(sample.id, "near", "keep", "ok")
        evidence = {"of": found[1], "jaccard": round(-found[0], 4)}
        return Decision(sample.id, "near", "drop", "near_duplicate", evidence=evidence)

    def _duplicates(
        self, entry: _Entry, signature: RMinHash, relatives: set[str]
    ) -> Iterator[tuple[float, str]]:
        """Negated similarity and id of each earlier sample that `entry` repeats."""
        shingles = set(entry.shingles)
        for key in self._index.query(signature):
            other = self._entries[key]
            if other.id in relatives or other.numbers != entry.numbers:
                continue
            if other.source_key and entry.source_key and other.source_key != entry.source_key:
                continue
            similarity = jaccard(shingles, set(other.shingles))
            if min(similarity, jaccard(entry.answer, other.answer)) >= self.options.threshold:
                yield -similarity, other.id

    def _insert(self, entry: _Entry, signature: RMinHash) -> None:
        self._index.insert(len(self._entries), signature)
        self._entries.append(entry)

    def _sketch(self, sample: Sample) -> tuple[_Entry, RMinHash]:
        answer = words(sample.answer)
        shingles = _shingles([*words(sample.question), "\n", *answer], self.options.shingle_words)
        source = self._sources.of(sample)
        entry = _Entry(
            sample.id,
            array("Q", RMinHash.hash_token_sets([shingles])[0]),
            frozenset(answer),
            frozenset(re.findall(r"\d+(?:[.,]\d+)*", sample.answer)),
            source.key if source else "",
        )
        return entry, RMinHash.from_token_sets([shingles], num_perm=NUM_PERMUTATIONS, seed=SEED)[0]


def num_bands(threshold: float) -> int:
    """The fewest bands that find a pair at `threshold` with a probability of at least MIN_RECALL."""
    for rows in range(NUM_PERMUTATIONS, 0, -1):
        bands, rest = divmod(NUM_PERMUTATIONS, rows)
        if rest == 0 and 1 - (1 - threshold**rows) ** bands >= MIN_RECALL:
            return bands
    return NUM_PERMUTATIONS


def _shingles(tokens: Sequence[str], size: int) -> list[str]:
    """The distinct runs of `size` tokens, of fewer where the text is short, in order."""
    size = max(1, min(size, len(tokens) // 3))
    return list(dict.fromkeys(" ".join(tokens[at : at + size]) for at in range(len(tokens) - size + 1)))
