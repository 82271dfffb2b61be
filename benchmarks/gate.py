"""The gate by simulation: how often it promotes a student that is no better, and one that is.

Clusters are drawn whose changed items all change the same way, the hardest case: a student has learnt a
source or forgotten it. Shares of repetitions, in per cent, by the product's own tests and sample sizes; a
share of 5 % of 2,000 has a standard error of 0.5. "bootstrap" is the percentile bootstrap over clusters on
the same draws, and "by estimate" the rule that a slice fell where it lost more than the margin and two
items or more, for comparison. Slices are four, of a quarter of the clusters each.

python -m benchmarks.gate [--repetitions N]
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factory.power import items_needed, power
from factory.significance import holm, non_inferiority
from training.flips import ALPHA, gain_p
from training.gate import largest_effect

SIZES, NUMBERS, CHANGED = (1, 3, 10), (10, 40, 200), (0.05, 0.2, 0.5)
NUM_SLICES = 4
MARGIN = 0.1
HARM = 0.25  # what a harmful slice truly falls by
NUM_RESAMPLES = 1_000
Sums = NDArray[np.int64]  # repetitions × clusters


class Cell(NamedTuple):
    """One way to draw: clusters of `size` items, of which a share `changed` differs."""

    size: int
    number: int
    changed: float

    @property
    def effect(self) -> float:
        """The design effect of clusters whose changed items change the same way."""
        return 1 - self.changed + self.size * self.changed


class Found(NamedTuple):
    """Shares of repetitions, in per cent, of one cell."""

    size: int
    number: int
    changed: float
    null: float
    bootstrap: float
    seen: float
    computed: float
    harmless_refused: float
    harmless_by_estimate: float
    harm_passes: float
    harm_by_estimate: float
    margin_proven: float
    harm_proven: float
    harmless_proven: float


def draw(rng: np.random.Generator, repetitions: int, cell: Cell, gain: float) -> Sums:
    """Sums of differences by cluster; `gain` is the mean over items."""
    num = rng.binomial(cell.size, cell.changed, size=(repetitions, cell.number))
    up = rng.random(num.shape) < (1 + gain / cell.changed) / 2
    return np.where(up, num, -num)


class PValues:
    """The p-values of many draws; those of the same sums are computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, ...], float] = {}

    def gain(self, sums: Sums) -> list[float]:
        found = []
        for row in np.sort(sums, axis=1).tolist():
            key = tuple(value for value in row if value)
            if key not in self._known:
                self._known[key] = gain_p(key, seed=0)
            found.append(self._known[key])
        return found


def per_cent(hits: object) -> float:
    return round(100 * float(np.mean(np.asarray(hits, dtype=float))), 1)


def bootstrap(rng: np.random.Generator, sums: Sums) -> float:
    """How often the percentile bootstrap's lower bound is above 0."""
    number = sums.shape[1]
    drawn = rng.multinomial(number, np.full(number, 1 / number), size=NUM_RESAMPLES).astype(np.float32)
    lows = [
        np.quantile(drawn @ part.T.astype(np.float32), ALPHA, axis=0, method="lower")
        for part in np.array_split(sums, max(1, len(sums) // 500))
    ]
    return per_cent(np.concatenate(lows) > 0)


def fallen(slices: list[Sums], size: int, tests: PValues) -> NDArray[np.bool_]:
    """Repetitions × slices: which the gate holds for fallen."""
    p_values = np.array([tests.gain(-sums) for sums in slices]).T
    adjusted = np.array([holm(row) for row in p_values.tolist()])
    gains = np.array([sums.mean(axis=1) / size for sums in slices]).T
    return (adjusted <= ALPHA) & (gains < -MARGIN)


def by_estimate(slices: list[Sums], size: int) -> NDArray[np.bool_]:
    """Repetitions × slices: which lost more than the margin, and two items at least."""
    lost = -np.array([sums.sum(axis=1) for sums in slices]).T
    return (lost >= 2) & (lost > MARGIN * size * slices[0].shape[1])


def proven(sums: Sums, size: int) -> list[bool]:
    """Which repetitions prove that a slice has not fallen by the margin."""
    effect = largest_effect([size] * sums.shape[1])
    won = np.where(sums > 0, sums, 0).sum(axis=1) / effect
    lost = np.where(sums < 0, -sums, 0).sum(axis=1) / effect
    num = sums.shape[1] * size / effect
    return [non_inferiority(*pair, num, MARGIN) <= ALPHA for pair in zip(won, lost, strict=True)]


def simulate(cell: Cell, repetitions: int, tests: PValues) -> Found:
    """All shares of one cell."""
    rng = np.random.default_rng([cell.size, cell.number, int(100 * cell.changed)])
    null = draw(rng, repetitions, cell, 0.0)
    gain = cell.changed / 2
    better = draw(rng, repetitions, cell, gain)
    computed = power(cell.size * cell.number, gain, cell.changed, design_effect=cell.effect)
    part = cell._replace(number=cell.number // NUM_SLICES)
    harmless = [draw(rng, repetitions, part, 0.0) for _ in range(NUM_SLICES)]
    harmful = draw(rng, repetitions, part._replace(changed=max(cell.changed, HARM)), -HARM)
    edge = draw(rng, repetitions, part._replace(changed=max(cell.changed, MARGIN)), -MARGIN)
    return Found(
        *cell,
        null=per_cent(np.array(tests.gain(null)) <= ALPHA),
        bootstrap=bootstrap(rng, null),
        seen=per_cent(np.array(tests.gain(better)) <= ALPHA),
        computed=round(100 * computed, 1),
        harmless_refused=per_cent(fallen(harmless, cell.size, tests).any(axis=1)),
        harmless_by_estimate=per_cent(by_estimate(harmless, cell.size).any(axis=1)),
        harm_passes=per_cent(~fallen([harmful, *harmless[1:]], cell.size, tests)[:, 0]),
        harm_by_estimate=per_cent(~by_estimate([harmful], cell.size)[:, 0]),
        margin_proven=per_cent(proven(edge, cell.size)),
        harm_proven=per_cent(proven(harmful, cell.size)),
        harmless_proven=per_cent(proven(harmless[0], cell.size)),
    )


def check_needed(repetitions: int, tests: PValues) -> list[tuple[str, ...]]:
    """Gains, with the items that `items_needed` asks for and how often those show them."""
    rows = []
    for size, (gain, changed) in product(
        SIZES, ((0.05, 0.1), (0.05, 0.3), (0.1, 0.2), (0.1, 0.5), (0.2, 0.4))
    ):
        cell = Cell(size, 0, changed)
        needed = items_needed(gain, changed, design_effect=cell.effect)
        cell = cell._replace(number=-(-needed // size))
        rng = np.random.default_rng([size, needed])
        seen = per_cent(np.array(tests.gain(draw(rng, repetitions, cell, gain))) <= ALPHA)
        rows.append((str(size), f"{100 * gain:g}", f"{100 * changed:g}", f"{needed:,}", f"{seen:.1f}"))
    return rows


def lopsided(number: int, repetitions: int, tests: PValues) -> float:
    """A student that gains nothing on the whole: clusters gain 1, and one in ten, by lot, loses 9.

    No test of the sums alone can hold its level here with few clusters: the loss may not be among them.
    """
    rng = np.random.default_rng(number)
    sums = np.where(rng.random((repetitions, number)) < 0.1, -9, 1)
    return per_cent(np.array(tests.gain(sums)) <= ALPHA)


def show(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table on standard output, its columns as wide as they need."""
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=2_000)
    repetitions = parser.parse_args().repetitions
    tests, began = PValues(), time.perf_counter()
    found = [simulate(Cell(*each), repetitions, tests) for each in product(SIZES, NUMBERS, CHANGED)]
    key = ("items a cluster", "clusters", "changed")
    columns = (*key, "no gain: promoted", "by bootstrap", "gain: promoted", "computed")
    show(columns, [tuple(f"{value:g}" for value in each[: len(columns)]) for each in found])
    print()
    rest = ("harmless: refused", "by estimate", f"-{100 * HARM:.0f}: passes", "by estimate")
    rest += tuple(f"{name}: proven" for name in (f"-{100 * MARGIN:.0f}", f"-{100 * HARM:.0f}", "harmless"))
    show(
        (*key, *rest), [tuple(f"{value:g}" for value in (*each[:3], *each[len(columns) :])) for each in found]
    )
    print()
    needed = check_needed(repetitions, tests)
    show(("items a cluster", "gain", "changed", "items needed for 80 %", "promoted"), needed)
    print()
    uneven = [(str(number), f"{lopsided(number, repetitions, tests):.1f}") for number in NUMBERS]
    show(("clusters, of which one in ten loses what nine gain", "no gain: promoted"), uneven)
    worst = max(found, key=lambda each: each.null)
    print(
        json.dumps(
            {
                "repetitions": repetitions,
                "most_promoted_without_gain": worst.null,
                "most_by_bootstrap": max(each.bootstrap for each in found),
                "most_harmless_refused": max(each.harmless_refused for each in found),
                "most_margin_proven": max(each.margin_proven for each in found),
                "largest_error_of_power": round(max(abs(each.seen - each.computed) for each in found), 1),
                "power_at_items_needed": [
                    min(float(row[-1]) for row in needed),
                    max(float(row[-1]) for row in needed),
                ],
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
