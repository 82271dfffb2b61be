"""Drops a sample in which the teacher declined to answer, or spoke of itself as a model.

A refusal stands at the beginning of an answer; a sentence that quotes one further on is none. Answers that a
strategy wants to decline (attribute `answerable`: no) are left alone: their words are the recipe's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Sample

BEGINNING = 240  # characters
CANNOT = r"(?:can(?:no|')t|can not|am (?:not able|unable)|'m (?:not able|unable)|won't|will not|must decline)"
DO_IT = (
    r"(?:help|assist|answer|provide|comply|fulfil|do that|do this|create|generate|write|continue|engage"
    r"|discuss)"
)
UP_TO = r"[^.!?\n]{0,60}?\b"
REFUSAL = re.compile(
    rf"^\W*(?:(?:i(?: a|')m )?(?:very |so |really )?sorry\b{UP_TO}(?:i|but|as)\b{UP_TO[:-2]}{CANNOT}"
    rf"|(?:unfortunately,? |i apologi[sz]e,? (?:but )?|my apologies,? (?:but )?)?i ?{CANNOT}{UP_TO}{DO_IT}"
    r"|i(?: am|'m) not comfortable\b"
    r"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|i(?: a|')m (?:just |only )?an? (?:ai|(?:large )?language model)\b"
    rf"|(?:es tut mir leid|tut mir leid|leider)\b{UP_TO}kann ich\b{UP_TO}nicht\b"
    rf"|(?:je suis désolée?|désolée?)\b{UP_TO}je ne (?:peux|puis)\b"
    rf"|lo siento\b{UP_TO}no puedo\b)",
    re.IGNORECASE,
)
CURLY = str.maketrans("’‘", "''")


class RefusalOptions(Strict):
    """None."""


class Refusal:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = RefusalOptions
    uses_model: ClassVar[bool] = False
    works_alone: ClassVar[bool] = True

    def __init__(self, options: RefusalOptions, domain: Domain) -> None:
        """Nothing of the domain is looked at."""

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        if sample.attributes.get("answerable") != "no":
            for turn, answer in enumerate(sample.texts("assistant"), 1):
                if found := REFUSAL.match(answer[:BEGINNING].translate(CURLY)):
                    evidence = {"words": found[0].strip(), "turn": turn}
                    return Decision(sample.id, "refusal", "drop", "refusal", evidence=evidence)
        return Decision(sample.id, "refusal", "keep", "ok")
