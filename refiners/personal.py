"""Finds personal data and secrets: e-mail addresses, telephone and card numbers, keys of services, and more.

By default they are masked: the sample is rewritten with <EMAIL> where an address stood, and goes through all
steps again. They can be flagged or dropped instead. Evidence says what stands where and how long it is, and
never what it is. Names of people are not found: that takes a
model. How each kind is recognised is in `refiners.personal_patterns`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal

import phonenumbers
from pydantic import BaseModel, Field, field_validator

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Json, Message, Parent, Sample, Score
from refiners.personal_patterns import KINDS, Found, Kind, find


class PersonalOptions(Strict):
    """What is looked for and what becomes of it."""

    action: Literal["flag", "mask", "drop"] = Field(
        "mask", description="`flag` keeps the sample with its evidence, `mask` rewrites it, `drop` drops it."
    )
    kinds: list[Kind] = Field(list(KINDS), description="What is looked for.", min_length=1)
    regions: list[str] = Field(
        ["US", "GB"],
        description="Countries whose telephone numbers are known without a country code; [] for none.",
    )
    allow: list[str] = Field(
        default_factory=list,
        description="Regular expressions; what one of them matches as a whole is nobody's: a public address.",
    )

    @field_validator("allow")
    @classmethod
    def _compile(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
        return patterns

    @field_validator("regions")
    @classmethod
    def _known(cls, regions: list[str]) -> list[str]:
        unknown = [region for region in regions if region not in phonenumbers.SUPPORTED_REGIONS]
        if unknown:
            raise ValueError(f"{unknown} are no countries: two capital letters, such as US")
        return regions


class Personal:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = PersonalOptions
    uses_model: ClassVar[bool] = False
    works_alone: ClassVar[bool] = True

    def __init__(self, options: PersonalOptions, domain: Domain) -> None:
        self._options = options
        self._allowed = [re.compile(pattern) for pattern in options.allow]

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        found = [self._find(message.content) for message in sample.messages]
        num_found = sum(map(len, found))
        scores = (Score(sample.id, "personal_data", float(num_found), "pii"),)
        if not num_found:
            return Decision(sample.id, "pii", "keep", "ok", scores=scores)
        is_secret = any(each.kind in {"secret", "url_with_password"} for of in found for each in of)
        reason = "secret" if is_secret else "personal_data"
        evidence: dict[str, Json] = {"found": _told(sample, found)}
        if self._options.action == "mask":
            masked = mask(sample, found)
            return Decision(sample.id, "pii", "rewrite", reason, masked, scores, evidence)
        action: Literal["drop", "keep"] = "drop" if self._options.action == "drop" else "keep"
        return Decision(sample.id, "pii", action, reason, None, scores, evidence)

    def _find(self, text: str) -> list[Found]:
        found = find(text, self._options.kinds, self._options.regions)
        if not self._allowed:
            return found
        return [
            each
            for each in found
            if not any(pattern.fullmatch(text[each.start : each.end]) for pattern in self._allowed)
        ]


def mask(sample: Sample, found: Sequence[Sequence[Found]]) -> Sample:
    """The sample with a word such as <EMAIL> for everything that was found in its messages."""
    messages = [
        Message(message.role, _masked(message.content, of))
        for message, of in zip(sample.messages, found, strict=True)
    ]
    kept = [parent for parent in sample.parents if parent.relation == "source"]
    return Sample.create(messages, [Parent(sample.id, "rewrite_of"), *kept], "mask", sample.lasting)


def _masked(text: str, found: Sequence[Found]) -> str:
    for each in reversed(found):
        text = f"{text[: each.start]}<{each.kind.upper()}>{text[each.end :]}"
    return text


def _told(sample: Sample, found: Sequence[Sequence[Found]]) -> list[Json]:
    """Kind, message and place of each; not the text itself, which would stand in the store once more."""
    return [
        {"kind": each.kind, "message": number, "start": each.start, "chars": each.end - each.start}
        for number, of in enumerate(found)
        for each in of
    ]
