"""How well the refiner does on drafts whose right answer is known: its verdicts, its edits, its damage.

A draft goes through the product's own step `edit`, as a sample that a strategy might have made, so what is
measured is what a round would do: the model, the operations applied or refused, the acceptance of its text.
Where drafts come from is not known here, nor what follows from a figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from factory.domain import Domain
from factory.errors import RecipeError
from factory.ports import Ask, OnProgress, Refiner
from factory.refine import BATCH_SIZE
from factory.registry import create
from factory.significance import wilson
from factory.types import Action, CheckedDraft, Decision, Message, Parent, Sample

STEP = "edit"
P_KEEP = ("keep", "edit_probability")  # metric and scorer: the probability of a clean answer, uncalibrated


class Share(NamedTuple):
    """`num` of `total`, with its 95 % interval (Wilson); `value` is None of no drafts."""

    num: int
    total: int

    @property
    def value(self) -> float | None:
        """The share in [0, 1]."""
        return self.num / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        """Its bounds in [0, 1]."""
        return wilson(self.num / self.total if self.total else 0.0, self.total)


@dataclass(frozen=True, slots=True)
class DraftOutcome:
    """What the step made of one draft. `became` and `expected` are None where it was, or had to be, dropped.

    `refused` is why the step did not take what the model wanted; `p_keep` the probability of a clean answer
    as the step gave it, and None where it gave none.
    """

    key: str
    kind: str
    section: str
    answer: str
    expected: str | None
    became: str | None
    action: Action
    reason: str
    refused: str
    p_keep: float | None
    call_id: str

    @property
    def is_faulty(self) -> bool:
        """Whether there was something to find."""
        return self.expected != self.answer

    @property
    def is_flagged(self) -> bool:
        """Whether the step edited or dropped it."""
        return self.action != "keep"

    @property
    def is_found(self) -> bool:
        """Whether the verdict is of the kind that the fault asks for: dropped, or edited where a text can be.

        An edit of a draft that had to go is none: what is left still belongs to no section that answers it.
        """
        if self.expected is None:
            return self.action == "drop"
        return self.is_faulty and self.is_flagged

    @property
    def is_right(self) -> bool:
        """Whether what stands in the end is what the expert wanted, white space aside."""
        return _plain(self.became) == _plain(self.expected)


@dataclass(frozen=True, slots=True)
class Tally:
    """Figures over some drafts. Positive is a draft with a fault: its corrected text is another, or none.

    A fault is found where the draft was dropped, or edited although it did not have to go; so a draft that
    had to go and was edited is a false alarm and a miss. `precision`: of the drafts that the step edited or
    dropped, those whose fault was found. `recall`: of those with a fault, the found ones. `fixed`: of those
    with a fault that can be corrected, the ones whose text in the end is the corrected one but for white
    space. `removed`: of those that had to go, the dropped. `damaged`: of the clean ones, those changed or
    dropped. `refused`: where operations were refused.
    """

    num: int
    precision: Share
    recall: Share
    fixed: Share
    removed: Share
    damaged: Share
    refused: Share

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall; None where nothing was faulty and nothing flagged."""
        overlap = self._overlap.value
        return None if overlap is None else 2 * overlap / (1 + overlap)

    @property
    def f1_interval(self) -> tuple[float, float]:
        """Its 95 % interval: that of F* = TP / (TP + FP + FN), a plain share, carried over by F = 2F*/(1+F*).

        Hand, Christen, Kirielle 2021, Machine Learning 110, equation 3. A draft that is a false alarm and a
        miss counts twice in it, as in F.
        """
        low, high = self._overlap.interval
        return 2 * low / (1 + low), 2 * high / (1 + high)

    @property
    def _overlap(self) -> Share:
        found = self.recall.num
        return Share(found, self.precision.total + self.recall.total - found)


@dataclass(frozen=True, slots=True)
class RefinerEvaluation:
    """The outcomes of all drafts, in their order, and the figures over them; see `Tally` for these."""

    outcomes: tuple[DraftOutcome, ...]
    overall: Tally
    by_kind: dict[str, Tally]

    @classmethod
    def of(cls, outcomes: Iterable[DraftOutcome]) -> RefinerEvaluation:
        """The figures over outcomes; kinds in alphabetical order."""
        found = tuple(outcomes)
        kinds = sorted({each.kind for each in found})
        by_kind = {kind: tally([each for each in found if each.kind == kind]) for kind in kinds}
        return cls(found, tally(found), by_kind)

    @property
    def precision(self) -> float | None:
        """Of the verdict; None where nothing was flagged."""
        return self.overall.precision.value

    @property
    def recall(self) -> float | None:
        """Of the verdict; None where nothing was faulty."""
        return self.overall.recall.value

    @property
    def f1(self) -> float | None:
        """Of the verdict."""
        return self.overall.f1

    @property
    def fixed(self) -> float | None:
        """Share of faults fixed exactly."""
        return self.overall.fixed.value

    @property
    def damaged(self) -> float | None:
        """Share of clean drafts changed or dropped."""
        return self.overall.damaged.value


def tally(outcomes: Sequence[DraftOutcome]) -> Tally:
    """Counts over some outcomes."""
    faulty = [each for each in outcomes if each.is_faulty]
    clean = [each for each in outcomes if not each.is_faulty]
    correctable = [each for each in faulty if each.expected is not None]
    flagged = sum(each.is_flagged for each in outcomes)
    found = sum(each.is_found for each in faulty)
    return Tally(
        len(outcomes),
        Share(found, flagged),
        Share(found, len(faulty)),
        Share(sum(each.is_right for each in correctable), len(correctable)),
        Share(
            sum(each.action == "drop" for each in faulty if each.expected is None),
            len(faulty) - len(correctable),
        ),
        Share(sum(each.is_flagged for each in clean), len(clean)),
        Share(sum(bool(each.refused) for each in outcomes), len(outcomes)),
    )


async def evaluate_drafts(
    domain: Domain, drafts: Sequence[CheckedDraft], ask: Ask, on_progress: OnProgress | None = None
) -> RefinerEvaluation:
    """Every draft through the recipe's step `edit`; outcomes are kept in memory, a few hundred bytes each.

    Raises RecipeError where the recipe has no such step or a draft names no known section, and what the step
    itself raises (EndpointError where the endpoint is down).
    """
    refiner = edit_step(domain)
    outcomes: list[DraftOutcome] = []
    remaining = iter(drafts)
    while batch := list(islice(remaining, BATCH_SIZE)):
        samples = [sample_of(domain, draft) for draft in batch]
        decisions = await refiner.refine(samples, ask)
        outcomes += [_outcome(draft, decision) for draft, decision in zip(batch, decisions, strict=True)]
        if on_progress:
            on_progress(len(outcomes), len(drafts))
    return RefinerEvaluation.of(outcomes)


def edit_step(domain: Domain) -> Refiner:
    """The recipe's own step with its own options; raises RecipeError where there is none."""
    for index, spec in enumerate(domain.recipe.refiners):
        if spec.name == STEP:
            refiner: Refiner = create("refiners", spec, domain, f"refiners[{index}]")
            return refiner
    raise RecipeError(f"no step '{STEP}', so there is no refiner to evaluate", where="refiners")


def sample_of(domain: Domain, draft: CheckedDraft) -> Sample:
    """A draft as the sample that the step gets; raises RecipeError for one about no known section."""
    source = domain.source_by_key.get(draft.source_key)
    if source is None:
        what = f"draft '{draft.key}' names no known section: '{draft.source_key}'"
        raise RecipeError(what, where="gold.refiner")
    messages = [Message("user", draft.question), Message("assistant", draft.answer)]
    attributes = {"slice": draft.slice, "source_key": draft.source_key}
    return Sample.create(messages, [Parent(source.id, "source")], "draft", attributes)


def _outcome(draft: CheckedDraft, decision: Decision) -> DraftOutcome:
    became = decision.rewrite.answer if decision.rewrite else draft.answer
    refused = decision.evidence.get("refused")
    return DraftOutcome(
        draft.key,
        draft.reason,
        draft.source_key,
        draft.answer,
        draft.corrected,
        None if decision.action == "drop" else became,
        decision.action,
        decision.reason,
        str(refused["reason"]) if refused else "",
        next((each.value for each in decision.scores if (each.metric, each.scorer) == P_KEEP), None),
        str(decision.evidence.get("call", "")),
    )


def figures(found: Tally) -> dict[str, float | int | list[float] | None]:
    """A tally as plain data: shares in [0, 1] with their intervals as [low, high], and counts."""
    flat: dict[str, float | int | list[float] | None] = {"num": found.num}
    for name, share in _shares(found):
        flat |= {name: share.value, f"{name}_of": share.total}
        flat[f"{name}_interval"] = list(share.interval) if share.total else None
    interval = list(found.f1_interval) if found.f1 is not None else None
    return {**flat, "f1": found.f1, "f1_interval": interval, "num_refused": found.refused.num}


def _shares(found: Tally) -> Iterator[tuple[str, Share]]:
    for name in ("precision", "recall", "fixed", "removed", "damaged"):
        yield name, getattr(found, name)


def _plain(text: str | None) -> str | None:
    return None if text is None else " ".join(text.split())
