"""The refiner's measurement as a table and a line of a report.

What the figures mean is in factory.refiner_evaluation; how numbers are written is decided in factory.grids,
and where tables go in factory.report.
"""

from __future__ import annotations

from collections.abc import Mapping

from factory.grids import Grid
from factory.plots import percent
from factory.refiner_findings import RefinerMeasure
from factory.types import Json

SHARES = ("precision", "recall", "f1", "fixed", "removed", "damaged")
COLUMNS = ("Kind of fault", "Drafts", "Precision", "Recall", "F1", "Fixed", "Removed", "Damaged", "Refused")


def grid_refiner(measured: RefinerMeasure | None) -> Grid:
    """All drafts with 95 % intervals, then each kind of fault; no rows where nothing was measured.

    Precision and F1 are of all drafts only: of one kind they say nothing.
    """
    title = "Verdicts, faults fixed exactly, drafts that had to go removed, clean drafts damaged"
    if measured is None:
        return Grid(title, COLUMNS, ())
    rows = [_row("all", measured.overall, SHARES, with_interval=True)]
    of_kind = tuple(name for name in SHARES if name not in {"precision", "f1"})
    rows += [_row(kind, measured.by_kind[kind], of_kind) for kind in sorted(measured.by_kind)]
    return Grid(title, COLUMNS, tuple(rows))


def _row(
    label: str, found: Mapping[str, Json], names: tuple[str, ...], *, with_interval: bool = False
) -> tuple[str, ...]:
    cells = [share(found, name, with_interval=with_interval) if name in names else "–" for name in SHARES]
    return (label, f"{found['num']:,}", *cells, f"{found['num_refused']:,}")


def share(found: Mapping[str, Json], name: str, *, with_interval: bool) -> str:
    """'96.9 % (92.2–98.8)', or without the interval; a dash for a share of nothing."""
    if found[name] is None:
        return "–"
    low, high = found[f"{name}_interval"]
    return percent(found[name]) + (f" ({100 * low:.1f}–{100 * high:.1f})" if with_interval else "")


def describe_calibration(measured: RefinerMeasure | None) -> str:
    """How far the probability of a clean draft is from what comes true; empty where nobody knows."""
    found = measured.calibration if measured else None
    if found is None:
        return ""
    return (
        f"Expected calibration error over {found['num']:,} drafts: {percent(found['before'])} as the refiner "
        f"said, {percent(found['after'])} after the map, on drafts that it was not fitted on"
    )
