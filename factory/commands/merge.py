"""The command that makes one model of a student's adapter and its base."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from factory.commands.arguments import AsJson, Log, LogFormat
from factory.commands.output import open_progress, print_found


class Dtype(StrEnum):
    """Types in which a merged model can be saved."""

    bfloat16 = "bfloat16"
    float16 = "float16"


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    app.command(epilog="Example: factory merge workspace --output merged")(merge)


def merge(  # noqa: PLR0913, PLR0917 (each is an option of the command)
    workspace: Annotated[Path, typer.Argument(help="Folder of the run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder that is new or empty.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Id of a student; else the one promoted last.")
    ] = None,
    base: Annotated[
        Path | None, typer.Option("--base", help="Where the base lies now, if it was moved.")
    ] = None,
    dtype: Annotated[Dtype, typer.Option("--dtype", help="Of the weights that are saved.")] = Dtype.bfloat16,
    chats: Annotated[
        int, typer.Option("--chats", min=1, max=1000, help="Questions of dev to compare on.")
    ] = 64,
    max_difference: Annotated[
        float,
        typer.Option(
            "--max-difference",
            min=0.0,
            help="Of logits, as a share of their spread; beyond it nothing is saved.",
        ),
    ] = 0.03,
    json: AsJson = False,
    log: Log = LogFormat.text,
) -> None:
    """Merge a student's adapter into its base: one model with tokenizer, template and card.

    It is compared with the adapter on the base that it was trained on, question by question of dev: along the
    adapter's own greedy answers, and along the question and the expected answer.
    """
    from factory.merge import HowToMerge
    from factory.merge import merge as write
    from factory.store.queries import Reader

    progress = open_progress(json, log)
    how = HowToMerge(model, base, dtype.value, chats, max_difference)
    with Reader(workspace) as reader:
        found = write(reader, workspace, output, progress, how)
    if not json:
        along = found["comparison"]
        names = next(iter(along.values()))
        found["comparison"] = [{"figure": n} | {k: along[k][n] for k in along} for n in names]
    print_found(found, json)
