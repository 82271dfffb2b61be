"""Commands that look into a workspace, also while a run holds it: status, trace, report, export."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from factory.commands.arguments import DEFAULT_WORKSPACE, AsJson, Workspace
from factory.commands.output import print_found
from factory.errors import InputError

QUERY = '"SELECT refiner, action, reason, count(*) FROM decisions GROUP BY ALL"'


class Form(StrEnum):
    """Forms beside that of chats, as factory.export_forms has them."""

    sharegpt = "sharegpt"
    alpaca = "alpaca"
    prompt_completion = "prompt_completion"


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command(epilog="Example: factory status --workspace workspace")(status)
    app.command(epilog="Example: factory trace smp_1f0c... --workspace workspace")(trace)
    app.command(epilog="Example: factory report --workspace workspace --html report.html")(report)
    app.command(epilog="Example: factory export dataset --workspace workspace")(export)


def status(workspace: Workspace = DEFAULT_WORKSPACE, json: AsJson = False) -> None:
    """Say where each run of a workspace stands, which student is in charge of it, and what it spent."""
    from dataclasses import asdict

    from factory.counts import describe_lost
    from factory.promotion import who_is_in_charge
    from factory.screen import print_json, print_table, print_text
    from factory.store import queries

    with queries.Reader(workspace) as reader:
        runs = queries.status(reader)
        charges = {run.run_id: who_is_in_charge(reader, run.run_id) for run in runs if run.control is None}
    if json:
        told = {run_id: asdict(charge) for run_id, charge in charges.items() if charge}
        print_json([asdict(run) | {"in_charge": told.get(run.run_id)} for run in runs])
    elif not runs:
        print_text("no run has started in this workspace")
    else:
        columns = (
            "run",
            "recipe",
            "round",
            "stage",
            "state",
            "accepted",
            "calls",
            "failed",
            "tokens",
            "dollars",
        )
        rows = [
            (
                run.run_id,
                run.recipe if run.control is None else f"{run.recipe}: {run.control}",
                run.round,
                run.stage,
                run.state,
                sum(number for _, number in run.accepted),
                run.num_calls,
                run.num_failed,
                run.tokens,
                run.dollars,
            )
            for run in runs
        ]
        print_table(columns, rows)
        for run in runs:
            if charge := charges.get(run.run_id):
                print_text(f"{run.run_id}: {charge.describe()}")
            if lost := describe_lost(run.lost_tokens, run.lost_dollars):
                print_text(f"{run.run_id}: {lost}; the budget counts them")


def trace(
    id: Annotated[str, typer.Argument(help="Of a sample, seed, source, call, dataset, model or evaluation.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    json: AsJson = False,
) -> None:
    """Show where a sample came from and what became of it, as a tree."""
    from dataclasses import asdict

    from factory.screen import print_json, print_renderable
    from factory.store import queries

    with queries.Reader(workspace) as reader:
        found = queries.trace(reader, id)
    if json:
        print_json(asdict(found))
    else:
        print_renderable(queries.render(found))


def report(
    workspace: Workspace = DEFAULT_WORKSPACE,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write one self-contained HTML file with plots.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Report on the newest run: accuracy, kept and dropped, spend."""
    if html is not None:
        from factory.report import collect, render_html
        from factory.screen import print_note
        from factory.store.queries import Reader

        with Reader(workspace) as reader:
            page = render_html(collect(reader))
        try:
            html.write_text(page, encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot be written: {error.strerror}", where=str(html)) from error
        print_note(f"wrote {html}")
        if not json:
            return
    print_report(workspace, json)


def export(
    directory: Annotated[Path, typer.Argument(help="A folder that is new or empty.")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    format: Annotated[
        list[Form] | None, typer.Option("--format", help="A further form; may be given again.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Write the newest dataset as JSONL and Parquet, with a card and Croissant metadata.

    `datasets.load_dataset` reads the folder. Its own form is that of chats, which TRL and Axolotl read.
    LLaMA-Factory and Axolotl read sharegpt, LLaMA-Factory alpaca, TRL prompt_completion.
    """
    from factory.export import export as write
    from factory.store.queries import Reader

    with Reader(workspace) as reader:
        found = write(reader, directory, forms=[form.value for form in dict.fromkeys(format or ())])
    print_found(found, json)


def print_report(workspace: Path, json: bool, short: bool = False, run_id: str | None = None) -> None:
    """Prints the report of a run, by default the newest; `short` is the table of results alone."""
    from dataclasses import asdict

    from factory.report import collect, final_table, render_terminal
    from factory.screen import print_json, print_renderable
    from factory.store.queries import Reader

    with Reader(workspace) as reader:
        found = collect(reader, run_id)
    if json:
        print_json(asdict(found))
    else:
        print_renderable(final_table(found) if short else render_terminal(found))


def print_hints(workspace: Path) -> None:
    """Prints three commands that look inside a run, ready to be pasted."""
    import shlex

    from factory.screen import print_text
    from factory.store.queries import read

    samples = read(
        workspace, "SELECT sample_id FROM decisions WHERE final AND action = 'rewrite' LIMIT 1"
    ).rows
    samples = samples or read(workspace, "SELECT sample_id FROM decisions WHERE final LIMIT 1").rows
    place = "" if workspace == DEFAULT_WORKSPACE else f" --workspace {shlex.quote(str(workspace))}"
    name = _own_name()
    print_text("\nLook inside:")
    print_text(f"  {name} sql {QUERY}{place}")
    print_text(f"  {name} trace {samples[0][0] if samples else 'SAMPLE_ID'}{place}")
    print_text(f"  {name} report --html report.html{place}")


def _own_name() -> str:
    """How this command was called, so that the same words call it again."""
    import shlex
    import shutil
    import sys

    called = Path(sys.argv[0])
    if called.name != "factory":
        return f"{shlex.quote(sys.executable)} -m factory"
    found = shutil.which("factory")
    return "factory" if found and Path(found).resolve() == called.resolve() else shlex.quote(str(called))
