"""The command `evaluate`: a round's student, or models side by side on the recipe's items or on a suite's.

Calls factory.session and prints.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

RESULTS = ("model", "adapter digest", "mean", "95 %", "difference", "90 %", "better", "worse", "p")
USUAL = ("base", "promoted")
SLICES = ("slice", "items", "model", "mean", "95 %", "difference", "p fell")


class SplitName(StrEnum):
    """Splits that can be evaluated."""

    dev = "dev"
    test = "test"


def evaluate(
    recipe: RecipePath,
    profile: Profile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="base, promoted, a student's name or an adapter's folder; else the round's student. "
            "Given again: each is asked the same items, and compared with the first.",
        ),
    ] = None,
    split: Annotated[SplitName | None, typer.Option("--split", help="Of --model; test unless given.")] = None,
    suite: Annotated[
        Path | None,
        typer.Option(
            "--suite",
            help="Folder of lm-evaluation-harness tasks, asked in place of the recipe's items: of base and "
            "promoted, unless --model says of whom.",
        ),
    ] = None,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Evaluate the first round that is not, or models side by side on the recipe's items or a suite's."""
    from factory import evaluation_session, session
    from factory.screen import print_json, print_mapping

    if split is not None and suite is not None:
        raise typer.BadParameter("a suite has no splits: leave --split out")
    if split is not None and not model:
        raise typer.BadParameter("--split goes with --model; a round is evaluated on dev and test")
    with open_progress(json, log) as progress:
        if suite is not None:
            found = evaluation_session.evaluate_suite(
                recipe, profile, model or USUAL, suite, workspace, progress
            )
        elif model:
            chosen = split or SplitName.test
            found = evaluation_session.evaluate_models(
                recipe, profile, model, chosen.value, workspace, progress
            )
        else:
            found = session.run_until(recipe, profile, workspace, progress, "evaluate")
    if json:
        print_json(found)
    elif suite is not None:
        print_suite(found)
    elif model:
        print_models(found)
    else:
        print_mapping(found)


def print_models(found: Mapping[str, Any]) -> None:
    """Tables of models that were asked the same items: over all of them, and by slice."""
    from factory.screen import print_table

    models: Sequence[Mapping[str, Any]] = found["models"]
    title = f"{found['split']}, {found['metric']}, {models[0]['num_items']:,} items"
    lines = ([each["model"], each["digest"], *_result(each)] for each in models)
    print_table(RESULTS, lines, title)
    names = [row["slice"] for row in models[0]["slices"]]
    print_table(SLICES, (cells for name in names for cells in _slice_cells(name, models)), "by slice")


def print_suite(found: Mapping[str, Any]) -> None:
    """A table of every task and model."""
    from factory.screen import print_table

    models: Sequence[Mapping[str, Any]] = found["models"]
    tasks = zip(*(each["tasks"] for each in models), strict=True)
    lines = (
        [row["task"], row["metric"], row["num_items"], model["model"], model["digest"], *_result(row)]
        for rows in tasks
        for model, row in zip(models, rows, strict=True)
    )
    print_table(
        ("task", "metric", "items", *RESULTS),
        lines,
        f"{Path(found['suite']).name}, lm_eval {found['harness']}",
    )


def _result(row: Mapping[str, Any]) -> list[Any]:
    """From the mean on, for RESULTS."""
    difference = row.get("difference")
    mean = [percent(row["mean"]), interval(row["low"], row["high"])]
    if difference is None:
        return [*mean, None, None, None, None, None]
    bounds = interval(difference["low"], difference["high"], "+")
    counts = difference["num_better"], difference["num_worse"]
    return [*mean, percent(difference["gain"], "+"), bounds, *counts, difference["p_value"]]


def _slice_cells(name: str, models: Sequence[Mapping[str, Any]]) -> Iterator[list[Any]]:
    for model in models:
        row = next(each for each in model["slices"] if each["slice"] == name)
        gain = row.get("difference")
        mean = [percent(row["mean"]), interval(row["low"], row["high"])]
        change = [None if gain is None else percent(gain, "+"), row.get("p_fell")]
        yield [name, row["num_items"], model["model"], *mean, *change]


def percent(share: float, sign: str = "") -> str:
    """'62.5', '+3.0'."""
    return f"{100 * share:{sign}.1f}"


def interval(low: float, high: float, sign: str = "") -> str:
    """'55.1 to 69.4'."""
    return f"{percent(low, sign)} to {percent(high, sign)}"
