"""What comes of one answer of a sample: the refiner's reply read, its operations applied or refused.

What the model does not say clearly is not guessed: an unreadable reply drops, an idle edit keeps. What the
reviews of all answers come to is decided in `refiners.edit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory.edits import MAX_OPS, EditRefused, Op, apply
from factory.types import Action, Completion, Json, Message, Sample

METRICS = ("grounded", "form")


class Turn(NamedTuple):
    """An answer with its question, and what was said before them."""

    earlier: Sequence[Message]
    question: str
    answer: str


class Review(NamedTuple):
    """`text` is the answer as it shall stand; scores are None where they should have been given."""

    action: Action
    reason: str
    text: str
    operation: str
    scores: Mapping[str, float | None]
    evidence: Mapping[str, Json]


class _Scores(BaseModel):
    grounded: float = Field(ge=0, le=1)
    form: float = Field(ge=0, le=1)


class _Reply(BaseModel):
    """What the refiner said; keys beyond the verdict may be missing where nothing constrains it."""

    model_config = ConfigDict(frozen=True)

    verdict: Literal["keep", "edit", "rewrite", "drop"]
    reason: str = ""
    ops: list[Op] = Field(default_factory=list, max_length=MAX_OPS)
    rewrite: str | None = None
    scores: _Scores | None = None


def turns_of(sample: Sample) -> list[Turn]:
    """Every answer of a sample in its conversation; the system message is left out."""
    said = [message for message in sample.messages if message.role != "system"]
    turns = []
    for index, message in enumerate(said):
        if message.role == "assistant":
            asked = [at for at in range(index) if said[at].role == "user"]
            question = said[asked[-1]].content if asked else ""
            turns.append(Turn(said[: asked[-1]] if asked else [], question, message.content))
    return turns


def review(turn: Turn, answered: Completion | BaseException) -> Review:
    """What follows from the refiner's reply about one answer, or from its failure to reply."""
    if isinstance(answered, BaseException):
        return _drop(turn, "refiner_failed", None, {"error": str(answered)})
    evidence: dict[str, Json] = {"call": answered.call_id}
    try:
        reply = _Reply.model_validate_json(answered.text)
    except ValidationError:
        return _drop(turn, "refiner_unreadable", None, evidence)
    evidence["ops"] = [op._asdict() for op in reply.ops]
    try:
        text = _corrected(reply, turn.answer)
    except EditRefused as refused:
        evidence["refused"] = {"op": refused.index, "reason": refused.reason}
        return _drop(turn, "edit_refused", reply.scores, evidence)
    if text is None:
        reason = slug(reply.reason) or "dropped" if reply.verdict == "drop" else "refiner_unreadable"
        return _drop(turn, reason, reply.scores, evidence)
    if text == turn.answer:
        return Review("keep", _reason_to_keep(reply), text, "", _measured(reply.scores), evidence)
    reason = slug(reply.reason) or reply.verdict
    return Review("rewrite", reason, text, reply.verdict, _measured(reply.scores), evidence)


def slug(reason: str) -> str:
    """A model's reason in snake_case, 40 characters at most."""
    return re.sub(r"[^a-z0-9]+", "_", reason.casefold()).strip("_")[:40].strip("_")


def _reason_to_keep(reply: _Reply) -> str:
    """`confirmed`: text was replaced by itself. `edit_empty`: an edit was announced and none made."""
    if reply.verdict == "keep":
        return slug(reply.reason) or "ok"
    return "confirmed" if any(op.old == op.new for op in reply.ops) else "edit_empty"


def _corrected(reply: _Reply, text: str) -> str | None:
    """The text that the refiner wants instead of `text`; None where it wants none or says none."""
    if reply.verdict == "edit":
        return apply(reply.ops, text)
    return text if reply.verdict == "keep" else reply.rewrite if reply.verdict == "rewrite" else None


def _drop(turn: Turn, reason: str, scores: _Scores | None, evidence: Mapping[str, Json]) -> Review:
    return Review("drop", reason, turn.answer, "", _measured(scores), evidence)


def _measured(scores: _Scores | None) -> dict[str, float | None]:
    return {metric: getattr(scores, metric) if scores else None for metric in METRICS}
