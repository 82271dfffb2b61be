"""What comes of one answer of a sample: the refiner's reply read, its operations applied or refused.

What the model does not say clearly is not guessed: an unreadable reply drops, an idle edit keeps. An edit is
refused where an operation does not match, where it says what nothing before it said, and where it writes
anew what it may not; then the answer is judged as it was. How much is new decides what an edit is called, not
the model. What the reviews of all answers come to is decided in `refiners.edit`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory.edits import MAX_OPS, REWRITE_SHARE, EditRefused, Op, apply, diff, share_new
from factory.types import Action, Completion, Json, Message, Sample
from refiners.introduced import first_op, introduced
from refiners.scores import NO_SCORES, Reading, Scores, is_whole, probability_to_keep, read_scores

EVEN = 0.5


class Turn(NamedTuple):
    """An answer with its question, and what was said before them."""

    earlier: Sequence[Message]
    question: str
    answer: str


class Review(NamedTuple):
    """`text` is the answer as it shall stand."""

    action: Action
    reason: str
    text: str
    operation: str
    scores: Scores
    evidence: Mapping[str, Json]


class Limits(NamedTuple):
    """What an edit is held against: whether it may write anew, and the texts that its facts must come from.

    None of these where answers are no prose, such as queries: what they say is checked in other ways.
    """

    rewrites: bool = True
    known: Sequence[str] | None = None
    citation_pattern: str = ""
    reading: Reading = Reading()


class _Refused(Exception):
    """The model's wish is not done: `reason` is a slug, `detail` the evidence."""

    def __init__(self, reason: str, detail: Mapping[str, Json]) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


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


def review(turn: Turn, answered: Completion | BaseException, limits: Limits) -> Review:
    """What follows from the refiner's reply about one answer, or from its failure to reply."""
    if isinstance(answered, BaseException):
        return _drop(turn, "refiner_failed", NO_SCORES, {"error": str(answered)})
    evidence: dict[str, Json] = {"call": answered.call_id}
    try:
        reply = _Reply.model_validate_json(answered.text)
    except ValidationError:
        return _drop(turn, "refiner_unreadable", NO_SCORES, evidence)
    digits = reply.scores.model_dump() if reply.scores else None
    scores = read_scores(answered, turn.answer, reply.ops, digits, limits.reading)
    evidence["ops"] = [op._asdict() for op in reply.ops]
    try:
        text = _corrected(reply, turn.answer)
        if text is not None and text != turn.answer:
            if _is_whole(reply, turn.answer):
                evidence["ops"] = [op._asdict() for op in diff(turn.answer, text)]
            operation = _accepted(turn, text, evidence["ops"], limits)
    except _Refused as refused:
        return _judged_as_it_was(turn, refused, scores, evidence)
    if text is None:
        reason = slug(reply.reason) or "dropped" if reply.verdict == "drop" else "refiner_unreadable"
        return _drop(turn, reason, scores, evidence)
    if text == turn.answer:
        return Review("keep", _reason_to_keep(reply), text, "", scores, evidence)
    return Review("rewrite", slug(reply.reason) or reply.verdict, text, operation, scores, evidence)


def _accepted(turn: Turn, text: str, ops: Sequence[Json], limits: Limits) -> str:
    """What is done with an answer, `edit` or `rewrite`, by how much of it is new; raises _Refused."""
    share = share_new(turn.answer, text)
    if share > REWRITE_SHARE and not limits.rewrites:
        raise _Refused("rewrite_refused", {"reason": "rewrite", "share_new": round(share, 4)})
    if limits.known is not None:
        said = [turn.question, turn.answer, *(message.content for message in turn.earlier)]
        if found := introduced(text, [*limits.known, *said], limits.citation_pattern):
            where = {"op": first_op(ops, found), "reason": "introduced_fact"}
            raise _Refused("introduced_fact", {**where, "introduced": found})
    return "rewrite" if share > REWRITE_SHARE else "edit"


def _judged_as_it_was(turn: Turn, refused: _Refused, scores: Scores, evidence: dict[str, Json]) -> Review:
    """The original stays if it is at least as likely right as not.

    The refiner wanted it changed, so that without probabilities it counts as faulty, and a fault that could
    not be mended goes.
    """
    evidence["refused"] = refused.detail
    likely = probability_to_keep(scores)
    if likely is None or likely < EVEN:
        return _drop(turn, refused.reason, scores, evidence)
    return Review("keep", refused.reason, turn.answer, "", scores, evidence)


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
        try:
            return apply(reply.ops, text)
        except EditRefused as refused:
            detail = {"op": refused.index, "reason": refused.reason}
            raise _Refused("edit_refused", detail) from refused
    return text if reply.verdict == "keep" else reply.rewrite if reply.verdict == "rewrite" else None


def _is_whole(reply: _Reply, text: str) -> bool:
    """Whether the answer was written out anew, so that what changed is for a diff to tell."""
    return reply.verdict == "rewrite" or any(is_whole(op, text) for op in reply.ops)


def _drop(turn: Turn, reason: str, scores: Scores, evidence: Mapping[str, Json]) -> Review:
    return Review("drop", reason, turn.answer, "", scores, evidence)
