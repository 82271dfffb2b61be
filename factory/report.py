"""A run's report for people: in the terminal, and as one HTML file that needs nothing else.

`collect` reads the findings, `render_terminal` and `render_html` show all of them, and
`final_table` is the short form for the end of a run. Text from data is never markup: rich gets
Text, the page escapes everything, and control characters become visible signs on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory import audit_grids, gate_grids, grids, plots, refiner_grid
from factory.accuracy import ModelResult
from factory.findings import Report, collect
from factory.printable import printable, printable_line

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["Report", "collect", "final_table", "render_html", "render_terminal"]

WIDTH = 100
MAX_SLICES = 8  # more columns of numbers do not fit into WIDTH
LABEL_WIDTH = 12  # with eight slices that leaves six characters for a heading
EXAMPLE_WIDTH = 90


def all_grids(report: Report) -> dict[str, grids.Grid]:
    """The tables of a report by name."""
    return {
        "results": grids.grid_results(report),
        "comparisons": grids.grid_comparisons(report),
        "aims": grids.grid_aims(report),
        "steps": grids.grid_steps(report),
        "judgements": audit_grids.grid_judgements(report),
        "agreement": audit_grids.grid_agreement(report),
        "strategies": grids.grid_yields("Samples by strategy", "Strategy", report.strategies),
        "slices": grids.grid_yields("Samples by slice and round", "Slice", report.slice_rounds),
        "gates": gate_grids.grid_gates(report),
        "gate_slices": gate_grids.grid_gate_slices(report),
        "datasets": grids.grid_datasets(report),
        "refiner": refiner_grid.grid_refiner(report.refiner),
        "spend": grids.grid_spend(report),
        "stages": grids.grid_stages(report),
    }


def final_table(report: Report) -> RenderableType:
    """Test accuracy of every model, overall and by slice, and what it took; within 100 columns."""
    from rich.console import Group
    from rich.text import Text

    if not report.models:
        return Group(Text("No student has been evaluated yet."), *_lines(report))
    shown = _shown_slices(report)
    rows = [_short_row(model, shown) for model in report.models]
    table = _rich_table(f"{report.run.title}: accuracy on the test split")
    room = WIDTH - 2 - (max(len(cells[0]) for cells in rows) + 1) - len("100.0 % (100–100)  samples ")
    for heading in ("model", "overall (95 %)", "samples", *shorten(shown, room // max(len(shown), 1) - 1)):
        table.add_column(Text(heading), justify="left" if heading == "model" else "right", no_wrap=True)
    for cells in rows:
        table.add_row(*(Text(cell, style="bold" if cells is rows[-1] else "") for cell in cells))
    notes = []
    if len(shown) < len(report.slices):
        notes.append(
            Text(f"{len(report.slices) - len(shown)} more slices are in the HTML report.", style="dim")
        )
    return Group(table, *notes, *_lines(report))


def _short_row(model: ModelResult, slices: Sequence[str]) -> list[str]:
    found = [model.slices.get(name) for name in slices]
    overall = grids.interval(model.overall, decimals=0)
    shares = [f"{100 * each.mean:.0f}\u00a0%" if each else "–" for each in found]
    return [printable_line(model.label, LABEL_WIDTH), overall, f"{model.num_samples:,}", *shares]


def _lines(report: Report) -> list[Any]:
    """Significance, who is in charge, funnel and spend, a line each."""
    from rich.text import Text

    lines = [grids.significance(each) for each in report.comparisons]
    lines += [report.in_charge.describe()] if report.in_charge else []
    lines.append(grids.describe_funnel(report))
    lines += grids.describe_missing(report)
    return [Text(printable(line)) for line in [*lines, grids.describe_spend(report.spend)]]


def _shown_slices(report: Report) -> list[str]:
    """All slices where they fit, else those that the last model answers worst."""
    if len(report.slices) <= MAX_SLICES:
        return list(report.slices)
    last = report.models[-1].slices
    worst = sorted(report.slices, key=lambda name: last[name].mean if name in last else 1.0)[:MAX_SLICES]
    return [name for name in report.slices if name in worst]


def shorten(names: Sequence[str], width: int) -> list[str]:
    """Distinct headings of at most `width` characters: the beginning of each name, or with a number."""
    short: list[str] = []
    for name in names:
        words = printable(name).replace("_", " ").split() or ["?"]
        word = " ".join(words) if len(" ".join(words)) <= width else words[0]
        heading, count = word[:width], 1
        while heading in short:
            count += 1
            heading = f"{word[: width - len(str(count))]}{count}"
        short.append(heading)
    return short


def render_terminal(report: Report) -> RenderableType:
    """Everything that the page says but its plots, as tables."""
    from rich.console import Group
    from rich.text import Text

    run = report.run
    head = f"{run.title}: {run.recipe}, {run.id}, started {run.started_at}; {run.state}"
    parts: list[RenderableType] = [Text(printable(head), style="bold"), Text(""), final_table(report)]
    for name, grid in all_grids(report).items():
        if name != "results" and grid.rows:
            parts += [Text(""), draw_grid(grid)]
    for reason in report.reasons:
        heading = f"{reason.refiner}, {reason.action}, {reason.reason}: {reason.num_samples:,}"
        parts.append(Text(f"\n{printable(heading)}"))
        for example in reason.examples:
            texts = [example.question, example.answer, *([example.became] if example.became else [])]
            parts.append(Text(f"  {example.sample_id}", style="dim"))
            parts += [Text(f"    {printable_line(text, EXAMPLE_WIDTH)}") for text in texts]
    return Group(*parts)


def draw_grid(grid: grids.Grid) -> Table:
    """A table for a terminal, whatever stands in its cells."""
    from rich.text import Text

    table = _rich_table(grid.title)
    for index, column in enumerate(grid.columns):
        justify: Any = "left" if index in grid.texts else "right"
        table.add_column(Text(printable(column)), justify=justify, overflow="fold")
    for row in grid.rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _rich_table(title: str) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    return Table(
        title=Text(printable(title)),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )


def render_html(report: Report) -> str:
    """The page: styles and plots within, no script, nothing fetched."""
    from factory.html_pages import environment

    template = environment().from_string(Path(__file__).with_name("report.html.jinja").read_text("utf-8"))
    return template.render(
        report=report,
        run=report.run,
        grids=all_grids(report),
        missing=grids.describe_missing(report),
        funnel_line=grids.describe_funnel(report),
        spend_line=grids.describe_spend(report.spend),
        significance=[grids.significance(each) for each in report.comparisons],
        accuracy_plot=plots.plot_accuracy(report),
        slice_plots=plots.plot_slices(report),
        funnel_plot=plots.plot_funnel(report),
        accepted_plots=plots.plot_accepted(report),
        calibration_line=refiner_grid.describe_calibration(report.refiner),
        reliability_plots=plots.plot_reliability(report),
    )
