"""Commands that work: preview, run and its stages, serve. Each calls factory.session and prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.commands import train
from factory.commands.arguments import (
    DEFAULT_WORKSPACE,
    AsJson,
    Log,
    LogFormat,
    Metrics,
    Profile,
    RecipePath,
    Workspace,
)
from factory.commands.evaluate import evaluate
from factory.commands.output import open_progress, print_found

if TYPE_CHECKING:
    from factory.needs import Stage

TINY = "recipes/georgia_workers_comp --profile tiny"


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command(epilog=f"Example: factory preview {TINY} --count 5")(preview)
    app.command(epilog=f"Example: factory run {TINY} --workspace workspace")(run)
    app.command(epilog=f"Example: factory generate {TINY}")(generate)
    app.command(epilog=f"Example: factory refine {TINY}")(refine)
    train.add_to(app)
    app.command(epilog=f"Example: factory evaluate {TINY} --model base --model promoted")(evaluate)
    app.command(epilog=f"Example: factory serve {TINY} --port 8000")(serve)


def preview(
    recipe: RecipePath,
    profile: Profile = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=200, help="Samples to make.")] = 5,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Make a few samples to look at; nothing is stored for good."""
    from factory import session
    from factory.screen import print_json, print_text

    with open_progress(json, log) as progress:
        found = session.preview(recipe, profile, count, progress)
    if json:
        print_json(found)
        return
    for sample in found["samples"]:
        fate = f"{sample['action']} by {sample['refiner']}: {sample['reason']}"
        print_text(f"\n[{sample['slice']}, {sample['strategy']}] {sample['messages'][0]['content']}")
        for message in sample["messages"][1:]:
            print_text(f"{'> ' if message['role'] == 'user' else '  '}{message['content']}")
        print_text(f"  {fate}")
        if sample.get("rewritten"):
            print_text(f"  now: {sample['rewritten']}")


def run(
    recipe: RecipePath,
    profile: Profile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    accepted: Annotated[
        int | None,
        typer.Option("--accepted", min=1, help="Accepted samples of a round, as `loop.accepted` says."),
    ] = None,
    metrics: Metrics = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit", help="Serve the audit page meanwhile, on this machine; it ends with the run."
        ),
    ] = False,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Run the whole loop. The same command goes on where it was cut off."""
    from factory import session
    from factory.commands.look import print_hints, print_report

    with open_progress(json, log) as progress:
        found = session.run(recipe, profile, workspace, progress, accepted, metrics, audit)
    print_report(workspace, json, short=True, run_id=found["run"]["id"])
    if not json:
        print_hints(workspace)


def generate(
    recipe: RecipePath,
    profile: Profile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    metrics: Metrics = None,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Generate the samples of the first round that lacks them."""
    _run_until("generate", recipe, profile, workspace, json, log, metrics)


def refine(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    path: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE|FILE", help="recipe.yaml or its folder, or a .jsonl, .jsonl.gz or .parquet file."
        ),
    ],
    profile: Profile = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            help="Folder of the run, `workspace` unless given; a FILE needs none, but then starts anew.",
        ),
    ] = None,
    steps: Annotated[
        str | None, typer.Option("--steps", help="Of a FILE: names of refiners, such as exact,near,pii.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="STEP.OPTION=VALUE, such as pii.action=drop; may be given again."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Of a FILE: what is kept, .jsonl or .parquet."),
    ] = None,
    metrics: Metrics = None,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Refine the first round that is not, and generate it if need be; or refine the samples of a file.

    Of a file that is FILE.kept.jsonl and FILE.dropped.jsonl with a reason for each, as in
    `factory refine samples.jsonl --steps exact,near,pii --option near.threshold=0.9`.
    """
    from factory.sample_files import SUFFIXES

    is_named_so = steps is not None or path.name.endswith(SUFFIXES)
    if path.is_dir() or path.suffix in (".yaml", ".yml") or not is_named_so:
        if steps is not None or option or output is not None:
            raise typer.BadParameter("--steps, --option and --output go with a FILE; a recipe has its own")
        _run_until("refine", path, profile, workspace or DEFAULT_WORKSPACE, json, log, metrics)
        return
    if steps is None or profile is not None or metrics is not None:
        raise typer.BadParameter("a FILE needs --steps, such as exact,near,pii, and takes no profile")
    from factory.file_steps import parse_steps
    from factory.refine_file import refine_file

    with open_progress(json, log) as progress:
        found = refine_file(path, parse_steps(steps, option or ()), output, workspace, progress)
    print_found(found, json)


def serve(
    recipe: RecipePath,
    profile: Profile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    port: Annotated[int | None, typer.Option("--port", min=1, max=65535, help="On loopback.")] = None,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Serve the promoted student on this machine until Ctrl-C."""
    from factory import session
    from factory.screen import print_note

    try:
        with open_progress(json, log) as progress:
            print_found(session.serve(recipe, profile, workspace, port, progress), json)
    except KeyboardInterrupt:
        print_note("stopped serving")


def _run_until(
    stage: Stage,
    recipe: Path,
    profile: str | None,
    workspace: Path,
    json: bool,
    log: LogFormat,
    metrics_port: int | None = None,
) -> None:
    from factory import session

    with open_progress(json, log) as progress:
        found = session.run_until(recipe, profile, workspace, progress, stage, metrics_port)
    print_found(found, json)
