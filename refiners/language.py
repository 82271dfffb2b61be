"""Drops a sample that is written in another language than the dataset's.

Every message is looked at by itself, with py3langid (Lui and Baldwin, "langid.py: An Off-the-shelf Language
Identification Tool", ACL 2012; its model is part of the package). A text that is short, or no prose (code,
SQL, JSON, mostly figures), is not judged, and neither is one of which the model is not sure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, ClassVar

from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pydantic import BaseModel, Field, field_validator

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Message, Sample

MIN_LETTERS = 40
MIN_LETTER_SHARE = 0.7  # letters and spaces; of prose some 95 %
MIN_PROBABILITY = 0.95
NO_PROSE = re.compile(r"\s*(?:[\[{<]|```|(?:select|with|insert|create|update|delete)\s)", re.IGNORECASE)


class LanguageOptions(Strict):
    """The languages of the dataset."""

    languages: list[str] = Field(
        ["en"], min_length=1, description="ISO 639-1 codes of the languages that are kept, such as en or de."
    )

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: list[str]) -> list[str]:
        unknown = sorted(set(languages) - set(identifier().labels))
        if unknown:
            raise ValueError(f"{unknown} are no codes that are known: two small letters, such as en")
        return languages


class Language:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = LanguageOptions
    uses_model: ClassVar[bool] = False
    works_alone: ClassVar[bool] = True

    def __init__(self, options: LanguageOptions, domain: Domain) -> None:
        self._expected = options.languages
        self._identifier = identifier()

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        for number, message in enumerate(sample.messages):
            if not is_prose(message):
                continue
            language, probability = self._identifier.classify(message.content)
            if language not in self._expected and probability >= MIN_PROBABILITY:
                sure = round(float(probability), 4)
                evidence = {"found": language, "probability": sure, "message": number}
                return Decision(sample.id, "language", "drop", "wrong_language", evidence=evidence)
        return Decision(sample.id, "language", "keep", "ok")


def is_prose(message: Message) -> bool:
    """Whether a message is long enough to tell its language, and written to be read."""
    text = message.content
    letters = sum(map(str.isalpha, text))
    if letters < MIN_LETTERS or NO_PROSE.match(text):
        return False
    return letters + sum(map(str.isspace, text)) >= MIN_LETTER_SHARE * len(text)


@cache
def identifier() -> Any:
    """The model, read from the package; a tenth of a second."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
