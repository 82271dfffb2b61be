"""Drops what repeats an item of the dev or test split, so that no evaluation asks what was trained.

Measures over words: equality, a common run of 13 (Brown et al. 2020, arXiv 2005.14165, appendix C), runs
of 8 that cover more than half of the shorter text, and where one text is shorter than 8 words the longest
common run. Questions decide: short answers are facts that rightly recur, so answers are compared only
from 13 words on. Every turn of a conversation is compared. A paraphrase in other words is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import ClassVar, NamedTuple

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, GoldItem, Sample, Split
from refiners.words import words

LONG, GRAM, SHORTEST = 13, 8, 4
MAX_COVERAGE = 0.5
MAX_RUN_SHARE = 0.8
Words = tuple[str, ...]


class ContaminationOptions(Strict):
    """None: an evaluation that can be bought with a setting is worth nothing."""


class Hit(NamedTuple):
    """How a text repeats an item: the measure and its value."""

    measure: str
    value: float


class Contamination:
    """Compares with every dev and test item of the domain."""

    Options: ClassVar[type[BaseModel]] = ContaminationOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: ContaminationOptions, domain: Domain) -> None:
        splits: dict[Split, Sequence[GoldItem]] = {"dev": domain.dev, "test": domain.test}
        self._items = [(split, item.key) for split, items in splits.items() for item in items]
        gold = [item for items in splits.values() for item in items]
        self._questions = Texts([item.question for item in gold])
        self._answers = Texts([item.answer if len(words(item.answer)) >= LONG else "" for item in gold])

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        found = self._find(sample)
        if found is None:
            return Decision(sample.id, "contamination", "keep", "ok")
        index, hit = found
        split, key = self._items[index]
        evidence = {"item": key, "split": split, "measure": hit.measure, "value": round(hit.value, 4)}
        return Decision(sample.id, "contamination", "drop", "contaminated", evidence=evidence)

    def _find(self, sample: Sample) -> tuple[int, Hit] | None:
        """The first item that a question repeats, or else a long answer; and how."""
        found = map(self._questions.find, sample.texts("user"))
        long_answers = (text for text in sample.texts("assistant") if len(words(text)) >= LONG)
        return next(filter(None, chain(found, map(self._answers.find, long_answers))), None)


class Texts:
    """Texts by their runs of 4 to 8 words, so that only those which share one are compared."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = [tuple(words(text)) for text in texts]
        self._short: dict[Words, list[int]] = {}
        self._long: dict[Words, list[int]] = {}
        for index, text in enumerate(self._texts):
            index_by_run = self._short if len(text) < GRAM else self._long
            sizes = range(min(len(text), SHORTEST), GRAM + 1)
            for run in dict.fromkeys(run for size in sizes for run in _runs(text, size)):
                index_by_run.setdefault(run, []).append(index)

    def find(self, text: str) -> tuple[int, Hit] | None:
        """One of the texts that `text` repeats, and how; None where there is none."""
        given = tuple(words(text))
        for index in self._candidates(given):
            if hit := overlap(given, self._texts[index]):
                return index, hit
        return None

    def _candidates(self, given: Words) -> Iterator[int]:
        """Indices, each once, of texts that share a run as long as a hit would need; long runs first."""
        found: set[int] = set()
        for size in range(min(len(given), GRAM), min(len(given), SHORTEST) - 1, -1):
            # Two long texts must share a whole run of 8: shorter ones are not worth looking up.
            indices = [self._short, self._long] if size == GRAM or len(given) < GRAM else [self._short]
            for run in _runs(given, size):
                for index in (index for runs in indices for index in runs.get(run, ())):
                    shorter = min(len(given), len(self._texts[index]))
                    if index not in found and size >= min(_needed(shorter), GRAM):
                        found.add(index)
                        yield index


def overlap(left: Words, right: Words) -> Hit | None:
    """How one text repeats the other, by the strictest measure that finds it; None where it does not."""
    if not left or not right:
        return None
    if left == right:
        return Hit("equal", 1.0)
    shorter, longer = sorted((left, right), key=len)
    if len(shorter) < GRAM:
        share = _longest_run(shorter, longer) / len(shorter)
        return Hit("longest_run", share) if len(shorter) >= SHORTEST and share > MAX_RUN_SHARE else None
    if set(_runs(left, LONG)) & set(_runs(right, LONG)):
        return Hit("run_of_13", 1.0)
    theirs = set(_runs(longer, GRAM))
    starts = [at for at, run in enumerate(_runs(shorter, GRAM)) if run in theirs]
    coverage = len({at + offset for at in starts for offset in range(GRAM)}) / len(shorter)
    return Hit("coverage_by_8", coverage) if coverage > MAX_COVERAGE else None


def _needed(num_words: int) -> int:
    """The shortest common run that is a hit for a text of less than 8 words."""
    return next((n for n in range(1, num_words) if n > MAX_RUN_SHARE * num_words), num_words)


def _runs(text: Words, size: int) -> Iterator[Words]:
    return (text[at : at + size] for at in range(len(text) - size + 1)) if size else iter(())


def _longest_run(left: Words, right: Words) -> int:
    """Length of the longest run of words that both have."""
    best, lengths = 0, [0] * (len(right) + 1)
    for word in left:
        lengths = [0, *(lengths[at] + 1 if word == other else 0 for at, other in enumerate(right))]
        best = max(best, *lengths)
    return best
