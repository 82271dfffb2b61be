"""Drops a sample that says in almost the same words what one before it says.

MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, section 3.4) find candidates, the exact Jaccard similarity of their word shingles decides.
Two rules in one template differ in few words and are no duplicates: answers must agree by themselves,
in all their numbers, and in the section they are about. Conversations are compared as wholes. Of samples
that a strategy derived from one another the questions must agree by themselves too, since that they share
an answer is their purpose. Paraphrases in other words are not found.
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
from factory.words import jaccard, words
from refiners.source import KnownSources

NUM_PERMUTATIONS = 120  # divides into many numbers of bands
MIN_RECALL = 0.995  # of the candidate search, at the threshold
SEED = 1


class NearOptions(Strict):
    """What counts as almost the same."""

    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of duplicates, at least.")
    shingle_words: int = Field(3, ge=1, description="Words in a shingle, fewer in short texts.")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is remembered of a sample; shingles and the questions' words as hashes, 8 bytes each."""

    id: str
    shingles: array[int]
    question: array[int]
    answer: frozenset[str]
    numbers: frozenset[str]
    source_keys: frozenset[str]
    family: str  # the sample that it and its relatives were derived from


class Near:
    """The first of near samples stays."""

    Options: ClassVar[type[BaseModel]] = NearOptions
    uses_model: ClassVar[bool] = False
    works_alone: ClassVar[bool] = True

    def __init__(self, options: NearOptions, domain: Domain) -> None:
        self.options = options
        self._sources = KnownSources(domain)
        self._entries: list[_Entry] = []
        self._families: dict[str, str] = {}  # of the samples that were derived, or rewritten from another
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
        replaced = {parent.id for parent in sample.parents if parent.relation == "rewrite_of"}
        found = min(self._duplicates(entry, signature, {sample.id, *replaced}), default=None)
        if found is None:
            self._insert(entry, signature)
            return Decision(sample.id, "near", "keep", "ok")
        evidence = {"of": found[1], "jaccard": round(-found[0], 4)}
        return Decision(sample.id, "near", "drop", "near_duplicate", evidence=evidence)

    def _duplicates(
        self, entry: _Entry, signature: RMinHash, spared: set[str]
    ) -> Iterator[tuple[float, str]]:
        """Negated similarity and id of each earlier sample that `entry` repeats."""
        shingles = set(entry.shingles)
        for key in self._index.query(signature):
            other = self._entries[key]
            if other.id in spared or other.numbers != entry.numbers:
                continue
            if other.source_keys and entry.source_keys and not other.source_keys & entry.source_keys:
                continue
            similarity = jaccard(shingles, set(other.shingles))
            agreement = min(similarity, jaccard(entry.answer, other.answer))
            if other.family == entry.family:
                agreement = min(agreement, jaccard(set(entry.question), set(other.question)))
            if agreement >= self.options.threshold:
                yield -similarity, other.id

    def _insert(self, entry: _Entry, signature: RMinHash) -> None:
        self._index.insert(len(self._entries), signature)
        self._entries.append(entry)

    def _sketch(self, sample: Sample) -> tuple[_Entry, RMinHash]:
        turns = [(turn.role, words(turn.content)) for turn in sample.messages if turn.role != "system"]
        tokens = [word for _, found in turns for word in ("\n", *found)][1:]
        shingles = _shingles(tokens, self.options.shingle_words)
        question = {word for role, found in turns if role == "user" for word in found}
        hashed, asked = RMinHash.hash_token_sets([shingles, list(question)])
        answers = "\n".join(sample.texts("assistant"))
        entry = _Entry(
            sample.id,
            array("Q", hashed),
            array("Q", asked),
            frozenset(word for role, found in turns if role == "assistant" for word in found),
            frozenset(re.findall(r"\d+(?:[.,]\d+)*", answers)),
            frozenset(source.key for source in self._sources.all_of(sample)),
            self._family(sample),
        )
        return entry, RMinHash.from_token_sets([shingles], num_perm=NUM_PERMUTATIONS, seed=SEED)[0]

    def _family(self, sample: Sample) -> str:
        """The sample that all with the same answer in purpose descend from; rewrites stay in the family."""
        if sample.attributes.get("answerable") == "no":
            return "unanswerable"  # all have the recipe's one answer
        family = sample.attributes.get("original", "")
        for parent in sample.parents:
            if not family and parent.relation == "rewrite_of":
                family = self._families.get(parent.id, parent.id)
        if family:
            self._families[sample.id] = family
        return family or sample.id


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
