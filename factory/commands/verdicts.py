"""Commands about what people said: to a file, and from one."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from factory.commands.arguments import DEFAULT_WORKSPACE, AsJson, Workspace
from factory.commands.output import print_found


class FileFormat(StrEnum):
    """Our own lines, which lose nothing, or Argilla's records."""

    jsonl = "jsonl"
    argilla = "argilla"


app = typer.Typer(
    help="Take people's verdicts to other tools and back; every command prints JSON with --json.",
    epilog="Example: factory verdicts export verdicts.jsonl --workspace workspace",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def add_to(parent: typer.Typer) -> None:
    """Registers the group."""
    app.command("export", epilog="Example: factory verdicts export records.json --format argilla")(write)
    app.command("import", epilog="Example: factory verdicts import records.json --reviewer 'Ada Byron'")(take)
    parent.add_typer(app, name="verdicts")


def write(
    file: Annotated[Path, typer.Argument(help="Is written anew.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    format: Annotated[
        FileFormat,
        typer.Option(
            "--format",
            "-f",
            help="jsonl: every verdict, a line each; argilla: one list of records, as its from_json reads.",
        ),
    ] = FileFormat.jsonl,
    json: AsJson = False,
) -> None:
    """Write verdicts to a file."""
    from factory.store.queries import Reader
    from factory.verdict_files import WRITERS

    with Reader(workspace) as reader:
        num = WRITERS[format.value](reader, file)
    what = "verdicts" if format is FileFormat.jsonl else "records"
    found = {"file": str(file), "format": format.value, what: num}
    print_found(found, json)


def take(
    file: Annotated[Path, typer.Argument(help="Of either format; which one is seen from what it holds.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    reviewer: Annotated[
        str, typer.Option("--reviewer", help="Who said what bears no name, or the id of an Argilla user.")
    ] = "",
    json: AsJson = False,
) -> None:
    """Take verdicts in from a file, also while a run goes on; those that are there already stay as they are.

    What cannot be taken is counted by reason. The exit code is 0 if anything could, else 2.
    """
    from dataclasses import asdict

    from factory.audit.access import Access
    from factory.store.queries import read
    from factory.verdict_files import read_verdicts

    read(workspace, "SELECT 1")  # a workspace that is none is told, and not made
    with Access(workspace) as access:
        found = {"file": str(file), **asdict(read_verdicts(file, access, reviewer.strip()))}
    print_found(found, json)
