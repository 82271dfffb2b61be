"""`factory train`: the next student of a run, an adapter from a file, or the plan of either."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
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
from factory.commands.output import open_progress, print_found

TINY = "recipes/georgia_workers_comp --profile tiny"
GIB = 2**30


class Trained(StrEnum):
    """Roles that can be trained."""

    student = "student"
    refiner = "refiner"


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    app.command(epilog=f"Example: factory train {TINY} --plan --gpu l40s")(train)


def train(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    recipe: RecipePath,
    profile: Profile = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    role: Annotated[Trained, typer.Option("--role", help="Which model to train.")] = Trained.student,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", help="JSONL file of chats, or a dataset's id in the workspace; not the run's next."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the adapter, of --dataset or of --role refiner."),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Say what it would need and take, and what to change; trains nothing."),
    ] = False,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", help="Plan for this card, such as l4, l40s, a100 or h100; else this machine."),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option("--sweep", help="Learning rates to try out briefly on --dataset, as 1e-4,3e-4,1e-3."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Steps of --sweep at each rate; 40 by default.")
    ] = None,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Train the next student, or the refiner, or either on a dataset of your own; or plan it.

    The student is that of the first round without one; the refiner learns from `gold.refiner`. With
    --dataset the role's base is trained on that file into --output, as its options in the recipe say. With
    --plan nothing is loaded: memory by part, tokens and time are estimated from the base's config.json.
    With --sweep a tenth of --dataset is held out and its loss compared; no adapter is kept.
    """
    if steps is not None and sweep is None:
        raise typer.BadParameter("--steps goes with --sweep; training's are an option of the recipe")
    if sweep is not None:
        if plan or gpu is not None or dataset is None:
            raise typer.BadParameter("--sweep needs --dataset, and goes with neither --plan nor --gpu")
        _sweep(recipe, profile, role, dataset, workspace, output, _rates(sweep), steps or 40, json, log)
        return
    if gpu is not None and not plan:
        raise typer.BadParameter("--gpu goes with --plan; training takes this machine's")
    if plan:
        if output is not None:
            raise typer.BadParameter("--plan writes nothing, so it takes no --output")
        _plan(recipe, profile, role, dataset, workspace, gpu, json)
        return
    if dataset is not None:
        if output is None:
            raise typer.BadParameter("--dataset needs --output, the adapter's folder")
        print_found(_train_on(recipe, profile, role, dataset, workspace, output, json, log), json)
        return
    from factory import session

    if role is Trained.student:
        if output is not None:
            what = "--output goes with --dataset or --role refiner; a run's students stay in its workspace"
            raise typer.BadParameter(what)
        with open_progress(json, log) as progress:
            found = session.run_until(recipe, profile, workspace, progress, "train")
    else:
        with open_progress(json, log) as progress:
            directory = output or workspace / "adapters" / "refiner"
            found = session.train_refiner(recipe, profile, directory, progress)
    print_found(found, json)


def _train_on(
    recipe: Path,
    profile: str | None,
    role: Trained,
    dataset: str,
    workspace: Path,
    output: Path,
    json: bool,
    log: LogFormat,
) -> dict[str, Any]:
    from factory import training_session

    path = training_session.find_dataset(dataset, workspace)
    with open_progress(json, log) as progress:
        trained = training_session.Trained(recipe, profile, role.value)
        return training_session.train_on(trained, path, output, progress)


def _rates(text: str) -> list[float]:
    """The rates of --sweep, as they were given."""
    try:
        rates = [float(each) for each in text.split(",")]
    except ValueError:
        rates = []
    if len(set(rates)) < max(2, len(rates)) or not all(0 < rate < math.inf for rate in rates):
        raise typer.BadParameter("--sweep takes two or more different rates above 0, as 1e-4,3e-4,1e-3")
    return rates


def _sweep(  # noqa: PLR0913, PLR0917 (as the command)
    recipe: Path,
    profile: str | None,
    role: Trained,
    dataset: str,
    workspace: Path,
    output: Path | None,
    rates: list[float],
    steps: int,
    json: bool,
    log: LogFormat,
) -> None:
    from factory import training_session
    from factory.screen import print_json

    path = training_session.find_dataset(dataset, workspace)
    with open_progress(json, log) as progress:
        trained = training_session.Trained(recipe, profile, role.value)
        found = training_session.sweep(trained, path, rates, steps, output, progress)
    if json:
        print_json(found)
    else:
        _print_sweep(found)


def _print_sweep(found: dict[str, Any]) -> None:
    from factory.screen import print_table, print_text

    rows = [
        (
            f"{each['learning_rate']:g}",
            "no number" if each["loss"] is None else f"{each['loss']:.4f}",
            "yes" if each["diverged"] else "no",
            each["seconds"],
        )
        for each in found["rates"]
    ]
    print_table(("rate", "loss on held-out", "diverged", "seconds"), rows)
    before = found["rates"][0]["loss_before"]
    started = "" if before is None else f", whose loss was {before:.4f} before"
    print_text(
        f"{found['steps']} steps on {found['samples']:,} samples, {found['held_out']:,} held out{started}"
    )
    print_text(found["advice"])


def _plan(
    recipe: Path,
    profile: str | None,
    role: Trained,
    dataset: str | None,
    workspace: Path,
    gpu: str | None,
    json: bool,
) -> None:
    from factory import training_session
    from factory.screen import print_json

    path = None if dataset is None else training_session.find_dataset(dataset, workspace)
    found = training_session.plan(training_session.Trained(recipe, profile, role.value), path, gpu)
    if json:
        print_json(found)
    else:
        _print_plan(found)


def _print_plan(found: dict[str, Any]) -> None:
    from factory.progress import clock
    from factory.screen import print_table, print_text

    needed, there = found["bytes"] / GIB, found["memory_bytes"] / GIB
    verdict = "it fits" if found["fits"] else "it does not fit"
    if found["refusals"]:
        verdict = f"{'but' if found['fits'] else 'it does not fit, and'} training refuses this"
    print_text(f"{found['base']} on {found['device']}: {needed:.2f} of {there:.2f} GiB, {verdict}")
    for refusal in found["refusals"]:
        print_text(refusal)
    if found["change"]:
        words = ", ".join(f"{name}: {_yaml(value)}" for name, value in found["change"].items())
        print_text(f"it fits with {words} ({found['changed_bytes'] / GIB:.2f} GiB)")
    elif not found["fits"]:
        print_text(
            "no smaller batch, checkpointing, 4 bit, rank or max_length makes it fit: take a smaller base"
        )
    rows = [(part["name"], round(part["num_bytes"] / GIB, 3), part["detail"]) for part in found["parts"]]
    print_table(("part", "GiB", "what"), rows)
    if lengths := found["lengths"]:
        print_text(
            f"{lengths['num_samples']:,} samples of {lengths['mean']:,.0f} tokens on average, the longest "
            f"{lengths['longest']:,}; {lengths['num_refused']:,} refused, none cut"
        )
    if found["tokens"]:
        print_text(f"{found['steps']:,} steps over {found['tokens']:,} tokens")
    if found["tokens_per_second"]:
        time = f", {clock(found['seconds'])} in all" if found["seconds"] else ""
        print_text(f"about {found['tokens_per_second']:,.0f} tokens a second{time}")
    for note in found["notes"]:
        print_text(f"note: {note}")


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
