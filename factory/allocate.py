"""Splits a round's samples over slices: where the student is weak, often asked, and learning.

A slice's samples are then shared among the strategies that can serve it.

Weight of a slice = error rate × frequency × recent gain per 1,000 tokens, all from the dev split.
A floor is spread evenly first, so that no slice is starved by a noisy estimate. Without an
evaluation every slice gets the same. Error-targeted generation: LLM2LLM, arXiv 2403.15042.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

LEAST_GAIN = 0.05  # a slice that gained nothing keeps this much of its claim: the estimate is noisy


TINY = 1e-9  # what adding floats up may be off by

_Move = tuple[str, str, str]  # slice, and the strategies that give and take one sample in it


@dataclass(frozen=True, slots=True)
class SliceState:
    """What the dev split says about a slice: `accuracy` and `previous` in [0, 1], tokens spent between."""

    accuracy: float
    previous: float
    frequency: float
    tokens: int

    @property
    def weight(self) -> float:
        gain = max(self.accuracy - self.previous, LEAST_GAIN)
        per_thousand = gain / max(self.tokens / 1000, 1.0)
        return (1.0 - self.accuracy) * self.frequency * per_thousand


def allocate(
    num_samples: int, slices: Sequence[str], states: Mapping[str, SliceState], floor: float
) -> dict[str, int]:
    """Samples for each slice, summing to `num_samples`; `floor` is the share spread evenly."""
    if not slices:
        return {}
    weights = {name: states[name].weight if name in states else 0.0 for name in slices}
    total = sum(weights.values())
    even = 1.0 / len(slices)
    shares = {
        name: floor * even + (1.0 - floor) * (weights[name] / total if total > 0 else even) for name in slices
    }
    return round_to_sum(shares, num_samples)


def round_to_sum(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers in proportion to `shares` that sum to `total` (largest remainders)."""
    scale = total / (sum(shares.values()) or 1.0)
    exact = {name: share * scale for name, share in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def divide(
    allocation: Mapping[str, int], weights: Mapping[str, float], served: Mapping[str, Collection[str]]
) -> dict[str, dict[str, int]]:
    """For each strategy its samples by slice: a slice's are shared by weight among those that serve it.

    Every slice that any strategy serves gets exactly its allocation; each cell, and each strategy's total,
    is less than one away from its exact share (controlled rounding: Cox, JASA 1987).
    """
    exact: dict[str, dict[str, float]] = {}
    for slice, num in allocation.items():
        able = {name: weight for name, weight in weights.items() if slice in served[name]}
        if able:
            exact[slice] = {name: num * weight / sum(able.values()) for name, weight in able.items()}
    table = {slice: round_to_sum(shares, allocation[slice]) for slice, shares in exact.items()}
    while moves := _find_moves(table, exact, weights):
        for slice, giver, taker in moves:
            table[slice][giver] -= 1
            table[slice][taker] += 1
    return {
        name: {slice: counts[name] for slice, counts in table.items() if name in counts} for name in weights
    }


def _find_moves(
    table: Mapping[str, Mapping[str, int]], exact: Mapping[str, Mapping[str, float]], names: Iterable[str]
) -> list[_Move]:
    """Single samples to pass on, from a strategy with too many to one with too few, rows kept; else none.

    A cell gives only what rounding added to it, and takes only what rounding took from it.
    """
    edges: dict[str, dict[str, str]] = {name: {} for name in names}
    excess = dict.fromkeys(edges, 0.0)
    for slice, counts in table.items():
        over = {name: count - exact[slice][name] for name, count in counts.items()}
        takers = [name for name, value in over.items() if value < -TINY]
        for giver, value in over.items():
            excess[giver] += value
            if value > TINY:
                edges[giver].update(dict.fromkeys(takers, slice))
    for start in sorted(excess, key=lambda name: -excess[name]):
        paths: dict[str, list[_Move]] = {start: []}
        queue = [start]
        for giver in queue:  # grows while it is read: breadth first
            for taker, slice in edges[giver].items():
                if taker not in paths:
                    paths[taker] = [*paths[giver], (slice, giver, taker)]
                    queue.append(taker)
        end = min(paths, key=lambda name: excess[name])
        if excess[start] - excess[end] > 1 + TINY:
            return paths[end]
    return []
