"""Drops a sample that means what one before it means, in whatever words.

Questions and answers are embedded by themselves, and the less alike of both pairs counts. Vectors hardly
tell 30 from 40 days, so both must agree in their particulars (factory.particulars), and in the section
that they are about, where both have one. So samples are kept by section and values, and a new
one is compared, exactly, with those of its own place. Samples derived from one another mean the same by
intent and are spared. Keeps the vectors of all that passed: 2 kB a sample with the bundled
embedder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.embedding.options import DESCRIPTION, EmbedderSpec, create_embedder
from factory.particulars import Particulars, particulars
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Json, Sample, Score
from refiners.families import Families
from refiners.source import KnownSources

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_SAMPLES = 1024  # embedded at once when a run goes on
NUM_SCORED = 16  # neighbours below the threshold that are looked at for the score
SECTIONLESS = ""


class SemanticOptions(Strict):
    """What counts as the same meaning."""

    threshold: float = Field(
        0.9, gt=0, le=1, description="Cosine of duplicates, at least, of questions and of answers."
    )
    embedder: EmbedderSpec = Field("bundled", description=DESCRIPTION)


class _Text(NamedTuple):
    """A sample as it is compared."""

    id: str
    family: str
    sections: tuple[str, ...]
    question: Particulars
    answer: Particulars

    @property
    def values(self) -> tuple[frozenset[str], frozenset[str]]:
        return self.question.values, self.answer.values


@dataclass(slots=True)
class _Kept:
    """What is remembered of a sample beside its vectors; words as hashes, 8 bytes each."""

    id: str
    family: str
    names: frozenset[str]
    words: NDArray[np.int64]

    def agrees(self, names: frozenset[str], words: NDArray[np.int64]) -> bool:
        """Whether the names of each stand among the words of the other."""
        return bool(np.isin(_hashes(self.names), words).all() and np.isin(_hashes(names), self.words).all())


class _Place:
    """The kept samples of one section and set of values; rows grow by doubling."""

    def __init__(self, num_dimensions: int) -> None:
        self._rows = np.empty((2, 4, num_dimensions), np.float32)  # questions, answers
        self.kept: list[_Kept] = []

    def add(self, kept: _Kept, rows: NDArray[np.float32]) -> None:
        """Remembers a sample with its two rows."""
        if len(self.kept) == self._rows.shape[1]:
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)], axis=1)
        self._rows[:, len(self.kept)] = rows
        self.kept.append(kept)

    def cosines(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """For each kept sample the smaller of the two cosines."""
        # Not by BLAS, whose threads spin and crawl for so small a product where the cores are busy.
        known = self._rows[:, : len(self.kept)]
        found: NDArray[np.float32] = np.einsum("tnd,td->tn", known, rows).min(axis=0)
        return found


class Semantic:
    """The first of samples with one meaning stays."""

    Options: ClassVar[type[BaseModel]] = SemanticOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: SemanticOptions, domain: Domain) -> None:
        self.options = options
        self.embedder = create_embedder(options.embedder, domain)
        self._sources, self._families = KnownSources(domain), Families()
        # By values, then by section.
        self._places: dict[tuple[frozenset[str], frozenset[str]], dict[str, _Place]] = {}
        self._earlier: Iterator[Sample] = iter(())
        self.rests_on: list[Json] = [self.embedder.id]

    def open(self, accepted: Iterable[Sample]) -> None:
        """Remembers what passed before; it is read and embedded when the first sample comes."""
        self._earlier = iter(accepted)

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order; those within the batch count too."""
        while batch := list(islice(self._earlier, BATCH_SAMPLES)):
            for sample, rows in zip(batch, await self._embed(batch), strict=True):
                self._insert(self._text(sample), rows)
        found = await self._embed(samples)
        return [self._judge(sample, each) for sample, each in zip(samples, found, strict=True)]

    async def _embed(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Shape (samples, 2, dimensions): questions and answers."""
        texts = ["\n".join(sample.texts(role)) for sample in samples for role in ("user", "assistant")]
        rows = await self.embedder.vectors(texts)
        return rows.reshape(len(samples), 2, rows.shape[1])

    def _judge(self, sample: Sample, rows: NDArray[np.float32]) -> Decision:
        text = self._text(sample)
        spared = {sample.id, *(parent.id for parent in sample.parents if parent.relation == "rewrite_of")}
        found = max(self._near(text, rows, spared), default=None)
        cosine = found[0] if found else None
        scores = () if cosine is None else (Score(sample.id, "nearest_cosine", round(cosine, 4), "semantic"),)
        if found is None or found[0] < self.options.threshold:
            self._insert(text, rows)
            return Decision(sample.id, "semantic", "keep", "ok", scores=scores)
        evidence = {"of": found[1], "cosine": round(found[0], 4)}
        return Decision(sample.id, "semantic", "drop", "semantic_duplicate", scores=scores, evidence=evidence)

    def _near(self, text: _Text, rows: NDArray[np.float32], spared: set[str]) -> Iterator[tuple[float, str]]:
        """Cosine and id of kept samples that agree in their particulars: in each place the nearest."""
        names, words = _names_and_words(text)
        for place in self._places_of(text):
            cosines = place.cosines(rows)
            for at in _nearest(cosines, self.options.threshold):
                kept = place.kept[at]
                if kept.id not in spared and kept.family != text.family and kept.agrees(names, words):
                    yield float(cosines[at]), kept.id
                    break

    def _places_of(self, text: _Text) -> list[_Place]:
        """Where samples stand that it may repeat; one without a section is compared with those of all."""
        places = self._places.get(text.values, {})
        if not text.sections:
            return list(places.values())
        return [places[key] for key in (*text.sections, SECTIONLESS) if key in places]

    def _insert(self, text: _Text, rows: NDArray[np.float32]) -> None:
        places = self._places.setdefault(text.values, {})
        kept = _Kept(text.id, text.family, *_names_and_words(text))
        for key in text.sections or (SECTIONLESS,):
            if key not in places:
                places[key] = _Place(rows.shape[1])
            places[key].add(kept, rows)

    def _text(self, sample: Sample) -> _Text:
        sections = tuple(source.key for source in self._sources.all_of(sample))
        question, answer = ("\n".join(sample.texts(role)) for role in ("user", "assistant"))
        return _Text(
            sample.id, self._families.of(sample), sections, particulars(question), particulars(answer)
        )


def _nearest(cosines: NDArray[np.float32], threshold: float) -> Iterator[int]:
    """Positions from the nearest on: all from the threshold on, and at least the first few."""
    first = np.argpartition(-cosines, NUM_SCORED)[:NUM_SCORED] if len(cosines) > NUM_SCORED else None
    chosen = (
        np.arange(len(cosines)) if first is None else np.union1d(first, np.flatnonzero(cosines >= threshold))
    )
    yield from (int(at) for at in chosen[np.argsort(-cosines[chosen], kind="stable")])


def _names_and_words(text: _Text) -> tuple[frozenset[str], NDArray[np.int64]]:
    return text.question.names | text.answer.names, _hashes(text.question.words | text.answer.words)


def _hashes(words: Iterable[str]) -> NDArray[np.int64]:
    """Hashes of words, which this process alone compares."""
    return np.array([hash(word) for word in words], np.int64)
