"""Finds personal data and secrets in every part of a sample, and masks, flags or drops.

Masked is the default: the sample is rewritten with <EMAIL> where an address stood, and the rewrite, in
which nothing is found any more, goes through all steps again. Evidence says of what kind a thing is, where
it stands and how long it is, never what it is: the store would hold it once more. Names of people are not
found, since that takes a model. How each kind is recognised is in `refiners.personal_patterns`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, NamedTuple

import phonenumbers
from pydantic import BaseModel, Field, field_validator

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.strict import Pattern
from factory.types import Decision, Json, Message, Parent, Sample, Score
from refiners.personal_patterns import KINDS, SECRETS, Found, Kind, find

PARTS = {"user": "question", "assistant": "answer", "system": "system"}
CARRIED = ("tools", "rejected")  # attributes that leave the store with the sample
MAX_TOLD = 20


class PersonalOptions(Strict):
    """What is looked for and what becomes of it."""

    action: Literal["flag", "mask", "drop"] = Field(
        "mask", description="`flag` keeps the sample with its evidence, `mask` rewrites it, `drop` drops it."
    )
    kinds: list[Kind] = Field(list(KINDS), min_length=1, description="What is looked for.")
    regions: list[str] = Field(
        ["US", "GB"],
        description="Countries (ISO 3166) whose telephone numbers are known without + and country code.",
    )
    allow: list[Pattern] = Field(
        default_factory=list,
        description="Regular expressions; what one matches as a whole is public, such as `.*@agency\\.gov`.",
    )

    @field_validator("regions")
    @classmethod
    def _exist(cls, regions: list[str]) -> list[str]:
        unknown = sorted(set(regions) - phonenumbers.SUPPORTED_REGIONS)
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}; a region is two capital letters, such as US")
        return regions


class _Part(NamedTuple):
    """A text of a sample; `place` is the number of the message, or the name of the attribute."""

    place: int | str
    name: str
    text: str


class Personal:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = PersonalOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: PersonalOptions, domain: Domain) -> None:
        self._options = options
        self._allowed = [re.compile(pattern, re.IGNORECASE) for pattern in options.allow]

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        found = [(part, of_part) for part in _parts(sample) if (of_part := self._find(part.text))]
        num_found = sum(len(of_part) for _, of_part in found)
        scores = (Score(sample.id, "personal_data", float(num_found), "pii"),)
        if not found:
            return Decision(sample.id, "pii", "keep", "ok", scores=scores)
        kinds = {each.kind for _, of_part in found for each in of_part}
        reason = "secret" if kinds & SECRETS else "personal_data"
        told = [_told(part, each) for part, of_part in found for each in of_part]
        evidence = {"found": told[:MAX_TOLD], "num_found": num_found}
        if self._options.action == "mask":
            masked = self._mask(sample)
            return Decision(sample.id, "pii", "rewrite", reason, masked, scores, evidence)
        action: Literal["drop", "keep"] = "drop" if self._options.action == "drop" else "keep"
        return Decision(sample.id, "pii", action, reason, None, scores, evidence)

    def _find(self, text: str) -> list[Found]:
        found = find(text, self._options.kinds, self._options.regions)
        if not self._allowed:
            return found
        return [each for each in found if not self._is_allowed(text[each.start : each.end])]

    def _is_allowed(self, text: str) -> bool:
        return any(pattern.fullmatch(text) for pattern in self._allowed)

    def _mask(self, sample: Sample) -> Sample:
        """The sample with a word such as <EMAIL> for everything that is found in it."""
        messages = [Message(turn.role, self._masked(turn.content)) for turn in sample.messages]
        carried = {
            name: self._masked(sample.attributes[name]) for name in CARRIED if name in sample.attributes
        }
        sources = [parent for parent in sample.parents if parent.relation == "source"]
        parents = [Parent(sample.id, "rewrite_of"), *sources]
        return Sample.create(messages, parents, "mask", {**sample.lasting, **carried})

    def _masked(self, text: str) -> str:
        """Until nothing is found: what is left of a text may look like something only then."""
        while found := self._find(text):
            for each in reversed(found):
                text = f"{text[: each.start]}<{each.kind.upper()}>{text[each.end :]}"
        return text


def _parts(sample: Sample) -> list[_Part]:
    messages = enumerate(sample.messages)
    parts = [_Part(place, PARTS[message.role], message.content) for place, message in messages]
    return parts + [
        _Part(name, name, sample.attributes[name]) for name in CARRIED if name in sample.attributes
    ]


def _told(part: _Part, found: Found) -> Json:
    """Kind, part and place in characters; `message` counts from 0, where it is one."""
    told: dict[str, Json] = {"kind": found.kind, "part": part.name}
    if isinstance(part.place, int):
        told["message"] = part.place
    return {**told, "start": found.start, "chars": found.end - found.start}
