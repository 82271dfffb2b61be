"""Drops what repeats an item of dev, test or a benchmark, so that no evaluation asks what was trained.

By the measures over words of factory.overlap, and in other words by factory.paraphrases. Questions decide:
short answers are facts that rightly recur, so answers are compared by themselves only from 13 words on, and
queries of a database never, since what they share is mostly the tables. Every turn of a conversation is
compared, and a short follow-up together with what was asked before it (factory.held_out). Each rewrite comes
here as a sample of its own, so teacher and refiner are judged alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, Field, field_validator

from factory.benchmark_files import read_benchmarks
from factory.domain import Domain, content_of
from factory.embedding.options import DESCRIPTION, EmbedderSpec, create_embedder
from factory.held_out import HeldOut
from factory.overlap import LONG, Hit, Texts, longest_match
from factory.paraphrases import Paraphrases
from factory.ports import Ask
from factory.recipe import Strict
from factory.schemas import KEY_PREFIX
from factory.types import Decision, Json, Sample
from factory.words import words

MAX_SHOWN_WORDS = 40  # of the words that a sample and an item share


class ContaminationOptions(Strict):
    """No thresholds: an evaluation that can be bought with a setting is worth nothing."""

    benchmarks: list[str] = Field(
        [],
        description="Further JSONL files, with `question` and `answer`, to keep apart from.",
    )

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _one_file(cls, given: object) -> object:
        """A list of one, where a single file is named."""
        return [given] if isinstance(given, str) else given

    embedder: EmbedderSpec = Field("bundled", description=f"Finds paraphrases: {DESCRIPTION}")


class _Found(NamedTuple):
    """Which item a text repeats, how, and whether its answer is what was repeated."""

    item: int
    hit: Hit
    text: str
    in_answer: bool = False


class Contamination:
    """Compares with every dev and test item of the domain, and with those of the benchmarks."""

    Options: ClassVar[type[BaseModel]] = ContaminationOptions
    uses_model: ClassVar[bool] = False
    needs: ClassVar[str] = "the dev and test items of a recipe"
    needs_or: ClassVar[str] = "benchmarks"

    def __init__(self, options: ContaminationOptions, domain: Domain) -> None:
        benchmarks = read_benchmarks(domain.folder, options.benchmarks)
        held_out = (
            [("dev", item) for item in domain.dev] + [("test", item) for item in domain.test] + benchmarks
        )
        self._places = [place for place, _ in held_out]
        self._items = [item for _, item in held_out]
        self._questions = HeldOut(self._items)
        self._answers = Texts(item.answer if len(words(item.answer)) >= LONG else "" for item in self._items)
        self.embedder = create_embedder(options.embedder, domain)
        self._paraphrases = Paraphrases(self._items, self.embedder)
        self.rests_on: list[Json] = [[place, content_of(item)] for place, item in benchmarks]
        if options.embedder != "bundled":
            self.rests_on.append(self.embedder.id)

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        found = [self._find(sample) for sample in samples]
        rest = [at for at, sample in enumerate(samples) if found[at] is None and not _is_query(sample)]
        paraphrased = await self._paraphrases.find([samples[at] for at in rest])
        for at, near in zip(rest, paraphrased, strict=True):
            found[at] = _Found(*near) if near else None
        return [self._decide(sample, each) for sample, each in zip(samples, found, strict=True)]

    def _find(self, sample: Sample) -> _Found | None:
        """The first item that a question repeats word by word, or else a long answer; and how."""
        asked = sample.texts("user")
        for at, question in enumerate(asked):
            if found := self._questions.find(question, asked[:at]):
                return _Found(*found, question)
        for text in () if _is_query(sample) else sample.texts("assistant"):
            if len(words(text)) >= LONG and (found := self._answers.find(text)):
                return _Found(*found, text, in_answer=True)
        return None

    def _decide(self, sample: Sample, found: _Found | None) -> Decision:
        if found is None:
            return Decision(sample.id, "contamination", "keep", "ok")
        item = self._items[found.item]
        shared = longest_match(item.answer if found.in_answer else item.question, found.text)
        evidence = {
            "item": item.key,
            "split": self._places[found.item],
            "measure": found.hit.measure,
            "value": round(found.hit.value, 4),
            "part": "answer" if found.in_answer else "question",
            "longest_match": len(shared),
            "matched": " ".join(shared[:MAX_SHOWN_WORDS]),
        }
        return Decision(sample.id, "contamination", "drop", "contaminated", evidence=evidence)


def _is_query(sample: Sample) -> bool:
    return sample.attributes.get("source_key", "").startswith(KEY_PREFIX)
