"""Splits a round's samples over slices: where the student is weak, often asked, and learning.

Weight of a slice = error rate × frequency × recent gain per 1,000 tokens, all from the dev split.
A floor is spread evenly first, so that no slice is starved by a noisy estimate. Without an
evaluation every slice gets the same. Error-targeted generation: LLM2LLM, arXiv 2403.15042.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST_GAIN = 0.05  # a slice that gained nothing keeps this much of its claim: the estimate is noisy


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
