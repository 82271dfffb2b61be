"""Commands that put a student in charge by hand, and take a promotion back."""

from __future__ import annotations

from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.commands.arguments import AsJson
from factory.commands.output import print_found

if TYPE_CHECKING:
    from collections.abc import Callable

    from factory.store.store import Store

Folder = Annotated[Path, typer.Argument(metavar="WORKSPACE", help="Folder of the run; no run may hold it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; is kept in the store.")]
By = Annotated[str | None, typer.Option("--by", help="Who decided; else the name of the user.")]


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command(
        epilog="Example: factory promote workspace student-1a2b3c4d --reason 'reviewed by the board'"
    )(promote)
    app.command(epilog="Example: factory rollback workspace --reason 'a complaint about fees'")(rollback)


def promote(
    workspace: Folder,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name or id of a student of the workspace.")],
    reason: Reason,
    by: By = None,
    json: AsJson = False,
) -> None:
    """Put a student in charge, whatever the gate said; later rounds are compared with it, serve serves it."""
    from factory.promotion import promote_by_hand

    _decide(workspace, lambda store: promote_by_hand(store, model, reason, by or getuser()), json)


def rollback(
    workspace: Folder,
    reason: Reason,
    run: Annotated[str | None, typer.Option("--run", help="Its id; else the newest.")] = None,
    by: By = None,
    json: AsJson = False,
) -> None:
    """Put the student in charge that was before the newest promotion, or the base."""
    from factory.findings import find_run
    from factory.promotion import roll_back

    _decide(
        workspace, lambda store: roll_back(store, find_run(store, run)["id"], reason, by or getuser()), json
    )


def _decide(workspace: Path, decide: Callable[[Store], dict[str, Any]], json: bool) -> None:
    from factory.store.queries import read
    from factory.store.store import Store

    read(workspace, "SELECT 1")  # a workspace that is none is told, and not made
    with Store.open(workspace) as store:
        found = decide(store)
    print_found(found, json)
