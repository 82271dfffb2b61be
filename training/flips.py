"""Whether a paired gain is more than chance, from the sums of clusters: a test by flipping their signs.

Where two models are equally good, each cluster's gain might as well have been a loss. So the sum of gains is
compared with all sums that other signs give. The test is exact for any number of clusters, however unequal
they are; with lone items that are right or wrong it is the exact McNemar test. Nothing here knows items.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
NUM_FLIPS = 10_000
CHUNK = 4_000_000  # signs drawn at once, to bound memory
NEAR = 1e-9  # sums of scores that differ by less are the same
MAX_EXACT = 20_000  # the sum of whole numbers, beyond which signs are drawn
NO_BOUND = -1.0  # the least that a mean of differences of scores in [0, 1] can be

Vector = NDArray[np.float64]


def gain_p(sums: Sequence[float], seed: int) -> float:
    """The one-sided p-value of the clusters' sums of differences: small where they are above 0.

    The sign test of Fisher 1935, The Design of Experiments, section 21 (Lehmann and Romano 2005, Testing
    Statistical Hypotheses, section 15.2). Exact for whole numbers, as scores of 0 and 1 give them; else
    from NUM_FLIPS drawn signs, the observed ones among them, so that the level holds all the same (Phipson
    and Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9:39).
    """
    values = np.array([value for value in sums if abs(value) > NEAR], dtype=float)
    whole = np.rint(values)
    if not np.allclose(values, whole, rtol=0, atol=NEAR) or np.abs(whole).sum() > MAX_EXACT:
        means = _subset_means(values, np.ones(len(values)), seed)
        return float((1 + np.sum(means <= NEAR)) / (1 + len(means)))
    return _exact_p([int(value) for value in whole])


def _exact_p(sums: Sequence[int]) -> float:
    """The share of signs that give at least the observed sum, one cluster convolved after another."""
    total, reach = sum(sums), sum(abs(value) for value in sums)
    shares = np.zeros(2 * reach + 1)
    shares[reach] = 1.0
    for size in map(abs, sums):
        if size:
            moved = np.zeros_like(shares)
            moved[size:] += shares[:-size] / 2
            moved[:-size] += shares[size:] / 2
            shares = moved
    return min(1.0, float(shares[reach + total :].sum()))


def gain_low(sums: Sequence[float], sizes: Sequence[int], p_value: float, seed: int) -> float:
    """The one-sided 95 % lower bound of the mean over items: the least gain that the flips do not refute.

    Signs that refute a gain of `d` are those whose flipped clusters have a mean of `d` or less, so the
    bound is a quantile of the means of random subsets of clusters (Hartigan 1969, Journal of the American
    Statistical Association 64:1303-1317). The share of means at or below 0 is set to `p_value`, which
    is known better; so the bound is above 0 exactly where `p_value` is at most ALPHA.
    """
    means = _subset_means(np.array(sums, dtype=float), np.array(sizes, dtype=float), seed)
    if p_value <= ALPHA:
        share = (ALPHA - p_value) / max(1 - p_value, NEAR)
        return float(np.quantile(means[means > NEAR], share, method="lower"))
    return float(np.quantile(means[means <= NEAR], ALPHA / p_value, method="lower"))


def _subset_means(sums: Vector, sizes: Vector, seed: int) -> Vector:
    """The means over the items of NUM_FLIPS random subsets of clusters; an empty one bounds nothing."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // max(1, len(sums)))
    means = []
    for start in range(0, NUM_FLIPS, step):
        num = min(step, NUM_FLIPS - start)
        drawn = rng.integers(0, 2, size=(num, len(sums)), dtype=np.uint8).astype(float)
        counts = drawn @ sizes
        means.append(np.where(counts > 0, drawn @ sums / np.maximum(counts, 1), NO_BOUND))
    return np.concatenate(means)
