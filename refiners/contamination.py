"""Drops what repeats an item of the dev or test split, so that no evaluation asks what was trained.

By the measures of factory.overlap. Questions decide: short answers are facts that rightly recur, so answers
are compared only from 13 words on, and queries of a database never, since what they share is mostly the
tables. Every turn of a conversation is compared, and a short follow-up of dev or test together with what was
asked before it (factory.held_out). A paraphrase in other words is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.held_out import HeldOut
from factory.overlap import LONG, Hit, Texts
from factory.ports import Ask
from factory.recipe import Strict
from factory.schemas import KEY_PREFIX
from factory.types import Decision, GoldItem, Sample, Split
from factory.words import words


class ContaminationOptions(Strict):
    """None: an evaluation that can be bought with a setting is worth nothing."""


class Contamination:
    """Compares with every dev and test item of the domain."""

    Options: ClassVar[type[BaseModel]] = ContaminationOptions
    uses_model: ClassVar[bool] = False
    needs: ClassVar[str] = "the dev and test items of a recipe"

    def __init__(self, options: ContaminationOptions, domain: Domain) -> None:
        splits: dict[Split, Sequence[GoldItem]] = {"dev": domain.dev, "test": domain.test}
        self._items = [(split, item.key) for split, items in splits.items() for item in items]
        gold = [item for items in splits.values() for item in items]
        self._questions = HeldOut(gold)
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
        is_query = sample.attributes.get("source_key", "").startswith(KEY_PREFIX)
        answers = () if is_query else sample.texts("assistant")
        asked = sample.texts("user")
        found = (self._questions.find(question, asked[:at]) for at, question in enumerate(asked))
        long_answers = (text for text in answers if len(words(text)) >= LONG)
        return next(filter(None, chain(found, map(self._answers.find, long_answers))), None)
