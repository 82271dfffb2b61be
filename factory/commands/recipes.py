"""Commands around a recipe and this machine, before anything runs: init, check, schema, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factory.commands.arguments import DEFAULT_WORKSPACE, AsJson, Profile, RecipePath, Workspace


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command(epilog="Example: factory init my_domain")(init)
    app.command(epilog="Example: factory check recipes/georgia_workers_comp --profile tiny")(check)
    app.command(epilog="Example: factory schema > recipe.schema.json")(schema)
    app.command(epilog="Example: factory doctor --workspace workspace")(doctor)


def init(
    directory: Annotated[Path, typer.Argument(help="A folder that is new or empty.")], json: AsJson = False
) -> None:
    """Write a small commented recipe that runs at once, as a dry run."""
    from factory.init import write_template
    from factory.screen import print_json, print_text

    written = write_template(directory)
    if json:
        print_json({"directory": str(directory), "files": written})
        return
    print_text("\n".join(f"wrote {directory / name}" for name in written))
    print_text(
        f"\nNext: factory check {directory} && factory run {directory}   (a dry run: no model answers)"
    )


def check(recipe: RecipePath, profile: Profile = None, json: AsJson = False) -> None:
    """Check a recipe and everything that it names. Says what a run would ask, and cost at most."""
    from factory.check import check_recipe, print_summary
    from factory.screen import print_json

    summary = check_recipe(recipe, profile)
    if json:
        print_json(summary)
    else:
        print_summary(summary)


def schema(json: AsJson = False) -> None:
    """Print the JSON Schema of a recipe, for editors. It is JSON with and without --json."""
    from factory.recipe_docs import json_schema
    from factory.screen import print_json

    print_json(json_schema())


def doctor(workspace: Workspace = DEFAULT_WORKSPACE, json: AsJson = False) -> None:
    """Check this machine: packages, processors, memory, disk, database."""
    from dataclasses import asdict

    from factory.doctor import examine
    from factory.screen import print_json, print_table

    findings = examine(workspace)
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(
            ("", "what", "found", "what to do"), ((f.status, f.what, f.found, f.advice) for f in findings)
        )
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)
