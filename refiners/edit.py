"""The fine-tuned refiner: sees the sections, the question and the answer, and keeps, edits or drops.

It replies with one JSON object (`factory.edits.EDIT_SCHEMA`), which `refiners.review` reads. In a
conversation it is asked about every answer, each with what was said before it; one that must go takes all
along. Where a check has found an error in the answer, the refiner is shown that too. An edit makes a child
sample that descends from the sample, the calls and the section. How the refiner was trained is not known
here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field

from factory.calibration import Calibration, load
from factory.domain import Domain
from factory.edits import EDIT_SCHEMA, REWRITE_SHARE
from factory.errors import EndpointError
from factory.failures import REQUEST_FAULTS, FailureRule
from factory.ports import Ask
from factory.prompts import render
from factory.recipe import Strict
from factory.types import Completion, Decision, Json, Message, Parent, Sample, Score, Source
from refiners.review import Limits, Review, Turn, review, turns_of
from refiners.scores import NO_SCORES, TOP_LOGPROBS, Reading, worst
from refiners.source import KnownSources


class EditOptions(Strict):
    """How the recipe's `models.refiner` was trained to answer."""

    restate: bool = Field(
        False, description="It replaces the whole answer each time, by itself where right: for tiny models."
    )
    rewrites: bool = Field(
        True,
        description=f"Answers may be written anew, of which more than {REWRITE_SHARE:.0%} is new text; "
        "false refuses that.",
    )
    probabilities: bool = Field(
        True,
        description="Scores are read from the probabilities of tokens; false for an endpoint that refuses to "
        "give them.",
    )


class Edit:
    """Asks the refiner model about each sample, all of a batch at once."""

    Options: ClassVar[type[BaseModel]] = EditOptions
    uses_model: ClassVar[bool] = True

    def __init__(self, options: EditOptions, domain: Domain) -> None:
        self._domain = domain
        self._sources = KnownSources(domain)
        self._top_logprobs = TOP_LOGPROBS if options.probabilities else 0
        self._limits = Limits(
            options.rewrites,
            citation_pattern=domain.recipe.domain.citation_pattern,
            reading=Reading(options.restate, _calibration(domain)),
        )
        self._failures = FailureRule(domain.recipe.loop.max_failure_share)

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order.

        Raises EndpointError where the endpoint is down, and FactoryError where it refuses so many
        requests that the fault cannot be the samples'.
        """
        known = [self._known(sample) for sample in samples]
        turns = [turns_of(sample) for sample in samples]
        asked = [
            self._ask(turn, sources, sample.attributes.get("error", ""), ask)
            for sample, sources, of_sample in zip(samples, known, turns, strict=True)
            for turn in of_sample
            if sources
        ]
        # Raised only after all have come, so that no answer under way is thrown away: each was paid for.
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not _is_request_fault(answer):
                raise answer
            self._failures.observe(answer if isinstance(answer, EndpointError) else None)
        self._failures.finish()
        remaining = iter(answers)
        return [
            decide(
                sample,
                sources,
                [review(turn, next(remaining), self._limits_of(sample, sources)) for turn in of_sample],
            )
            if sources
            else Decision(sample.id, "edit", "drop", "no_source")
            for sample, sources, of_sample in zip(samples, known, turns, strict=True)
        ]

    async def _ask(self, turn: Turn, sources: Sequence[Source], error: str, ask: Ask) -> Completion:
        style = self._domain.recipe.domain.answer_style
        source, *beside = sources
        values = {"style": style, "source": source, "beside": beside, "error": error}
        prompt = render("refiners", "edit", **values, **turn._asdict())
        return await ask([Message("user", prompt)], schema=EDIT_SCHEMA, top_logprobs=self._top_logprobs)

    def _limits_of(self, sample: Sample, sources: Sequence[Source]) -> Limits:
        """Facts must come from the sections; queries and calls of tools are no prose."""
        if not all(source.key in self._domain.source_by_key for source in sources):
            return self._limits
        known = [text for source in sources for text in (source.citation, source.title, source.text)]
        return self._limits._replace(known=[*known, *sample.texts("system")])

    def _known(self, sample: Sample) -> Sequence[Source]:
        """The sample's sections, or the one nearest to its questions: the answers may be about another.

        A sample that was made from a text that is no section of the domain is corrected by no section, but by
        what it carries itself: a schema in its system message, or tools. None where it carries nothing.
        """
        sources = self._sources.all_of(sample)
        brought = [parent.id for parent in sample.parents if parent.relation == "source"]
        if not sources and brought:
            carried = "\n".join([*sample.texts("system"), sample.attributes.get("tools", "")]).strip()
            return (Source(brought[0], "", "", "", "", carried, sample.slice),) if carried else ()
        if sources:
            return sources
        nearest = self._domain.nearest_source("\n".join(sample.texts("user")), sample.slice or None)
        return (nearest,) if nearest else ()


def _calibration(domain: Domain) -> Calibration | None:
    """The map that was fitted for the refiner's adapter, which lies beside its weights."""
    spec = domain.recipe.models.get("refiner")
    return load(domain.folder / Path(spec.adapter).expanduser()) if spec and spec.adapter else None


def _is_request_fault(error: BaseException) -> bool:
    """The endpoint is well but will not take this request: one sample's failure, not the run's."""
    return isinstance(error, EndpointError) and error.kind in REQUEST_FAULTS


def decide(sample: Sample, sources: Sequence[Source], reviews: Sequence[Review]) -> Decision:
    """What the reviews of all answers come to: the first drop, else every rewrite, else the first keep."""
    scores, evidence = _scores(sample, reviews), _evidence(sources, reviews)
    dropped = [each for each in reviews if each.action == "drop"]
    rewritten = [each for each in reviews if each.action == "rewrite"]
    if dropped or not reviews:
        reason = dropped[0].reason if dropped else "no_answer"
        return Decision(sample.id, "edit", "drop", reason, None, scores, evidence)
    if not rewritten:
        return Decision(sample.id, "edit", "keep", reviews[0].reason, None, scores, evidence)
    child = _child(sample, sources, reviews)
    return Decision(sample.id, "edit", "rewrite", rewritten[0].reason, child, scores, evidence)


def _child(sample: Sample, sources: Sequence[Source], reviews: Sequence[Review]) -> Sample:
    """The sample with every answer as it was reviewed."""
    texts = iter(reviews)
    messages = [
        Message("assistant", next(texts).text) if message.role == "assistant" else message
        for message in sample.messages
    ]
    calls = [Parent(str(each.evidence["call"]), "call") for each in reviews]
    parents = [Parent(sample.id, "rewrite_of"), *dict.fromkeys(calls)]
    parents += [Parent(source.id, "source") for source in sources]
    operations = {each.operation for each in reviews}
    return Sample.create(messages, parents, "rewrite" if "rewrite" in operations else "edit", sample.lasting)


def _evidence(sources: Sequence[Source], reviews: Sequence[Review]) -> dict[str, Json]:
    """Sections, call and operations; of a conversation the calls, and what came of each answer."""
    seen = {"source": " ".join(source.id for source in sources)}
    if len(reviews) == 1:
        return {**seen, **reviews[0].evidence}
    calls = [each.evidence["call"] for each in reviews if "call" in each.evidence]
    turns = [{"action": each.action, "reason": each.reason, **each.evidence} for each in reviews]
    return {**seen, "calls": calls, "turns": turns}


def _scores(sample: Sample, reviews: Sequence[Review]) -> tuple[Score, ...]:
    """Those of the worst answer; None where one should have been scored and was not."""
    found = worst([each.scores for each in reviews]) if reviews else NO_SCORES
    return tuple(Score(sample.id, metric, value, scorer) for (metric, scorer), value in found.items())
