"""The command that serves the audit page."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from factory.commands.arguments import DEFAULT_WORKSPACE, AsJson, Workspace


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    app.command(epilog="Example: factory audit workspace")(audit)


def audit(
    folder: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The workspace, where no option names it.")
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Of 127.0.0.1; 0 for a free one.")
    ] = 0,
    json: AsJson = False,
) -> None:
    """Serve a local page to look at samples and to decide about them, until Ctrl-C."""
    from factory.audit.limits import limit_memory
    from factory.audit.server import AuditServer
    from factory.screen import print_json, print_text
    from factory.store.queries import read

    if folder is not None:
        if workspace not in (DEFAULT_WORKSPACE, folder):
            raise typer.BadParameter("DIR and --workspace name two folders")
        workspace = folder
    read(workspace, "SELECT 1")  # a workspace that is none is told now
    server = AuditServer(workspace, port)
    if json:
        print_json({"url": server.url})
    else:
        print_text(f"Audit page of {workspace}, on this machine only; Ctrl-C ends it:\n  {server.url}")
    limit_memory()
    with suppress(KeyboardInterrupt):
        server.run()
