"""Refuses an edit that fits its prompt worse than the original does, by the student's own likelihood.

The measure is instruction-following difficulty (IFD; Li et al. 2023, arXiv 2308.12032; as a ratio of
perplexities in the code of arXiv 2402.10110): the perplexity of an answer after its prompt over that of the
answer alone. At 1 the prompt gives the answer nothing; the lower, the more of it follows from the prompt. The
sections that the sample is about stand in the prompt, so that a fact which they do not bear out is unlikely.
What becomes of a refused edit is no verdict on the original: it goes on as it was.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, NamedTuple

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.errors import EndpointError
from factory.failures import REQUEST_FAULTS, FailureRule
from factory.ports import Ask, RefineCost
from factory.prompts import render
from factory.recipe import Role, Strict
from factory.types import Completion, Decision, Json, Message, Parent, Sample, Sampling, Score
from refiners.source import KnownSources

NAME: Final = "likelihood"
EDITS: Final = ("edit", "rewrite")  # operations of the step `edit`
IFD, IFD_ORIGINAL = "ifd", "ifd_original"
ALONE: Final = (Message("user", ""),)  # what an answer alone comes after: templates want a user's turn
GIVEN: Final = Sampling(max_tokens=1)  # vLLM writes one token at least

Prompt = Sequence[Message]


class LikelihoodOptions(Strict):
    """How much worse an edit may be than what it replaces."""

    margin: float = Field(
        0.1, ge=0, description="Share by which an edit's ratio of perplexities may pass the original's."
    )


class Fit(NamedTuple):
    """How well answers follow from their prompts: perplexities per token after them, and of them alone."""

    prompted: float
    alone: float

    @property
    def ifd(self) -> float:
        """Instruction-following difficulty."""
        return self.prompted / self.alone

    @classmethod
    def of(cls, prompted: Sequence[Completion], alone: Sequence[Completion]) -> Fit:
        """From the answers after their prompts and the same ones alone."""
        return cls(_perplexity(prompted), _perplexity(alone))


def is_worse(edited: Fit, original: Fit, margin: float) -> bool:
    """Whether an edit fits its prompt worse than the original did.

    Its answer must be less likely after the prompt: where only the ratio rises, the answer became likelier in
    itself, as one does whose form is mended. And the ratio must rise by more than the margin, or reach 1 from
    below, where the prompt helped before and helps no more.
    """
    if edited.prompted <= original.prompted:
        return False
    return edited.ifd > original.ifd * (1 + margin) or original.ifd < 1 <= edited.ifd


class Likelihood:
    """Asks the student about the answers that an edit changed, as they were and as they are."""

    Options: ClassVar[type[BaseModel]] = LikelihoodOptions
    uses_model: ClassVar[bool] = True
    role: ClassVar[Role] = "student"
    cost: ClassVar[RefineCost] = RefineCost(num_each=4)

    def __init__(self, options: LikelihoodOptions, domain: Domain) -> None:
        self._margin = options.margin
        self._sources = KnownSources(domain)
        self._failures = FailureRule(domain.recipe.loop.max_failure_share)

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """Keeps all: without their originals there is nothing to compare."""
        return await self.compare(samples, [None] * len(samples), ask)

    async def compare(
        self, samples: Sequence[Sample], originals: Sequence[Sample | None], ask: Ask
    ) -> list[Decision]:
        """A decision for each sample, in order; `originals` are what they were rewritten from.

        Raises EndpointError where the endpoint is down, and FactoryError where it refuses so many requests
        that the fault cannot be the samples', as one does that does not tell how likely a given answer is.
        """
        pairs = list(zip(samples, originals, strict=True))
        found = await asyncio.gather(*[self._ask_about(*pair, ask) for pair in pairs])  # raise nothing
        for answer in [answer for answers in found for answer in answers]:
            if isinstance(answer, BaseException) and not _is_request_fault(answer):
                raise answer
            self._failures.observe(answer if isinstance(answer, EndpointError) else None)
        self._failures.finish()
        return [self._decide(*pair, answers) for pair, answers in zip(pairs, found, strict=True)]

    async def _ask_about(
        self, sample: Sample, original: Sample | None, ask: Ask
    ) -> Sequence[Completion | BaseException]:
        """Edited and original answers after their prompts, then both alone; none without two to compare."""
        if original is None or (places := changed(sample, original)) is None:
            return ()
        asked = []
        for prompted in (True, False):
            for each in (sample, original):
                for place in places:
                    prompt = self._prompt(sample, each.messages[:place]) if prompted else ALONE
                    asked.append(ask([*prompt, each.messages[place]], sampling=GIVEN, given=True))
        return await asyncio.gather(*asked, return_exceptions=True)

    def _prompt(self, sample: Sample, before: Prompt) -> Prompt:
        """What was said before an answer, with the sample's sections before the first question."""
        first = next(at for at, message in enumerate(before) if message.role == "user")
        about = {
            "sources": self._sources.all_of(sample),
            "tools": sample.attributes.get("tools", ""),
            "question": before[first].content,
        }
        asked = Message("user", render("refiners", NAME, **about))
        return [*before[:first], asked, *before[first + 1 :]]

    def _decide(
        self, sample: Sample, original: Sample | None, answers: Sequence[Completion | BaseException]
    ) -> Decision:
        if original is None or not answers:
            reason = "not_comparable" if sample.operation in EDITS and original else "not_an_edit"
            return Decision(sample.id, NAME, "keep", reason)
        told = [each for each in answers if isinstance(each, Completion)]
        calls = list(dict.fromkeys(each.call_id for each in told))
        evidence: dict[str, Json] = {"original": original.id, "calls": calls}
        if len(told) < len(answers):
            evidence["error"] = str(next(each for each in answers if not isinstance(each, Completion)))
            return Decision(sample.id, NAME, "keep", "student_failed", None, _scores(sample), evidence)
        num = len(told) // 4
        edited, before = (Fit.of(told[at : at + num], told[at + 2 * num :][:num]) for at in (0, num))
        scores = _scores(sample, edited.ifd, before.ifd)
        evidence |= {
            "perplexity": _rounded(edited.prompted),
            "perplexity_original": _rounded(before.prompted),
        }
        if not is_worse(edited, before, self._margin):
            return Decision(sample.id, NAME, "keep", "ok", None, scores, evidence)
        evidence |= {
            IFD: _rounded(edited.ifd),
            IFD_ORIGINAL: _rounded(before.ifd),
            "margin": self._margin,
        }
        back = _original_again(sample, original, calls)
        return Decision(sample.id, NAME, "rewrite", "less_likely", back, scores, evidence)


def changed(sample: Sample, original: Sample) -> list[int] | None:
    """The places of the answers that an edit changed; None where it is none, or an answer has no words."""
    pairs = list(zip(sample.messages, original.messages, strict=False))
    places = [at for at, (new, old) in enumerate(pairs) if new != old]
    turns = [turn for at in places for turn in pairs[at]]
    is_edit = sample.operation in EDITS and len(sample.messages) == len(original.messages)
    if not (is_edit and places and all(turn.role == "assistant" and turn.content.strip() for turn in turns)):
        return None
    asked = next((at for at, turn in enumerate(sample.messages) if turn.role == "user"), places[0])
    return places if asked < places[0] else None


def _original_again(sample: Sample, original: Sample, calls: Sequence[str]) -> Sample:
    """The original in the place of its edit, for the steps to come; it rewrites both, and copies neither."""
    parents = [Parent(sample.id, "rewrite_of"), Parent(original.id, "rewrite_of")]
    parents += [Parent(call, "call") for call in calls]
    parents += [parent for parent in sample.parents if parent.relation == "source"]
    return Sample.create(original.messages, parents, NAME, original.attributes)


def _scores(sample: Sample, edited: float | None = None, original: float | None = None) -> tuple[Score, ...]:
    """None where they should be there and are not."""
    return (Score(sample.id, IFD, edited, NAME), Score(sample.id, IFD_ORIGINAL, original, NAME))


def _perplexity(answers: Sequence[Completion]) -> float:
    """Per token over all the answers; e^300 stands for more."""
    tokens = [token for answer in answers for token in answer.logprobs or ()]
    return math.exp(min(300.0, -sum(token.logprob for token in tokens) / len(tokens)))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _is_request_fault(error: BaseException) -> bool:
    """The endpoint is well but will not take this request: it costs one edit its scores."""
    return isinstance(error, EndpointError) and error.kind in REQUEST_FAULTS
