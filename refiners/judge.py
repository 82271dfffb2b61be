"""The judge: a model that scores a share of the samples by a rubric, for audit; it drops only where asked to.

Whether a sample is judged is a lot drawn from its id, so a run judges the same samples each time and none is
favoured. A judgement is one JSON object, its reason before its scores, so that these follow from it
(arXiv 2306.05685, section 3.4). Of a pair both orders are asked, since judges favour a place (section 3.3
there), and a preference counts only where both agree. What the judge does not say is no score and drops
nothing. How far people agree with it is told by the view `agreement`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from factory.digests import hash_text
from factory.domain import Domain
from factory.errors import EndpointError
from factory.failures import REQUEST_FAULTS, FailureRule
from factory.ports import Ask, RefineCost
from factory.preference import pair_of
from factory.prompts import render
from factory.recipe import Role, Slug, StepSpec, Strict
from factory.types import Completion, Decision, Json, Message, Sample, Score
from refiners.source import KnownSources

NAME = "judge"
LOWEST, HIGHEST = 1, 5
OVERALL, PREFERS, BIASED = "overall", "prefers_chosen", "position_bias"
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


class Criterion(Strict):
    """One question that the judge answers with a number from 1 to 5."""

    name: Slug = Field(description="Under which the score is stored.")
    question: str = Field(min_length=1, description="What is asked of the sample; 5 is the best answer.")
    weight: float = Field(1.0, gt=0, description="In the overall score, against the others' weights.")


DEFAULT_RUBRIC = [
    Criterion(name="correct", question="Is all of it true, and borne out by the section where one is given?"),
    Criterion(
        name="complete", question="Is all of the question answered, with every condition that matters?"
    ),
    Criterion(name="clear", question="Can the reader act on it as it stands, with no word too many?"),
]


class JudgeOptions(Strict):
    """What is judged, on which share of the samples, and whether anything is dropped for it."""

    rubric: list[Criterion] | str = Field(
        DEFAULT_RUBRIC,
        min_length=1,
        description="Criteria, each with `name`, `question` and `weight`, or a text for one overall score; "
        "all are scored from 1 to 5.",
    )
    share: float = Field(0.1, gt=0, le=1, description="Of the samples, drawn by a hash of each one's id.")
    drop_below: float | None = Field(
        None, gt=LOWEST, le=HIGHEST, description="Overall score that a sample must have; needs `share: 1`."
    )

    @field_validator("rubric")
    @classmethod
    def _are_apart(cls, rubric: list[Criterion] | str) -> list[Criterion] | str:
        names = [] if isinstance(rubric, str) else [criterion.name for criterion in rubric]
        for at, name in enumerate(names):
            if name in (OVERALL, PREFERS, BIASED):
                raise ValueError(f"'{name}' is the judge's own; call the criterion otherwise")
            if name in names[:at]:
                raise ValueError(f"'{name}' stands there twice")
        return rubric

    @model_validator(mode="after")
    def _drops_fairly(self) -> JudgeOptions:
        if self.drop_below is not None and self.share < 1:
            raise ValueError("a judge that drops must see every sample: set share to 1")
        return self


class _Reply(BaseModel):
    reason: str = ""
    scores: dict[str, int]


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
        rubric = options.rubric
        self._text = rubric if isinstance(rubric, str) else ""
        self._criteria = [] if isinstance(rubric, str) else rubric
        self._weights = {each.name: each.weight for each in self._criteria} or {OVERALL: 1.0}
        self._schema = schema_of(list(self._weights))
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
        rubric = {"criteria": self._criteria, "text": self._text, "names": list(self._weights)}
        prompt = render("refiners", "judge", **values, **rubric, answer=sample.answer)
        asked = [ask([Message("user", prompt)], schema=self._schema)]
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
        """The scores of a judgement and their weighted mean, to three decimals; all None where one lacks."""
        nothing = dict.fromkeys([*self._weights, OVERALL])
        if isinstance(answer, EndpointError):
            return Judged(nothing, {"error": str(answer)}, "judge_failed")
        try:
            reply = _Reply.model_validate_json(answer.text)
        except ValidationError:
            return Judged(nothing, {}, "judge_unreadable")
        given = {name: reply.scores.get(name, 0) for name in self._weights}
        if not all(LOWEST <= value <= HIGHEST for value in given.values()):
            return Judged(nothing, {"reason": reply.reason}, "judge_unreadable")
        weighted = sum(self._weights[name] * value for name, value in given.items())
        overall = round(weighted / sum(self._weights.values()), 3)
        return Judged({**given, OVERALL: overall}, {"reason": reply.reason}, "")


def schema_of(names: Sequence[str]) -> Json:
    """The JSON schema of a judgement: a reason, then a whole number from 1 to 5 for each name."""
    score = {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}
    scores = {
        "type": "object",
        "properties": dict.fromkeys(names, score),
        "required": list(names),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"reason": {"type": "string"}, "scores": scores},
        "required": ["reason", "scores"],
        "additionalProperties": False,
    }


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
