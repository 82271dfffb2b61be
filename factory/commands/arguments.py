"""Arguments and options that several commands share, each with its one meaning and help text.

Values are parsed here and used elsewhere.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="recipe.yaml or its folder.")]
Profile = Annotated[
    str | None,
    typer.Option("--profile", "-p", help="Name in the recipe's profiles/ folder, or a path to a YAML file."),
]
Workspace = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder of the run; its database is factory.duckdb.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


class LogFormat(StrEnum):
    """How progress, notes and errors are written on stderr."""

    text = "text"
    json = "json"


Log = Annotated[LogFormat, typer.Option("--log-format", help="Progress on stderr for people or programs.")]

Metrics = Annotated[
    int | None,
    typer.Option("--metrics", min=1, max=65535, help="Port of 127.0.0.1 with figures for Prometheus."),
]

DEFAULT_WORKSPACE = Path("workspace")
