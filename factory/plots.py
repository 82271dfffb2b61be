"""What the plots of a report show: bars with a length in percent and the text that says the same.

The page's template draws them as SVG. That needs no plotting library; text stays text, colours
follow the reader's light or dark setting, and lengths in percent fit any screen. The numbers come
from the report; none is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factory.accuracy import ModelResult
from factory.findings import Report
from factory.significance import wilson


@dataclass(frozen=True)
class Bar:
    """`length`, `low` and `high` (an interval, where there is one) in percent of the plot's width."""

    label: str
    text: str
    kind: str
    length: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Plot:
    """Bars under one title."""

    title: str
    bars: tuple[Bar, ...]

    @property
    def description(self) -> str:
        """The plot in words, for those who do not see it."""
        return f"{self.title}: " + "; ".join(f"{bar.label} {bar.text}" for bar in self.bars)


def percent(share: float) -> str:
    """A share in [0, 1] as '96.9 %', with a space that does not break."""
    return f"{100 * share:.1f}\u00a0%"


def plot_accuracy(report: Report) -> Plot:
    """Overall test accuracy of each model, with its interval."""
    bars = []
    for model in report.models:
        mean, low, high = model.overall.mean, model.overall.low, model.overall.high
        bars.append(_accuracy_bar(model, report, mean, low, high))
    return Plot("Test accuracy with 95 % interval", tuple(bars))


def plot_slices(report: Report) -> tuple[Plot, ...]:
    """Test accuracy of each model, one plot a slice."""
    plots = []
    for name in report.slices:
        found = [(model, model.slices[name]) for model in report.models if name in model.slices]
        bars = [_accuracy_bar(model, report, each.mean, each.low, each.high) for model, each in found]
        plots.append(Plot(name, tuple(bars)))
    return tuple(plots)


def plot_funnel(report: Report) -> Plot:
    """Generated samples and how many are left after each refiner."""
    total = report.num_generated or 1
    steps = [("generated", report.num_generated), *((step.refiner, step.num_left) for step in report.steps)]
    if report.num_undecided:
        steps.append(("undecided", report.num_undecided))
    steps.append(("accepted", report.num_accepted))
    bars = [
        Bar(label, f"{n:,}", "last" if label == "accepted" else "base", 100 * n / total) for label, n in steps
    ]
    return Plot("Samples left after each refiner", tuple(bars))


def plot_accepted(report: Report) -> tuple[Plot, ...]:
    """Accepted samples of each round, one plot a slice, all on one scale."""
    most = max((each.num_accepted for each in report.slice_rounds), default=0) or 1
    last = max((each.round for each in report.slice_rounds), default=0)
    by_slice: dict[str, list[Bar]] = {}
    for each in report.slice_rounds:
        kind = "last" if each.round == last else "round"
        bar = Bar(f"round {each.round}", f"{each.num_accepted:,}", kind, 100 * each.num_accepted / most)
        by_slice.setdefault(each.name, []).append(bar)
    return tuple(Plot(name, tuple(bars)) for name, bars in by_slice.items())


def plot_reliability(report: Report) -> tuple[Plot, ...]:
    """What came of drafts that the refiner held to be clean with some probability, before and after the map.

    A bar for each bin of drafts: its mean probability, and the share that was clean with its interval.
    """
    measured = report.refiner.calibration if report.refiner else None
    plots = []
    for key, title in (("before", "as the refiner said"), ("after", "calibrated")) if measured else ():
        bars = []
        for each in measured[f"bins_{key}"] if measured else ():
            low, high = wilson(each["share"], each["num"])
            text = f"{percent(each['share'])} of {each['num']:,}"
            label = f"held {percent(each['probability'])}"
            bars.append(Bar(label, text, "round", 100 * each["share"], 100 * low, 100 * high))
        plots.append(Plot(f"Share of clean drafts, {title}", tuple(bars)))
    return tuple(plots)


def _accuracy_bar(model: ModelResult, report: Report, mean: float, low: float, high: float) -> Bar:
    kind = "last" if model is _last_round(report.models) else model.kind
    return Bar(model.label, percent(mean), kind, 100 * mean, 100 * low, 100 * high)


def _last_round(models: Sequence[ModelResult]) -> ModelResult | None:
    return next((model for model in reversed(models) if model.kind == "round"), None)
