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
from factory.commands.output import open_progress

EXAMPLE = "Example: factory refiner evaluate recipes/georgia_workers_comp --profile tiny"


def add_to(app: typer.Typer) -> None:
    """Registers the command with the commands of the refiner."""
    app.command(epilog=EXAMPLE)(evaluate)


def evaluate(
    recipe: RecipePath,
    profile: Profile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    given: Annotated[
        bool,
        typer.Option("--given", help="Ask about all drafts that the recipe gives, not the held-out ones."),
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Write the map of its probabilities beside its adapter.")
    ] = False,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Measure the refiner on held-out drafts: precision, recall, faults fixed, clean answers damaged."""
    from factory.refiner_records import evaluate_refiner
    from factory.screen import print_json

    with open_progress(json, log) as progress:
        found = evaluate_refiner(recipe, profile, workspace, progress, given, calibrate)
    if json:
        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from factory.refiner_findings import RefinerMeasure
    from factory.refiner_grid import describe_calibration, grid_refiner
    from factory.screen import print_table, print_text

    by_kind = {each["kind"]: each for each in found["by_kind"]}
    measured = RefinerMeasure(found["model_id"], found["num"], found, by_kind, found["calibration"])
    grid = grid_refiner(measured)
    print_text(f"model: {found['model_id']}")
    print_table(grid.columns, grid.rows, grid.title)
    if line := describe_calibration(measured):
        print_text(f"\n{line}")
    if "calibration_file" in found:
        print_text(f"wrote {found['calibration_file']}")
