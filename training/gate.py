"""The rule of promotion, on two evaluations of the same items, compared item by item.

Items that ask about one source are a cluster and count together, since a model that knows the source gets
them all. A student is promoted if its gain is more than chance (`training.flips`) and no slice is shown to
have fallen. Pure functions; nothing here asks a model or knows the recipe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, log2

from factory.comparison import Comparison, SliceChange
from factory.errors import FactoryError
from factory.power import items_needed, power
from factory.significance import holm, mcnemar, non_inferiority
from factory.types import Evaluation
from training.flips import ALPHA, gain_low, gain_p

MIN_CLUSTERS = ceil(-log2(ALPHA))  # with fewer, not even gains alone are beyond chance


@dataclass(frozen=True, slots=True)
class Rule:
    """When a student is promoted; shares lie in [0, 1]. `slice_drops` are the margins of single slices."""

    max_slice_drop: float
    min_items: int
    seed: int
    slice_drops: Mapping[str, float] = field(default_factory=dict)
    prove_slices: bool = False
    gain_sought: float = 0.05


@dataclass(frozen=True, slots=True)
class Differences:
    """New score less old score of some items, with the cluster of each."""

    values: Sequence[float]
    clusters: Sequence[str]

    def by_cluster(self) -> tuple[list[float], list[int]]:
        """Sum and number of items of each cluster, in the order of the clusters' names."""
        sums: dict[str, float] = defaultdict(float)
        sizes: dict[str, int] = defaultdict(int)
        for value, cluster in zip(self.values, self.clusters, strict=True):
            sums[cluster] += value
            sizes[cluster] += 1
        return [sums[name] for name in sorted(sums)], [sizes[name] for name in sorted(sums)]

    def changed(self) -> float:
        """The share of items that changed, for planning: with one more changed and one not."""
        return (sum(value**2 for value in self.values) + 1) / (len(self.values) + 2)

    def design_effect(self) -> float:
        """How much more the items of a cluster vary together than apart, 1 to that of one answer a cluster.

        Kish 1965, Survey Sampling, as the ratio of what the sign flips vary by.
        """
        sums, sizes = self.by_cluster()
        apart = sum(value**2 for value in self.values)
        together = sum(value**2 for value in sums)
        return min(max(1.0, together / apart), largest_effect(sizes)) if apart else 1.0


def largest_effect(sizes: Sequence[int]) -> float:
    """The design effect where all items of a cluster change as one."""
    return sum(size**2 for size in sizes) / sum(sizes)


def compare(old: Evaluation, new: Evaluation, rule: Rule) -> Comparison:
    """The paired comparison of two models' scores (each in [0, 1]) on the same items, with its verdict.

    Promoted, with reason `gain`, if the gain is above chance and no slice fell. Else the first reason that
    applies: `too_few_items`, `no_gain`, `slice_fell`, `slice_unproven`. Raises FactoryError where the items
    differ.
    """
    before = {item.key: item.score for item in old.items}
    if len(old.items) != len(new.items) or any(item.key not in before for item in new.items):
        raise FactoryError(f"two evaluations on {new.split} have different items", hint="evaluate both again")
    all_items = Differences(
        [item.score - before[item.key] for item in new.items], [item.cluster for item in new.items]
    )
    grouped: dict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(new.items):
        grouped[item.slice].append(index)
    slices = compare_slices(
        {
            name: Differences([all_items.values[n] for n in where], [all_items.clusters[n] for n in where])
            for name, where in sorted(grouped.items())
        },
        rule,
    )
    found = measure(all_items, slices, rule)
    reason = decide(found, rule)
    return replace(found, promote=reason == "gain", reason=reason)


def measure(items: Differences, slices: Sequence[SliceChange], rule: Rule) -> Comparison:
    """All that the verdict rests on, without the verdict."""
    sums, sizes = items.by_cluster()
    gain = sum(items.values) / len(items.values) if items.values else 0.0
    num_better = sum(value > 0 for value in items.values)
    num_worse = sum(value < 0 for value in items.values)
    p_gain = gain_p(sums, rule.seed)
    lone = len(sums) == len(items.values) and all(value in (-1, 0, 1) for value in items.values)
    sought = max(gain, rule.gain_sought)
    effect, changed = items.design_effect(), items.changed()
    worst = min(slices, key=lambda each: each.gain, default=None)
    return Comparison(
        gain=gain,
        gain_low=gain_low(sums, sizes, p_gain, rule.seed) if sums else 0.0,
        p_value=mcnemar(num_better, num_worse),
        num_better=num_better,
        num_worse=num_worse,
        worst_slice=worst.name if worst else "",
        worst_slice_gain=worst.gain if worst else 0.0,
        promote=False,
        reason="",
        num_items=len(items.values),
        num_clusters=len(sums),
        min_items=rule.min_items,
        min_clusters=MIN_CLUSTERS,
        test="exact_mcnemar" if lone else "sign_flips",
        p_gain=p_gain,
        gain_sought=sought,
        power=power(len(items.values), sought, changed, design_effect=effect),
        items_needed=items_needed(sought, changed, design_effect=effect),
        slices=tuple(slices),
    )


def compare_slices(slices: Mapping[str, Differences], rule: Rule) -> list[SliceChange]:
    """Each slice against its margin, in their order.

    A slice fell if it did so beyond chance, by Holm over all slices, and by more than its margin. That it
    did not fall by the margin is another claim, which needs no adjustment where it is asked of all (Berger
    1982, Technometrics 24:295-300); its clusters count as one answer each, at worst.
    """
    adjusted = holm(
        [gain_p([-value for value in each.by_cluster()[0]], rule.seed) for each in slices.values()]
    )
    found = []
    for (name, each), p_fell in zip(slices.items(), adjusted, strict=True):
        margin = rule.slice_drops.get(name, rule.max_slice_drop)
        gain = sum(each.values) / len(each.values)
        effect = largest_effect(each.by_cluster()[1])
        won = sum(value for value in each.values if value > 0) / effect
        lost = -sum(value for value in each.values if value < 0) / effect
        p_safe = non_inferiority(won, lost, len(each.values) / effect, margin)
        found.append(
            SliceChange(
                name=name,
                num_items=len(each.values),
                gain=gain,
                margin=margin,
                p_fell=p_fell,
                p_safe=p_safe,
                fell=p_fell <= ALPHA and gain < -margin,
                safe=p_safe <= ALPHA,
                items_needed=items_needed(max(margin, 0.01), each.changed(), design_effect=effect),
            )
        )
    return found


def decide(found: Comparison, rule: Rule) -> str:
    """The reason of the verdict; only `gain` promotes."""
    if (found.num_items or 0) < rule.min_items or (found.num_clusters or 0) < MIN_CLUSTERS:
        return "too_few_items"
    if found.p_gain is None or found.p_gain > ALPHA:
        return "no_gain"
    if any(each.fell for each in found.slices):
        return "slice_fell"
    return "slice_unproven" if rule.prove_slices and not all(each.safe for each in found.slices) else "gain"
