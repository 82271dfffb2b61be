"""Whether a new refiner takes the old one's place: both on the same held-out drafts, paired draft by draft.

A draft is right where the text that stands in the end is the expert's, or where one that had to go went. The
new one must be right on more, beyond chance, and must not harm clean answers more. Pure functions; who asks
the refiners, and what follows, is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from factory.errors import FactoryError
from factory.significance import mcnemar

MAX_P = 0.05
MAX_MORE_DAMAGE = 0.02  # of the clean drafts, that the new one may change or drop more than the old one does


class Outcome(Protocol):
    """What a refiner made of one draft: `factory.refiner_evaluation.DraftOutcome` is one."""

    @property
    def key(self) -> str: ...
    @property
    def is_faulty(self) -> bool: ...
    @property
    def is_flagged(self) -> bool: ...
    @property
    def is_right(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Promotion:
    """The comparison and its verdict. `reason`: better, no_better, not_significant or more_damage.

    `num_better` drafts became right and `num_worse` wrong; `damage` is the share of clean drafts that each
    changed or dropped, 0 where there are none.
    """

    promote: bool
    reason: str
    num_drafts: int
    old_right: int
    new_right: int
    num_better: int
    num_worse: int
    p_value: float
    old_damage: float
    new_damage: float


def compare_refiners(
    old: Iterable[Outcome],
    new: Iterable[Outcome],
    *,
    max_p: float = MAX_P,
    max_more_damage: float = MAX_MORE_DAMAGE,
) -> Promotion:
    """The paired comparison, by the exact two-sided McNemar test (`factory.significance`).

    Drafts count as independent, although those of one section are not quite: a lenient test for a set whose
    cost of error is a refiner that is as good as the old one. Raises FactoryError where the drafts differ.
    """
    before, after = _by_key(old), _by_key(new)
    if before.keys() != after.keys() or not before:
        raise FactoryError(f"the refiners were not asked the same drafts: {len(before)} and {len(after)}")
    num_better = sum(after[key].is_right and not before[key].is_right for key in before)
    num_worse = sum(before[key].is_right and not after[key].is_right for key in before)
    p_value = mcnemar(num_better, num_worse)
    old_damage, new_damage = _damage(before), _damage(after)
    if num_better <= num_worse:
        reason = "no_better"
    elif p_value >= max_p:
        reason = "not_significant"
    elif new_damage > old_damage + max_more_damage:
        reason = "more_damage"
    else:
        reason = "better"
    return Promotion(
        reason == "better",
        reason,
        len(before),
        sum(each.is_right for each in before.values()),
        sum(each.is_right for each in after.values()),
        num_better,
        num_worse,
        p_value,
        old_damage,
        new_damage,
    )


def is_better(old: Iterable[Outcome], new: Iterable[Outcome]) -> bool:
    """Whether the new refiner is to be promoted, by the limits of this module."""
    return compare_refiners(old, new).promote


def _by_key(outcomes: Iterable[Outcome]) -> Mapping[str, Outcome]:
    found: dict[str, Outcome] = {}
    for outcome in outcomes:
        if outcome.key in found:
            raise FactoryError(f"two drafts have the key '{outcome.key}'")
        found[outcome.key] = outcome
    return found


def _damage(outcomes: Mapping[str, Outcome]) -> float:
    clean = [each for each in outcomes.values() if not each.is_faulty]
    return sum(each.is_flagged for each in clean) / len(clean) if clean else 0.0
