"""Whether probabilities can be taken at their word, and the map that makes them so.

Among things that were given 80 %, eight of ten should turn out true. How far a scorer is from that is its
reliability curve and expected calibration error; a map of two numbers, fitted on known outcomes, corrects it.
The map never changes which of two is the likelier. What is scored is not known here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from factory.errors import RecipeError
from factory.types import Json, digest

FILE: Final = "calibration.json"
NUM_BINS: Final = 10
MIN_POINTS: Final = 20
NEAREST: Final = 1e-4  # to 0 and 1: probabilities are no surer than this
MAX_STEPS: Final = 100


class Point(NamedTuple):
    """A probability and whether it came true; `group` is what must not be split, such as a section."""

    probability: float
    is_true: bool
    group: str = ""


class Bin(NamedTuple):
    """Some points next to each other: their mean probability and the share that came true."""

    probability: float
    share: float
    num: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """p becomes 1 / (1 + exp(-(slope · logit(p) + intercept))), which rises with p."""

    slope: float
    intercept: float

    def apply(self, probability: float) -> float:
        """The calibrated probability."""
        return _logistic(self.slope * _logit(probability) + self.intercept)


@dataclass(frozen=True, slots=True)
class Reliability:
    """What calibration is worth: the expected error before and after, each over all points.

    `after` is measured on points that the map was not fitted on. `calibration` itself is fitted on all.
    """

    num: int
    before: float
    after: float
    bins_before: tuple[Bin, ...]
    bins_after: tuple[Bin, ...]
    calibration: Calibration

    def as_json(self) -> Json:
        """All of it as plain data; bins as mappings."""
        found = asdict(self)
        for name in ("bins_before", "bins_after"):
            found[name] = [each._asdict() for each in getattr(self, name)]
        return found


def reliability_curve(points: Sequence[Point], num_bins: int = NUM_BINS) -> list[Bin]:
    """Bins of equally many points in order of probability; equal probabilities are never parted.

    Equal counts, not equal widths, after Naeini, Cooper, Hauskrecht 2015 (AAAI, section 3).
    """
    bins: list[Bin] = []
    current: list[Point] = []
    ordered = sorted(points, key=lambda point: point.probability)
    for at, point in enumerate(ordered):
        current.append(point)
        is_last = at + 1 == len(ordered)
        is_full = (at + 1) * num_bins >= len(ordered) * (len(bins) + 1)
        if is_last or (is_full and ordered[at + 1].probability != point.probability):
            mean = math.fsum(each.probability for each in current) / len(current)
            bins.append(Bin(mean, sum(each.is_true for each in current) / len(current), len(current)))
            current = []
    return bins


def expected_error(bins: Sequence[Bin]) -> float:
    """The mean distance of probability and share, weighted by points (Guo et al. 2017, equation 3)."""
    total = sum(each.num for each in bins)
    return math.fsum(each.num * abs(each.probability - each.share) for each in bins) / max(total, 1)


def fit(points: Sequence[Point]) -> Calibration:
    """The map under which the outcomes are likeliest.

    Platt 1999 with its smoothed targets, by the Newton method of Lin, Lin, Weng 2007 (Machine Learning 68);
    two numbers suffice for a few dozen points, where isotonic regression would learn them by heart. A slope
    below zero, which would turn the order round, is taken as none: all get the share that came true.
    """
    num_true = sum(point.is_true for point in points)
    high, low = (num_true + 1) / (num_true + 2), 1 / (len(points) - num_true + 2)
    data = [(_logit(point.probability), high if point.is_true else low) for point in points]
    prior = Calibration(0.0, math.log((num_true + 1) / (len(points) - num_true + 1)))
    best, loss = prior, _loss(prior, data)
    for _ in range(MAX_STEPS):
        step = _newton_step(best, data)
        for shorter in range(30):
            scale = 0.5**shorter
            tried = Calibration(best.slope + scale * step[0], best.intercept + scale * step[1])
            if (found := _loss(tried, data)) < loss - 1e-12:
                best, loss = tried, found
                break
        else:
            break
    return best if best.slope > 0 else prior


def measure(points: Sequence[Point]) -> Reliability | None:
    """Errors before and after; None with fewer than MIN_POINTS points, or where all came out the same.

    Each half of the groups, halved by a hash of their names, is mapped by what was fitted on the other.
    """
    halves: tuple[list[Point], list[Point]] = ([], [])
    for point in points:
        halves[int(digest([point.group], 2), 16) % 2].append(point)
    if len(points) < MIN_POINTS or any(len({each.is_true for each in half}) < 2 for half in halves):
        return None
    mapped = [
        point._replace(probability=calibration.apply(point.probability))
        for half, other in (halves, halves[::-1])
        for calibration in [fit(other)]
        for point in half
    ]
    before, after = reliability_curve(points), reliability_curve(mapped)
    errors = expected_error(before), expected_error(after)
    return Reliability(len(points), *errors, tuple(before), tuple(after), fit(points))


def save(calibration: Calibration, folder: Path) -> Path:
    """Writes the map beside an adapter; returns the file."""
    path = folder / FILE
    path.write_text(json.dumps(asdict(calibration)) + "\n", encoding="utf-8")
    return path


def load(folder: Path) -> Calibration | None:
    """The map beside an adapter, None where there is none; raises RecipeError for a file that is no map."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        slope, intercept = float(found["slope"]), float(found["intercept"])
    except (ValueError, TypeError, LookupError) as error:
        raise RecipeError(f"is no calibration: {error}", where=str(path)) from error
    if not (slope >= 0 and math.isfinite(slope) and math.isfinite(intercept)):
        raise RecipeError("is no calibration: it must rise", where=str(path))
    return Calibration(slope, intercept)


def _logit(probability: float) -> float:
    held = min(max(probability, NEAREST), 1 - NEAREST)
    return math.log(held / (1 - held))


def _logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else 1 - 1 / (1 + math.exp(value))


def _loss(calibration: Calibration, data: Sequence[tuple[float, float]]) -> float:
    """Cross entropy, in a form that does not overflow."""
    values = ((calibration.slope * x + calibration.intercept, target) for x, target in data)
    return math.fsum(max(v, 0.0) - v * target + math.log1p(math.exp(-abs(v))) for v, target in values)


def _newton_step(calibration: Calibration, data: Sequence[tuple[float, float]]) -> tuple[float, float]:
    gradient_a = gradient_b = cross = 0.0
    curve_a = curve_b = 1e-9  # so that there is a step even where all probabilities are equal
    for x, target in data:
        p = _logistic(calibration.slope * x + calibration.intercept)
        weight, miss = p * (1 - p), p - target
        gradient_a, gradient_b = gradient_a + x * miss, gradient_b + miss
        curve_a, curve_b, cross = curve_a + x * x * weight, curve_b + weight, cross + x * weight
    determinant = curve_a * curve_b - cross * cross
    if determinant <= 0:
        return -gradient_a / curve_a, -gradient_b / curve_b
    return (
        -(curve_b * gradient_a - cross * gradient_b) / determinant,
        -(curve_a * gradient_b - cross * gradient_a) / determinant,
    )
