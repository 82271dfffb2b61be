"""Drops a sample that says in almost the same words what one before it says.

Candidates come from a bottom-k sketch of word shingles (Broder 1997), compiled; the exact Jaccard similarity
of the shingles decides, and that of the answers' words by themselves. Then the differences are read.
Two samples are no duplicates where another fact is told:

- their answers' numbers are not all the same, or the sections they are about;
- each says a word of its own that tells of a fact: a number, the word after a number (its unit), a name
  written with a capital inside a sentence, or a word that no other sample has;
- both are of one template, which is text that many samples have: it counts for nothing, and so do changes
  of it. They differ where each has words of its own outside it, and the rest is not near by itself.

So a word put in, left out, changed for a common one, misspelt or moved makes no new sample, nor do case and
punctuation; another name, amount or unit in the same long text does. What is a template is learned from what
passed, in order, so that a run that was cut off decides as one that was not. Conversations are compared as
wholes. Of samples that a strategy derived from one another the questions must agree by themselves too, since
that they share an answer is their purpose. Paraphrases in other words are not found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Sample
from refiners.families import Families
from refiners.source import KnownSources

if TYPE_CHECKING:
    from refiners.near_index import Found

BATCH_SIZE = 512  # of those that passed before


class NearOptions(Strict):
    """What counts as almost the same."""

    threshold: float = Field(0.8, gt=0, le=1, description="Jaccard similarity of duplicates, at least.")
    shingle_words: int = Field(3, ge=1, description="Words in a shingle, fewer in short texts.")


class Near:
    """The first of near samples stays."""

    Options: ClassVar[type[BaseModel]] = NearOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: NearOptions, domain: Domain) -> None:
        # Compiled code takes a second to load; who only reads the options need not wait for it.
        from refiners.near_index import NearIndex  # noqa: PLC0415
        from refiners.near_words import Characters, Compiling  # noqa: PLC0415

        self._sources = KnownSources(domain)
        self._source_numbers: dict[str, int] = {}
        self._characters = Characters()
        self._index = NearIndex(options.threshold, options.shingle_words)
        self._ids: list[str] = []  # of those in the index
        self._families = Families()
        self.tell: Callable[[str], None] = lambda text: None
        self._compiling = Compiling(lambda text: self.tell(f"near: {text}"))

    def open(self, accepted: Iterable[Sample]) -> None:
        """Indexes what passed before, in the order in which it did."""
        remaining = iter(accepted)
        while batch := list(islice(remaining, BATCH_SIZE)):
            self._settle(batch, passed=True)
            self._ids += [sample.id for sample in batch]

    def replay(self, decided: Iterable[Sample]) -> None:
        """Decides anew about all that was decided about, in that order, and so knows what it knew then."""
        remaining = iter(decided)
        while batch := list(islice(remaining, BATCH_SIZE)):
            self._decide(batch)

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order; near ones within the batch count too."""
        return self._decide(samples)

    def _decide(self, samples: Sequence[Sample]) -> list[Decision]:
        found = self._settle(samples, passed=False)
        decisions = []
        for sample, other, similarity in zip(samples, *found, strict=True):
            if other < 0:
                self._ids.append(sample.id)
                decisions.append(Decision(sample.id, "near", "keep", "ok"))
            else:
                evidence = {"of": self._ids[other], "jaccard": round(similarity, 4)}
                decisions.append(Decision(sample.id, "near", "drop", "near_duplicate", evidence=evidence))
        return decisions

    def _settle(self, samples: Sequence[Sample], passed: bool) -> Found:
        from refiners.near_known import Batch  # noqa: PLC0415
        from refiners.near_words import ANSWER, QUESTION  # noqa: PLC0415

        texts: list[str] = []
        roles, families, sources, spared = [], [], [], []
        turn_ends, source_ends, spared_ends = [0], [0], [0]
        for sample in samples:
            for role, text in sample.messages:
                if role != "system":
                    texts.append(text)
                    roles.append(ANSWER if role == "assistant" else QUESTION)
            turn_ends.append(len(texts))
            families.append(hash(self._family(sample)))
            sources += [self._source_number(source.key) for source in self._sources.all_of(sample)]
            source_ends.append(len(sources))
            spared.append(hash(sample.id))
            spared += [hash(id) for id, relation in sample.parents if relation == "rewrite_of"]
            spared_ends.append(len(spared))
        batch = Batch(
            ids=np.array([hash(sample.id) for sample in samples], np.int64),
            families=np.array(families, np.int64),
            sources=np.array(sources, np.int32),
            source_ends=np.array(source_ends, np.int64),
            spared=np.array(spared, np.int64),
            spared_ends=np.array(spared_ends, np.int64),
        )
        with self._compiling.heard():
            return self._index.settle(self._characters.read(texts, roles, turn_ends), batch, passed)

    def _source_number(self, key: str) -> int:
        return self._source_numbers.setdefault(key, len(self._source_numbers))

    def _family(self, sample: Sample) -> str:
        """The sample that all with the same answer in purpose descend from; rewrites stay in the family."""
        if sample.attributes.get("answerable") == "no":
            return "unanswerable"  # all have the recipe's one answer
        return self._families.of(sample)
