"""Commands about the refiner's own training: what it would learn, and learning it. Each calls and prints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.commands import refiner_evaluate
from factory.commands.arguments import (
    DEFAULT_WORKSPACE,
    AsJson,
    Log,
    LogFormat,
    Profile,
    RecipePath,
    Workspace,
)
from factory.commands.output import open_progress, print_found

TINY = "recipes/georgia_workers_comp --profile tiny"
Examples = Annotated[
    int | None,
    typer.Option(
        "--examples", "-n", min=1, help="Checked drafts that training starts from, at most; else all."
    ),
]
Faults = Annotated[
    int, typer.Option("--faults", min=0, max=20, help="Corruptions of each right answer for training.")
]

app = typer.Typer(
    help="Teach the refiner and measure it; every command prints JSON with --json.",
    epilog=f"Example: factory refiner data {TINY}",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def add_to(parent: typer.Typer) -> None:
    """Registers the group."""
    app.command(epilog=f"Example: factory refiner data {TINY}")(data)
    app.command(epilog=f"Example: factory refiner train {TINY} --output adapters/refiner")(train)
    refiner_evaluate.add_to(app)
    parent.add_typer(app, name="refiner")


def data(
    recipe: RecipePath,
    profile: Profile = None,
    workspace: Annotated[
        Path | None, typer.Option("--workspace", "-w", help="Take verdicts and rewrites from its store too.")
    ] = None,
    examples: Examples = None,
    faults: Faults = 4,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSONL of the training part, as chats.")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option("--held-out", help="JSONL of the held-out part, as drafts like gold.refiner."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show what the refiner would be trained on and measured by, by origin and kind of fault."""
    from factory import refiner_session
    from factory.refiner_data import print_summary
    from factory.screen import print_json

    files = refiner_session.Files(output, held_out)
    found = refiner_session.show_data(recipe, profile, workspace, examples, faults, files)
    if json:
        print_json(found)
    else:
        print_summary(found)


def train(
    recipe: RecipePath,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where the refiner in charge stands or shall stand.")
    ],
    profile: Profile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    examples: Examples = None,
    faults: Faults = 4,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Train a refiner on the training part; it goes to --output if it is better on the held-out part.

    Whether it was promoted or not, the exit code is 0.
    """
    from factory import refiner_session

    with open_progress(json, log) as progress:
        found = refiner_session.train(recipe, profile, workspace, output, examples, faults, progress)
    print_found(found, json)
