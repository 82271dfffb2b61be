"""The statistics of promotion: a bootstrap over clusters, and the rule made of it.

Two evaluations of the same items are compared item by item. Items that ask about one source are a
cluster: they are resampled together, since a model that knows the source gets them all. Pure
functions; nothing here asks a model or knows the recipe.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from factory.errors import FactoryError
from factory.significance import mcnemar
from factory.types import Comparison, Evaluation

NUM_RESAMPLES = 10_000
CHUNK = 4_000_000  # counts drawn at once in the bootstrap, to bound memory
MIN_ITEMS_LOST = 2


def bootstrap_low(differences: Sequence[float], clusters: Sequence[str], seed: int) -> float:
    """One-sided 95 % lower bound of the mean difference, by resampling whole clusters.

    The percentile bootstrap over clusters (Davison and Hinkley 1997, sections 3.8 and 5.3), each
    resample's mean taken over its own number of items. The same seed gives the same bound.
    """
    sums: dict[str, float] = defaultdict(float)
    sizes: dict[str, int] = defaultdict(int)
    for difference, cluster in zip(differences, clusters, strict=True):
        sums[cluster] += difference
        sizes[cluster] += 1
    names = sorted(sums)
    totals = np.array([sums[name] for name in names])
    counts = np.array([sizes[name] for name in names])
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // len(names))
    means = []
    for start in range(0, NUM_RESAMPLES, step):
        num = min(step, NUM_RESAMPLES - start)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num)
        means.append((drawn @ totals) / (drawn @ counts))
    return float(np.quantile(np.concatenate(means), 0.05, method="lower"))


def slice_changes(differences: Sequence[float], slices: Sequence[str]) -> Mapping[str, tuple[float, float]]:
    """By slice, sorted by name: the mean difference and the sum of differences."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for difference, name in zip(differences, slices, strict=True):
        grouped[name].append(difference)
    return {name: (sum(values) / len(values), sum(values)) for name, values in sorted(grouped.items())}


def compare(
    old: Evaluation, new: Evaluation, *, max_slice_drop: float, min_items: int, seed: int
) -> Comparison:
    """The paired comparison of two models' scores (each in [0, 1]) on the same items, with its verdict.

    Promoted, with reason `gain`, if the gain's lower bound is above 0 and no slice falls by more than
    `max_slice_drop`. Else the first reason that applies: `too_few_items`, `no_gain`, `slice_fell`. A
    slice that lost less than two items net has not fallen: in a slice of eight one item is 12 %.
    Raises FactoryError where the items differ.
    """
    before = {item.key: item.score for item in old.items}
    if len(old.items) != len(new.items) or any(item.key not in before for item in new.items):
        raise FactoryError(f"two evaluations on {new.split} have different items", hint="evaluate both again")
    if not new.items:
        return Comparison(0.0, 0.0, 1.0, 0, 0, "", 0.0, False, "too_few_items")
    differences = [item.score - before[item.key] for item in new.items]
    num_better = sum(difference > 0 for difference in differences)
    num_worse = sum(difference < 0 for difference in differences)
    gain_low = bootstrap_low(differences, [item.cluster for item in new.items], seed)
    changes = slice_changes(differences, [item.slice for item in new.items])
    worst = min(changes, key=lambda name: changes[name][0])
    fell = any(mean < -max_slice_drop and lost <= -MIN_ITEMS_LOST for mean, lost in changes.values())
    reason = decide(len(differences) >= min_items, gain_low > 0, fell)
    return Comparison(
        gain=sum(differences) / len(differences),
        gain_low=gain_low,
        p_value=mcnemar(num_better, num_worse),
        num_better=num_better,
        num_worse=num_worse,
        worst_slice=worst,
        worst_slice_gain=changes[worst][0],
        promote=reason == "gain",
        reason=reason,
    )


def decide(enough_items: bool, gained: bool, slice_fell: bool) -> str:
    """The reason of the verdict; only `gain` promotes."""
    if not enough_items:
        return "too_few_items"
    if not gained:
        return "no_gain"
    return "slice_fell" if slice_fell else "gain"
