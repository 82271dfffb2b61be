"""The judge: a model that scores a share of the samples by a rubric, for audit; it drops only where asked to.

Whether a sample is judged is a lot drawn from its id, so a run judges the same samples each time and none is
favoured. Of a pair both orders are asked, since judges favour a place (arXiv 2306.05685, section 3.3), and a
preference counts only where both agree. What the judge does not say is no score and drops nothing. Rubric and
judgement are those of `factory.rubric`. How far people agree with it is told by the view `agreement`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, Field, ValidationError, model_validator

from factory.digests import hash_text
from factory.domain import Domain
from factory.errors import EndpointError
from factory.failures import REQUEST_FAULTS, FailureRule
from factory.ports import Ask, RefineCost
from factory.preference import pair_of
from factory.prompts import render
from factory.recipe import Role, StepSpec
from factory.rubric import HIGHEST, LOWEST, RESERVED, Rubric, RubricOptions
from factory.types import Completion, Decision, Json, Message, Sample, Score
from refiners.source import KnownSources

NAME = "judge"
OVERALL, PREFERS, BIASED = RESERVED
ORDERS = (("chosen", "rejected"), ("rejected", "chosen"))
PAIR_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "better": {"type": "string", "enum": ["first", "second", "tie"]},
    },
    "required": ["reason", "better"],
    "additionalProperties": False,
}

Answered = Completion | EndpointError


class JudgeOptions(RubricOptions):
    """What is judged, on which share of the samples, and whether anything is dropped for it."""

    share: float = Field(0.1, gt=0, le=1, description="Of the samples, drawn by a hash of each one's id.")
    drop_below: float | None = Field(
        None, gt=LOWEST, le=HIGHEST, description="Overall score that a sample must have; needs `share: 1`."
    )

    @model_validator(mode="after")
    def _drops_fairly(self) -> JudgeOptions:
        if self.drop_below is not None and self.share < 1:
            raise ValueError("a judge that drops must see every sample: set share to 1")
        return self


class _Preference(BaseModel):
    reason: str = ""
    better: str


class Judged(NamedTuple):
    """What the answers about one sample say: scores by metric (None: should be there), and the evidence."""

    scores: Mapping[str, float | None]
    evidence: dict[str, Json]
    fault: str  # why there are no scores, or ''


class Judge:
    """Asks the recipe's judge about the samples that are drawn, all of a batch at once."""

    Options: ClassVar[type[BaseModel]] = JudgeOptions
    uses_model: ClassVar[bool] = True
    role: ClassVar[Role] = "judge"

    def __init__(self, options: JudgeOptions, domain: Domain) -> None:
        self.options = options
        self._style = domain.recipe.domain.answer_style
        self._sources = KnownSources(domain)
        self._failures = FailureRule(domain.recipe.loop.max_failure_share)
        self._rubric = Rubric(options.rubric)
        pairs = any(_makes_pairs(spec) for spec in domain.recipe.strategies)
        self.cost = RefineCost(num_calls=3 if pairs else 1, share=options.share)

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order.

        Raises EndpointError where the endpoint is down, and FactoryError where it refuses so many
        requests that the fault cannot be the samples'.
        """
        drawn = {sample.id: sample for sample in samples if sample.answer and self._is_drawn(sample)}
        asked = [self._ask_all(sample, ask) for sample in drawn.values()]
        found = await asyncio.gather(*asked)  # which raise nothing: each answer under way was paid for
        for answer in [answer for answers in found for answer in answers]:
            if isinstance(answer, BaseException) and not _is_request_fault(answer):
                raise answer
            self._failures.observe(answer if isinstance(answer, EndpointError) else None)
        answers = dict(zip(drawn, found, strict=True))
        return [self._decide(sample, answers.get(sample.id)) for sample in samples]

    def _is_drawn(self, sample: Sample) -> bool:
        return int(hash_text(f"{NAME} {sample.id}")[:15], 16) < self.options.share * 16**15

    async def _ask_all(self, sample: Sample, ask: Ask) -> Sequence[Completion | BaseException]:
        """The judgement, and of a pair both preferences, in the order of ORDERS."""
        values = self._values(sample)
        prompt = self._rubric.prompt(sample.answer, **values)
        asked = [ask([Message("user", prompt)], schema=self._rubric.schema)]
        if pair := _texts_of(sample):
            for first, second in ORDERS:
                prompt = render("refiners", "judge_pair", **values, first=pair[first], second=pair[second])
                asked.append(ask([Message("user", prompt)], schema=PAIR_SCHEMA))
        return await asyncio.gather(*asked, return_exceptions=True)

    def _values(self, sample: Sample) -> dict[str, Json]:
        last = max(at for at, turn in enumerate(sample.messages) if turn.role == "assistant")
        told = "\n".join([*sample.texts("system"), sample.attributes.get("tools", "")]).strip()
        turns = [turn for turn in sample.messages[:last] if turn.role != "system"]
        return {"style": self._style, "sources": self._sources.all_of(sample), "told": told, "turns": turns}

    def _decide(self, sample: Sample, answers: Sequence[Completion | BaseException] | None) -> Decision:
        if answers is None:
            return Decision(sample.id, NAME, "keep", "not_sampled" if sample.answer else "no_answer")
        first, *of_pair = [each for each in answers if isinstance(each, Answered)]
        judged = self._read(first)
        scores, evidence = dict(judged.scores), dict(judged.evidence)
        calls = [each.call_id for each in (first, *of_pair) if isinstance(each, Completion)]
        if of_pair:
            preferred = read_pair(of_pair)
            scores |= preferred.scores
            evidence["pair"] = preferred.evidence
        overall, limit = scores[OVERALL], self.options.drop_below
        evidence |= {"calls": calls} if of_pair else {"call": calls[0]} if calls else {}
        known = tuple(Score(sample.id, metric, value, NAME) for metric, value in scores.items())
        if overall is not None and limit is not None and overall < limit:
            evidence |= {"overall": overall, "drop_below": limit}
            return Decision(sample.id, NAME, "drop", "judged_low", None, known, evidence)
        return Decision(sample.id, NAME, "keep", judged.fault or "judged", None, known, evidence)

    def _read(self, answer: Answered) -> Judged:
        """The scores of a judgement; all None where one lacks."""
        nothing = dict.fromkeys([*self._rubric.weights, OVERALL])
        if isinstance(answer, EndpointError):
            return Judged(nothing, {"error": str(answer)}, "judge_failed")
        found = self._rubric.read(answer.text)
        evidence = {} if found.reason is None else {"reason": found.reason}
        if found.scores is None:
            return Judged(nothing, evidence, "judge_unreadable")
        return Judged(found.scores, evidence, "")


def read_pair(answers: Sequence[Answered]) -> Judged:
    """What the answers in both orders of a pair come to.

    `prefers_chosen` is 1, 0, or 0.5 for a tie where both say the same, else None; `position_bias` is 1 where
    the same place won both times, None where an answer is missing.
    """
    said: list[str] = []
    evidence: dict[str, Json] = {"reasons": [], "better": []}
    for answer in answers:
        better = ""
        if isinstance(answer, Completion):
            try:
                reply = _Preference.model_validate_json(answer.text)
            except ValidationError:
                reply = _Preference(better="")
            better = reply.better if reply.better in ("first", "second", "tie") else ""
            evidence["reasons"].append(reply.reason)
        said.append(better)
    if not all(said):
        return Judged({PREFERS: None, BIASED: None}, {**evidence, "better": said}, "judge_unreadable")
    winners = [
        {"first": first, "second": second}.get(better, "tie")
        for better, (first, second) in zip(said, ORDERS, strict=True)
    ]
    evidence["better"] = winners
    agreed = {"chosen": 1.0, "rejected": 0.0, "tie": 0.5}[winners[0]] if winners[0] == winners[1] else None
    biased = float(said[0] == said[1] != "tie")
    return Judged({PREFERS: agreed, BIASED: biased}, evidence, "")


def _texts_of(sample: Sample) -> dict[str, str] | None:
    pair = pair_of(sample.messages, sample.attributes)
    return {which: pair[which][0]["content"] for which in ORDERS[0]} if pair else None


def _makes_pairs(spec: StepSpec) -> bool:
    inner = spec.options().get("of")
    return spec.name == "preference" or (isinstance(inner, dict) and inner.get("name") == "preference")


def _is_request_fault(error: BaseException) -> bool:
    """The endpoint is well but will not take this request: it costs one sample its score."""
    return isinstance(error, EndpointError) and error.kind in REQUEST_FAULTS
