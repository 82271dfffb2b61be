"""The fine-tuned refiner: sees the section, the question and the answer, and keeps, edits or drops.

It answers with one JSON object (`factory.edits.EDIT_SCHEMA`). Operations are applied here or refused;
what the model does not say clearly is not guessed. An edit makes a child sample that descends from the
sample, the call and the section. How the refiner was trained is not known here.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from factory.domain import Domain
from factory.edits import EDIT_SCHEMA, MAX_OPS, EditRefused, Op, apply
from factory.errors import EndpointError
from factory.failures import REQUEST_FAULTS, FailureRule
from factory.ports import Ask
from factory.prompts import render
from factory.recipe import Strict
from factory.types import Completion, Decision, Json, Message, Parent, Sample, Score, Source
from refiners.source import KnownSources

METRICS = ("grounded", "form")
# The endpoint is well but will not take this request: one sample's failure, not the run's.


class EditOptions(Strict):
    """How the recipe's `models.refiner` was trained to answer."""

    restate: bool = Field(
        False, description="It replaces the whole answer each time, by itself where right: for tiny models."
    )


class _Scores(BaseModel):
    grounded: float = Field(ge=0, le=1)
    form: float = Field(ge=0, le=1)


class _Answer(BaseModel):
    """What the refiner said; keys beyond the verdict may be missing where nothing constrains it."""

    model_config = ConfigDict(frozen=True)

    verdict: Literal["keep", "edit", "rewrite", "drop"]
    reason: str = ""
    ops: list[Op] = Field(default_factory=list, max_length=MAX_OPS)
    rewrite: str | None = None
    scores: _Scores | None = None


class Edit:
    """Asks the refiner model about each sample, all of a batch at once."""

    Options: ClassVar[type[BaseModel]] = EditOptions
    uses_model: ClassVar[bool] = True

    def __init__(self, options: EditOptions, domain: Domain) -> None:
        self._domain = domain
        self._sources = KnownSources(domain)
        self._failures = FailureRule(domain.recipe.loop.max_failure_share)

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order.

        Raises EndpointError where the endpoint is down, and FactoryError where it refuses so many
        requests that the fault cannot be the samples'.
        """
        sources = [self._source(sample) for sample in samples]
        asked = [
            self._ask(sample, source, ask) for sample, source in zip(samples, sources, strict=True) if source
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        # Raised only after all have come, so that no answer under way is thrown away: each was paid for.
        for answer in answers:
            if isinstance(answer, BaseException) and not _is_request_fault(answer):
                raise answer
            self._failures.observe(answer if isinstance(answer, EndpointError) else None)
        self._failures.finish()
        remaining = iter(answers)
        return [
            decide(sample, source, next(remaining)) if source else _drop(sample, "no_source")
            for sample, source in zip(samples, sources, strict=True)
        ]

    async def _ask(self, sample: Sample, source: Source, ask: Ask) -> Completion:
        style = self._domain.recipe.domain.answer_style
        prompt = render(
            "refiners", "edit", style=style, source=source, question=sample.question, answer=sample.answer
        )
        return await ask([Message("user", prompt)], schema=EDIT_SCHEMA)

    def _source(self, sample: Sample) -> Source | None:
        """The sample's section, or the one nearest to its question: the answer may be about another."""
        return self._sources.of(sample) or self._domain.nearest_source(sample.question, sample.slice or None)


def _is_request_fault(error: BaseException) -> bool:
    return isinstance(error, EndpointError) and error.kind in REQUEST_FAULTS


def decide(sample: Sample, source: Source, answered: Completion | BaseException) -> Decision:
    """What follows from the refiner's answer; an unreadable one drops the sample, an idle edit keeps it."""
    evidence: dict[str, Json] = {"source": source.id}
    if isinstance(answered, BaseException):
        return _drop(sample, "refiner_failed", _scores(sample, None), {**evidence, "error": str(answered)})
    evidence["call"] = answered.call_id
    try:
        answer = _Answer.model_validate_json(answered.text)
    except ValidationError:
        return _drop(sample, "refiner_unreadable", _scores(sample, None), evidence)
    evidence["ops"] = [op._asdict() for op in answer.ops]
    scores = _scores(sample, answer.scores)
    try:
        text = _corrected(answer, sample.answer)
    except EditRefused as refused:
        evidence["refused"] = {"op": refused.index, "reason": refused.reason}
        return _drop(sample, "edit_refused", scores, evidence)
    if text is None:
        reason = slug(answer.reason) or "dropped" if answer.verdict == "drop" else "refiner_unreadable"
        return _drop(sample, reason, scores, evidence)
    if text == sample.answer:
        return Decision(sample.id, "edit", "keep", _reason_to_keep(answer), None, scores, evidence)
    parents = [Parent(answered.call_id, "call"), Parent(source.id, "source")]
    child = sample.with_answer(text, parents, answer.verdict)
    return Decision(
        sample.id, "edit", "rewrite", slug(answer.reason) or answer.verdict, child, scores, evidence
    )


def _reason_to_keep(answer: _Answer) -> str:
    """`confirmed`: text was replaced by itself. `edit_empty`: an edit was announced and none made."""
    if answer.verdict == "keep":
        return slug(answer.reason) or "ok"
    return "confirmed" if any(op.old == op.new for op in answer.ops) else "edit_empty"


def _corrected(answer: _Answer, text: str) -> str | None:
    """The text that the refiner wants instead of `text`; None where it wants none or says none."""
    if answer.verdict == "edit":
        return apply(answer.ops, text)
    return text if answer.verdict == "keep" else answer.rewrite if answer.verdict == "rewrite" else None


def _drop(
    sample: Sample, reason: str, scores: tuple[Score, ...] = (), evidence: Mapping[str, Json] | None = None
) -> Decision:
    return Decision(sample.id, "edit", "drop", reason, None, scores, evidence or {})


def slug(reason: str) -> str:
    """A model's reason in snake_case, 40 characters at most."""
    return re.sub(r"[^a-z0-9]+", "_", reason.casefold()).strip("_")[:40].strip("_")


def _scores(sample: Sample, scores: _Scores | None) -> tuple[Score, ...]:
    return tuple(
        Score(sample.id, metric, getattr(scores, metric) if scores else None, "edit") for metric in METRICS
    )
