"""Reads the JSONL files of a domain: seed prompts, dev and test items, checked drafts.

A line is one JSON object with known keys. Each error names file and line. A question must not stand
in dev or test and anywhere else, nor nearly so, since a score on what was trained on says nothing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from factory.errors import RecipeError
from factory.explain import did_you_mean, dotted, explain
from factory.held_out import HeldOut, asked
from factory.layers import read_text
from factory.recipe import Strict
from factory.types import CheckedDraft, GoldItem, Message, Seed


def _whole(text: str) -> str:
    # JSON can spell half of a surrogate pair, which no file and no database can hold.
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ValueError("holds half a character (a lone surrogate)")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


AnyText = Annotated[str, AfterValidator(_whole)]
Text = Annotated[AnyText, AfterValidator(_not_blank)]


class SeedLine(Strict):
    """A line of the file of seeds."""

    id: Text
    prompt: Text
    slice: Text
    source: Text | None = None

    def value(self) -> Seed:
        return Seed.create(self.id, self.prompt, self.slice, self.source)


class MessageLine(Strict):
    """A message of the conversation in which a question is asked."""

    role: Literal["system", "user", "assistant"]
    content: Text


def _leads_to_a_question(messages: list[MessageLine]) -> list[MessageLine]:
    roles = [message.role for message in messages]
    turns = roles[roles[:1] == ["system"] :]
    if turns != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError(
            f"must be a system message, where there is one, then user and assistant in turn up to an answer; "
            f"found {', '.join(roles)}"
        )
    return messages


class GoldLine(Strict):
    """A line of dev or test; `before` is what was said before the question."""

    id: Text
    question: Text
    answer: Text
    slice: Text
    source: Text | None = None
    before: Annotated[list[MessageLine], AfterValidator(_leads_to_a_question)] = Field(default_factory=list)

    def value(self) -> GoldItem:
        before = tuple(Message(message.role, message.content) for message in self.before)
        return GoldItem(self.id, self.question, self.answer, self.slice, self.source, before)


class DraftLine(Strict):
    """A line of the refiner's examples: a draft with what an expert made of it, or an answer that is right.

    `corrected` is null where the draft had to go. Without `corrected` and `reason` it is right as it is.
    """

    id: Text
    question: AnyText
    answer: AnyText
    corrected: Text | None
    reason: Text
    slice: Text
    source: Text

    @model_validator(mode="before")
    @classmethod
    def _right_as_it_is(cls, data: Any) -> Any:
        if isinstance(data, dict) and "answer" in data and not data.keys() & {"corrected", "reason"}:
            return {**data, "corrected": data["answer"], "reason": "ok"}
        return data

    def value(self) -> CheckedDraft:
        return CheckedDraft(
            self.id, self.question, self.answer, self.corrected, self.reason, self.source, self.slice
        )


Line = TypeVar("Line", SeedLine, GoldLine, DraftLine)


@dataclass(frozen=True)
class Placed(Generic[Line]):
    """A line and where it stands, as `file:line`."""

    place: str
    line: Line


def read_lines(kind: type[Line], path: Path, sources: Mapping[str, str]) -> list[Placed[Line]]:
    """All lines of a JSONL file; blank ones are skipped. `sources` maps each section's key to its slice.

    Raises RecipeError naming file and line for what is no JSON, a missing or unknown key, a wrong type, an
    empty text, a source that is not there or lies in another slice, and an id that stands twice.
    """
    found: list[Placed[Line]] = []
    places: dict[str, str] = {}
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        place = f"{path}:{number}"
        line = _parse(kind, text, place)
        _check_source(line, sources, place)
        if line.id in places:
            raise RecipeError(f"the id '{line.id}' is also at {places[line.id]}", where=f"{place} id")
        places[line.id] = place
        found.append(Placed(place, line))
    return found


def _check_source(line: SeedLine | GoldLine | DraftLine, sources: Mapping[str, str], place: str) -> None:
    if line.source is None:
        return
    if line.source not in sources:
        hint = did_you_mean(line.source, sorted(sources), "`sources.paths` holds the sections")
        raise RecipeError(f"there is no section '{line.source}'", where=f"{place} source", hint=hint)
    if line.slice != sources[line.source]:
        what = f"'{line.slice}' is not the slice of its section '{line.source}'"
        raise RecipeError(what, where=f"{place} slice", hint=f"that is '{sources[line.source]}'")


def _parse(kind: type[Line], text: str, place: str) -> Line:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"not JSON: {error}", where=place, hint="one object a line") from error
    if not isinstance(data, dict):
        raise RecipeError("must be a JSON object", where=place)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        finding = explain(error, kind)
        hint = finding.hint if finding.kind != "missing" else f"keys: {', '.join(kind.model_fields)}"
        raise RecipeError(finding.what, where=f"{place} {dotted(finding.loc)}", hint=hint) from error


def place_of(path: Path, item: GoldItem) -> str:
    """Where an item that was read from a file stands in it, as `file:line`."""
    lines = enumerate(read_text(path).split("\n"), 1)
    numbers = (number for number, text in lines if text.strip() and json.loads(text)["id"] == item.key)
    return f"{path}:{next(numbers)}"


def check_apart(
    held_out: Iterable[tuple[str, list[Placed[GoldLine]]]], seen: Iterable[tuple[str, str]]
) -> None:
    """Raises RecipeError where a question of dev or test stands twice, or in `seen`: (place, question).

    What the refiner `contamination` takes for a repetition counts as one in `seen`. Two items are the same
    where all that the user asks is: a follow-up may stand in several conversations.
    """
    learned = list(seen)
    items = [(split, item) for split, split_items in held_out for item in split_items]
    places = {normalise(question): place for place, question in learned}
    for split, item in items:
        question = normalise("\n".join(asked(item.line.value())))
        if question in places:
            raise _twice(split, item.place, f"this question is also at {places[question]}")
        places[question] = item.place
    tested = HeldOut([item.line.value() for _, item in items])
    for place, question in learned:
        if found := tested.find(question):
            split, item = items[found[0]]
            raise _twice(split, item.place, f"nearly this question is also at {place}")


def _twice(split: str, place: str, what: str) -> RecipeError:
    return RecipeError(what, where=f"{place} question", hint=f"an item of {split} must stand nowhere else")


def normalise(question: str) -> str:
    """Words in lower case, one space between: two questions that differ in less are the same."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", question).casefold()))
