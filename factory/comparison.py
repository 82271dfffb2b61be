"""What the gate found out about two models, as values that are stored, read back and put into words.

A comparison is written as JSON and stays readable: fields that came later have defaults, and words are
made of what is there. How it is computed and decided is in training.gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class SliceChange:
    """One slice of a comparison.

    `p_fell` speaks against its not having fallen at all, adjusted by Holm for all slices; `p_safe` against
    its having fallen by `margin` or more. `fell`: it fell by more than the margin, beyond chance.
    `items_needed` would show that a slice which did not change has not fallen by the margin.
    """

    name: str
    num_items: int
    gain: float
    margin: float
    p_fell: float
    p_safe: float
    fell: bool
    safe: bool
    items_needed: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations of the same items, paired, and the verdict on the new one.

    `gain` is the difference of means, `gain_low` its one-sided 95 % lower bound, `p_gain` the one-sided
    p-value that decides and `test` its name; `p_value` is that of the two-sided exact McNemar test, which
    takes items as independent. `worst_slice` fell most. `power` is the chance that these items show a gain
    of `gain_sought`, and `items_needed` would show it in 80 % of cases. `chosen_on_dev`: the training of the
    new one looked at these items and kept what was best on them.
    """

    gain: float
    gain_low: float
    p_value: float
    num_better: int
    num_worse: int
    worst_slice: str
    worst_slice_gain: float
    promote: bool
    reason: str
    num_items: int | None = None
    num_clusters: int | None = None
    min_items: int | None = None
    min_clusters: int | None = None
    test: str | None = None
    p_gain: float | None = None
    gain_sought: float | None = None
    power: float | None = None
    items_needed: int | None = None
    slices: tuple[SliceChange, ...] = ()
    chosen_on_dev: bool = False


def read_comparison(stored: Mapping[str, Any]) -> Comparison:
    """The comparison of its stored JSON, whichever fields it has beyond the first nine."""
    known = {each.name for each in fields(Comparison)} - {"slices"}
    slices = tuple(SliceChange(**each) for each in stored.get("slices") or ())
    return Comparison(**{name: value for name, value in stored.items() if name in known}, slices=slices)


def describe_comparison(found: Comparison) -> str:
    """Why the verdict is what it is, in a line: '36 of 38 items; a gain of 5 points would need 420'."""
    chosen = "; early stopping chose its step by dev, so the gain is flattered: see test"
    return _why(found) + (chosen if found.chosen_on_dev else "")


def _why(found: Comparison) -> str:
    if found.reason == "too_few_items":
        return _few(found)
    if found.reason == "no_gain":
        return _gain(found) + _needed(found)
    if found.reason == "slice_fell":
        told = [
            f"{each.name} fell by {points(-each.gain)} over {each.num_items:,} items "
            f"(p = {each.p_fell:.2g} by Holm over {len(found.slices)} slices)"
            for each in found.slices
            if each.fell
        ]
        return "; ".join(told) or f"{found.worst_slice} fell by {points(-found.worst_slice_gain)}"
    if found.reason == "slice_unproven":
        return "; ".join(
            f"{each.name} may have fallen by {points(each.margin)}: {each.num_items:,} items, "
            f"about {each.items_needed:,} are needed to rule it out"
            for each in found.slices
            if not each.safe
        )
    return _gain(found) + _down(found)


def points(share: float) -> str:
    """'5 points', '12.5 points'."""
    return f"{round(100 * share, 1):g} points"


def _few(found: Comparison) -> str:
    if found.num_items is None or found.min_items is None:
        return "too few items"
    if found.num_items < found.min_items:
        return f"{found.num_items:,} of {found.min_items:,} items{_needed(found)}"
    return f"items of {found.num_clusters} sources, of {found.min_clusters} at least{_needed(found)}"


def _gain(found: Comparison) -> str:
    p_value = found.p_value if found.p_gain is None else found.p_gain
    items = "" if found.num_items is None else f" over {found.num_items:,} items"
    return (
        f"gain {100 * found.gain:+.1f} points on dev{items}, lower bound {100 * found.gain_low:+.1f}, "
        f"p = {p_value:.2g}"
    )


def _down(found: Comparison) -> str:
    """Slices that lost more than their margin, though chance may have done it."""
    return "".join(
        f"; {each.name} is down {points(-each.gain)} over {each.num_items:,} items, which may be chance"
        for each in found.slices
        if each.gain < -each.margin and not each.fell
    )


def _needed(found: Comparison) -> str:
    if found.items_needed is None or found.gain_sought is None:
        return ""
    chance = "" if found.power is None else f", these show it in {100 * found.power:.0f} of 100 cases"
    return f"; a gain of {points(found.gain_sought)} would need {found.items_needed:,}{chance}"
