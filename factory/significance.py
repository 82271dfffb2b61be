"""Whether a share, or a difference between two models, is more than chance: an interval and a paired test.

Plain arithmetic over counts, in Python alone, so that whoever reports pays for no numerical library.
What follows from it, a promotion or a line in a report, is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

Z_95 = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(mean: float, num_items: int) -> tuple[float, float]:
    """The 95 % interval of a share `mean` of `num_items`, within [0, 1]; (0, 1) of no items.

    Wilson's score interval (Wilson 1927, JASA 22), recommended for small samples by Brown, Cai and
    DasGupta 2001, Statistical Science 16. Takes items as independent. For scores between 0 and 1 that
    are not binary it is wider than need be, never narrower.
    """
    if num_items == 0:
        return 0.0, 1.0
    scale = 1 + Z_95**2 / num_items
    centre = (mean + Z_95**2 / (2 * num_items)) / scale
    half = Z_95 / scale * sqrt(mean * (1 - mean) / num_items + Z_95**2 / (4 * num_items**2))
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def mcnemar(num_better: int, num_worse: int) -> float:
    """Two-sided p-value of the exact McNemar test: items that changed are as likely to get better as worse.

    McNemar 1947, Psychometrika 12, in its binomial form. 1.0 where nothing changed.
    """
    num_pairs = num_better + num_worse
    ways = tail = 1  # to choose none of the pairs, and to choose at most so many
    for count in range(min(num_better, num_worse)):
        ways = ways * (num_pairs - count) // (count + 1)
        tail += ways
    return min(1.0, 2 * tail / (1 << num_pairs))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values in their order, adjusted for there being so many of them.

    Holm 1979, Scandinavian Journal of Statistics 6:65-70: the chance that any true null hypothesis is
    rejected stays below the level, whatever their dependence.
    """
    adjusted = [1.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def non_inferiority(won: float, lost: float, num_items: float, margin: float) -> float:
    """One-sided p-value against a fall by `margin` or more, of paired scores that `won` and `lost` so much.

    The score test of Tango 1998, Statistics in Medicine 17:891-908, with half an item taken off for
    continuity, as few items would else prove too much. Takes items as independent; a number of items that
    counts each cluster once is to be passed with `won` and `lost` scaled likewise. Of scores between 0
    and 1 that are not binary it is cautious. 1.0 where nothing can be said.
    """
    slope = won + lost + margin * (2 * num_items + lost - won)
    root = max(0.0, slope**2 - 8 * num_items * lost * margin * (1 + margin))
    if num_items <= 0:
        return 1.0
    worse = (slope + sqrt(root)) / (4 * num_items)  # the likeliest share that got worse, were it the margin
    variance = num_items * (2 * worse - margin - margin**2)
    if variance <= 0:
        return 1.0
    return NormalDist().cdf(-(won - lost + num_items * margin - 0.5) / sqrt(variance))
