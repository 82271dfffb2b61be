"""How many items a gain needs to be seen, and how likely so many items show it.

Paired answers differ on some items only: what counts is the share of items that changed and the gain, the
share that got better less the share that got worse. Plain arithmetic; whether a gain was seen is decided
elsewhere (`training.flips`).
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cache
from math import ceil, exp, inf, lgamma, log, sqrt
from statistics import NormalDist

ALPHA = 0.05  # one-sided: the chance of promoting a student that is no better
POWER = 0.8  # chance of seeing the gain in question, where nothing else is asked for
MAX_EXACT = 200  # changed items to expect, beyond which the normal distribution serves
NORMAL = NormalDist()


def items_needed(gain: float, changed: float, *, target: float = POWER, design_effect: float = 1.0) -> int:
    """How many items show a `gain` with the `target` for power, where a share `changed` of them differs.

    By Connor 1987, Biometrics 43:207-211, with McNemar's correction for continuity, since the test is exact
    (Miettinen 1968, Biometrics 24:339-352, has the same without it); for lone items, up to MAX_EXACT changed
    ones, by `power` itself. `design_effect` is how much more items of one cluster vary together than apart,
    1 at least: so many more are needed, and the steps that the correction is for are as much finer. `gain`
    is above 0; `changed` at least that.
    """
    changed = max(changed, gain)
    spread = NORMAL.inv_cdf(1 - ALPHA) * sqrt(changed) + NORMAL.inv_cdf(target) * sqrt(changed - gain**2)
    root = (spread + sqrt(spread**2 + 4 * gain / design_effect)) / (2 * gain)
    # the root of the number of lone items: root² · gain - 1 / design_effect = spread · root
    most = ceil(root**2 * design_effect)
    if design_effect > 1 or most * changed > MAX_EXACT:
        return most
    return 1 + bisect_left(range(1, most), target, key=lambda num: power(num, gain, changed))


def power(num_items: int, gain: float, changed: float, *, design_effect: float = 1.0) -> float:
    """The chance that so many items show a `gain` at the level ALPHA, where a share `changed` differs.

    For lone items the unconditional power of the exact McNemar test: over how many items change, a
    binomial number, the chance that so many of them got better that the test rejects. With clusters, and
    beyond MAX_EXACT changed items, Connor's formula as in `items_needed`.
    """
    changed = max(changed, gain)
    num = num_items / design_effect
    if design_effect > 1 or num * changed > MAX_EXACT:
        distance = num * gain - 1 / design_effect - NORMAL.inv_cdf(1 - ALPHA) * sqrt(num * changed)
        variance = num * (changed - gain**2)
        return NORMAL.cdf(distance / sqrt(variance)) if variance > 0 else float(distance > 0)
    half = 8 * sqrt(num_items * changed * (1 - changed)) + 8
    first, last = max(0, int(num_items * changed - half)), min(num_items, int(num_items * changed + half))
    better = min(1.0, (1 + gain / changed) / 2)
    return min(1.0, sum(_at(m, num_items, changed) * _rejects(m, better) for m in range(first, last + 1)))


def _rejects(num_changed: int, better: float) -> float:
    """The chance that the one-sided exact test rejects, where so many items changed."""
    return sum(_at(count, num_changed, better) for count in range(critical(num_changed), num_changed + 1))


@cache
def critical(num_changed: int) -> int:
    """How many of the changed items must have got better for the one-sided exact test to reject."""
    ways, tail, count = 1, 1, num_changed + 1  # to choose `count - 1` of them, and to choose at least so many
    while count and tail <= ALPHA * 2**num_changed:
        count -= 1
        ways = ways * count // (num_changed - count + 1)
        tail += ways
    return count


def _at(count: int, num: int, share: float) -> float:
    """The binomial probability of `count` out of `num`."""
    ways = lgamma(num + 1) - lgamma(count + 1) - lgamma(num - count + 1)
    return exp(ways + _times_log(count, share) + _times_log(num - count, 1 - share))


def _times_log(count: int, share: float) -> float:
    if count == 0:
        return 0.0
    return count * log(share) if share > 0 else -inf
