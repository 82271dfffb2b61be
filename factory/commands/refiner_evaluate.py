"""`factory refiner evaluate`: how well the refiner does on drafts whose right answer is known."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from factory.commands.arguments import (
    DEFAULT_WORKSPACE,
    AsJson,
    Log,
    LogFormat,
    Profile,
    RecipePath,
    Workspace,
)

EXAMPLE = "Example: factory refiner evaluate recipes/georgia_workers_comp --profile tiny"
COLUMNS = ("kind", "drafts", "found", "fixed", "removed", "damaged", "refused")


def add_to(app: typer.Typer) -> None:
    """Registers the command with the commands of the refiner."""
    app.command(epilog=EXAMPLE)(evaluate)


def evaluate(
    recipe: RecipePath,
    profile: Profile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    share: Annotated[
        float,
        typer.Option("--share", min=0.0, max=1.0, help="Of the sections, whose drafts are asked about."),
    ] = 1.0,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Write the map of its probabilities beside its adapter.")
    ] = False,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Measure the refiner on checked drafts: precision, recall, faults fixed, clean answers damaged."""
    from factory.progress import Progress
    from factory.refiner_records import evaluate_refiner
    from factory.screen import print_json

    with Progress(bars=not json, as_json=log is LogFormat.json) as progress:
        found = evaluate_refiner(recipe, profile, workspace, progress, share, calibrate)
    if json:
        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from factory.screen import print_table, print_text

    print_text(f"model: {found['model_id']}\ndrafts: {found['num']:,}")
    for name in ("precision", "recall", "f1", "fixed", "removed", "damaged"):
        print_text(f"{name}: {_percent(found[name], found[f'{name}_interval'])}")
    print_text(f"edits refused: {found['num_refused']:,}")
    if measured := found["calibration"]:
        errors = f"{100 * measured['before']:.1f} % before, {100 * measured['after']:.1f} % after the map"
        print_text(f"expected calibration error: {errors}")
    if "calibration_file" in found:
        print_text(f"wrote {found['calibration_file']}")
    rows = [
        [
            each["kind"],
            each["num"],
            *(_percent(each[name]) for name in ("recall", "fixed", "removed", "damaged")),
            each["num_refused"],
        ]
        for each in found["by_kind"]
    ]
    print_table(COLUMNS, rows, "by kind of fault")


def _percent(share: float | None, interval: list[float] | None = None) -> str:
    if share is None:
        return "–"
    text = f"{100 * share:.1f} %"
    return text if interval is None else f"{text} ({100 * interval[0]:.1f}–{100 * interval[1]:.1f})"
