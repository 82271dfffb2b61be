"""The tables of a report: titles, columns and cells as text, the same for terminal and page.

How numbers are written is decided here and nowhere else. Where the tables go, and how they are
drawn, is in factory.report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from factory.accuracy import Accuracy, Paired
from factory.counts import describe_lost
from factory.findings import Report
from factory.funnel import Yield
from factory.plots import percent
from factory.spend import Spend, total_spend
from factory.types import Json


@dataclass(frozen=True)
class Grid:
    """A table; its first column names the row. `texts` are the columns that are no numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: frozenset[int] = frozenset({0})


def interval(accuracy: Accuracy | None, decimals: int = 1) -> str:
    """'96.9 % (92.2–98.8)', the bounds with so many decimals; a dash where nothing was measured."""
    if accuracy is None:
        return "–"
    low, high = 100 * accuracy.low, 100 * accuracy.high
    return f"{percent(accuracy.mean)} ({low:.{decimals}f}–{high:.{decimals}f})"


def p_value(value: float) -> str:
    """Three decimals, or powers of ten below a thousandth."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def duration(seconds: float) -> str:
    """'0.4 s', '48 s', '3 min 20 s', '2 h 5 min'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: Json) -> str:
    """A number as people read it; other values as they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def significance(paired: Paired) -> str:
    """'round 2 against raw: +31.2 points, p = 1.2e-09 (exact McNemar, 45 better, 5 worse of 128)'."""
    return (
        f"{paired.label} against {paired.against}: {100 * paired.gain:+.1f} points, p = "
        f"{p_value(paired.p_value)} (exact McNemar, {paired.num_better:,} better, "
        f"{paired.num_worse:,} worse of {paired.num_items:,})"
    )


def describe_funnel(report: Report) -> str:
    """One line: how many samples were generated, and what became of them."""
    num_dropped = report.num_generated - report.num_accepted - report.num_undecided
    num_rewritten = sum(each.num_rewritten for each in report.strategies)
    by_step = ", ".join(f"{step.refiner} {step.num_dropped:,}" for step in report.steps if step.num_dropped)
    parts = [
        f"{report.num_generated:,} samples generated",
        f"{num_rewritten:,} rewritten by the refiner",
        f"{num_dropped:,} dropped" + (f" ({by_step})" if by_step else ""),
        f"{report.num_accepted:,} accepted",
    ]
    if report.num_undecided:
        parts.append(f"{report.num_undecided:,} not decided yet")
    return ", ".join(parts)


def describe_spend(spend: Sequence[Spend]) -> str:
    """One line: calls, tokens and dollars of the run and its controls."""
    total = total_spend(spend)
    tokens = total.prompt_tokens + total.completion_tokens
    again = f", {total.num_asked_again:,} asked again" if total.num_asked_again else ""
    unused = f", {total.num_unused:,} answers that nothing rests on" if total.num_unused else ""
    return (
        f"{total.num_calls:,} calls ({total.num_failed:,} failed{again}{unused}), "
        f"{total.num_found:,} answers used again without a call, {tokens:,} tokens, ${total.dollars:,.2f}"
        + (f"; {lost}" if (lost := describe_lost(total.lost_tokens, total.lost_dollars)) else "")
    )


def grid_results(report: Report) -> Grid:
    """Every model on the test split: overall and by slice, with what it was trained on."""
    rows = [
        (
            model.label,
            f"{model.num_samples:,}",
            f"{model.num_teacher_calls:,}",
            f"{model.num_teacher_calls_paid:,}",
            interval(model.overall),
            *(interval(model.slices.get(name)) for name in report.slices),
        )
        for model in report.models
    ]
    calls = ("Teacher calls behind its samples", "Paid by this run")
    columns = ("Model", "Training samples", *calls, "Overall", *report.slices)
    return Grid("Accuracy on the test split, with 95 % intervals", columns, tuple(rows))


def grid_comparisons(report: Report) -> Grid:
    """The last round against every other model."""
    rows = [
        (
            f"{each.label} against {each.against}",
            f"{100 * each.gain:+.1f} points",
            f"{each.num_better:,}",
            f"{each.num_worse:,}",
            f"{each.num_items:,}",
            p_value(each.p_value),
        )
        for each in report.comparisons
    ]
    columns = ("Comparison", "Difference", "Better", "Worse", "Items", "p-value")
    return Grid("Paired comparisons on the test split, exact McNemar test", columns, tuple(rows))


def grid_aims(report: Report) -> Grid:
    """What each round was asked for, what it has, and what it took against what was forecast."""
    rows = [
        (
            f"{each.round}",
            *(f"{n:,}" for n in (each.num_wanted, each.num_accepted, sum(each.missing.values()))),
            *(f"{n:,}" for n in (each.num_waves, each.num_generated)),
            f"{percent(each.num_reached / max(each.num_generated, 1))} ({percent(each.assumed_yield)})",
            f"{each.calls:,} ({each.forecast_calls:,})",
            f"{each.tokens:,} ({each.forecast_tokens:,})",
            f"{each.dollars:,.2f} ({each.forecast_dollars:,.2f})",
        )
        for each in report.aims
    ]
    counts = ("Round", "Asked for", "Accepted", "Missing", "Waves", "Generated")
    columns = (*counts, "Good enough", "Calls", "Tokens", "Dollars")
    return Grid(
        "Accepted samples of a round, and what they took (in brackets: forecast)", columns, tuple(rows)
    )


def describe_missing(report: Report) -> list[str]:
    """A line for each round that lacks samples."""
    lines = []
    for each in report.aims:
        if each.missing:
            by_slice = ", ".join(f"{slice} {num:,}" for slice, num in each.missing.items())
            given_up = f"; given up: {', '.join(each.given_up)}" if each.given_up else ""
            lines.append(
                f"round {each.round}: {each.num_accepted:,} of {each.num_wanted:,} accepted samples, "
                f"MISSING: {by_slice}{given_up}"
            )
    return lines


def grid_steps(report: Report) -> Grid:
    """What each refiner kept, rewrote and dropped."""
    rows = [
        (
            step.refiner,
            *(
                f"{n:,}"
                for n in (step.num_in, step.num_kept, step.num_rewritten, step.num_dropped, step.num_left)
            ),
        )
        for step in report.steps
    ]
    columns = ("Refiner", "Decided", "Kept", "Rewritten", "Dropped", "Left of the generated")
    return Grid("The funnel, refiner by refiner", columns, tuple(rows))


def grid_yields(title: str, name: str, yields: Iterable[Yield]) -> Grid:
    """Generated, rewritten, dropped and accepted, by strategy, or by slice and round."""
    rows = []
    for each in yields:
        share = percent(each.num_accepted / each.num_generated) if each.num_generated else "–"
        counts = (each.num_generated, each.num_rewritten, each.num_dropped, each.num_accepted)
        label = f"{each.name}, round {each.round}" if each.round else each.name
        rows.append((label, *(f"{n:,}" for n in counts), share))
    return Grid(title, (name, "Generated", "Rewritten", "Dropped", "Accepted", "Share accepted"), tuple(rows))


def grid_spend(report: Report) -> Grid:
    """Calls, tokens and dollars by run, stage and role, and their sum."""
    rows = [
        (
            f"{each.label or 'run'}, {each.stage}" if each.stage != "all" else "total",
            each.role,
            *(f"{n:,}" for n in (each.num_calls, each.num_failed, each.num_asked_again)),
            *(f"{n:,}" for n in (each.num_unused, each.num_found)),
            *(f"{n:,}" for n in (each.prompt_tokens, each.completion_tokens)),
            f"{each.dollars:,.2f}",
            f"{each.seconds:,.1f}",
        )
        for each in [*report.spend, total_spend(report.spend)]
    ]
    columns = (
        "Stage",
        "Role",
        "Calls",
        "Failed",
        "Asked again",
        "Unused",
        "Reused",
        "Prompt tokens",
        "Answer tokens",
        "Dollars",
        "Seconds",
    )
    return Grid("Spend; seconds add up calls that overlap", columns, tuple(rows), frozenset({0, 1}))


def grid_datasets(report: Report) -> Grid:
    """The frozen datasets with what their guards measured."""
    guards = [dict(_flatten(dataset.guards)) for dataset in report.datasets]
    names = _keys(guards)
    rows = [
        (each.label, each.id, f"{each.num_samples:,}", *(number(measures.get(name, "–")) for name in names))
        for each, measures in zip(report.datasets, guards, strict=True)
    ]
    return Grid(
        "Datasets and their diversity", ("Of", "Dataset", "Samples", *names), tuple(rows), frozenset({0, 1})
    )


def grid_stages(report: Report) -> Grid:
    """How long each stage took, one row for each round and control."""
    labels = list(dict.fromkeys(each.label for each in report.stages))
    stages = list(dict.fromkeys(each.stage for each in report.stages))
    seconds = {(each.label, each.stage): each.seconds for each in report.stages}
    rows = [
        (label, *(duration(seconds[label, stage]) if (label, stage) in seconds else "–" for stage in stages))
        for label in labels
    ]
    return Grid("Duration of each stage", ("Of", *stages), tuple(rows))


def _keys(mappings: Iterable[Mapping[str, Json]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for mapping in mappings for key in mapping))


def _flatten(value: Mapping[str, Json], prefix: str = "") -> Iterable[tuple[str, Json]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flatten(item, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", item
