"""A sweep over learning rates with QLoRA: a short training each, in folders that are gone afterwards.

A tenth of the dataset's lines, drawn at random, is held out; the loss over it stands in each training's
curve as that over dev would. Trainings read the file itself, so what they refuse is named by its line. Each
rate has a process of its own, since one that diverges ends it.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from factory.errors import DivergedError, RecipeError, TrainingRefused
from factory.ports import OnProgress
from factory.sweep import Sweep, SweptRate
from training.chats import read_lines
from training.options import EarlyStoppingOptions, QLoRAOptions
from training.qlora import QLoRA, TrainingJob

HELD_OUT: Final = 0.1  # of the samples
MAX_HELD_OUT: Final = 200  # more would not tell two rates apart better
LOOKS: Final = 4


def sweep(
    trainer: QLoRA,
    dataset: Path,
    base: str,
    rates: Sequence[float],
    num_steps: int,
    on_progress: OnProgress,
) -> Sweep:
    """Trains at each rate; raises TrainingRefused for what cannot be learned, RecipeError for fsdp."""
    if trainer.options.parallel == "fsdp":
        what = "a sweep looks at held-out samples, which needs the whole base on each GPU"
        raise RecipeError(what, where="parallel", hint="sweep with parallel: ddp")
    learned, held_out = split(dataset, trainer.domain.recipe.seed)
    found: list[SweptRate] = []
    with tempfile.TemporaryDirectory() as name:
        for number, rate in enumerate(rates):
            one = type(trainer)(short(trainer.options, rate, num_steps), trainer.domain)
            job = TrainingJob(dataset, base, Path(name) / f"rate_{number}", held_out)
            report = partial(_report, on_progress, number * num_steps, len(rates) * num_steps, f"{rate:g}")
            started = time.monotonic()
            try:
                curve = one.train_all([job], report)[0].curve
                looks = [(point["step"], point["dev_loss"]) for point in curve if "dev_loss" in point]
            except DivergedError:
                looks = [(0, math.nan)]
            found.append(_swept(rate, looks, num_steps, time.monotonic() - started))
    before = next((each.loss_before for each in found if each.loss_before is not None), None)
    return Sweep(tuple(each._replace(loss_before=before) for each in found), len(learned), len(held_out))


def split(dataset: Path, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of lines that hold chats, from 1: those to learn, and those held out, at least one."""
    chats = [number for number, where, line in read_lines(dataset) if "messages" in _read(line, where)]
    if len(chats) < 2:
        hint = "one to learn and one to hold out at least"
        raise TrainingRefused(f"a sweep needs more than {len(chats)} samples", where=str(dataset), hint=hint)
    Random(seed).shuffle(chats)  # noqa: S311 (an order)
    num_held_out = min(max(1, round(HELD_OUT * len(chats))), MAX_HELD_OUT)
    return chats[num_held_out:], chats[:num_held_out]


def _read(line: str, where: str) -> Mapping[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise TrainingRefused("not a line of JSON", where=where) from error
    if not isinstance(found, dict) or not {"messages", "prompt"} & found.keys():
        raise TrainingRefused("neither a chat nor a judged answer", where=where)
    return found


def short(options: QLoRAOptions, rate: float, num_steps: int) -> QLoRAOptions:
    """The options with this rate, for so many steps, with looks at held-out chats and nothing after them."""
    watched = EarlyStoppingOptions(patience=num_steps + 1, every_steps=math.ceil(num_steps / LOOKS))
    changed = {"learning_rate": rate, "max_steps": num_steps, "num_epochs": None}
    return options.model_copy(
        update={**changed, "preference": None, "tracker": None, "early_stopping": watched}
    )


def _swept(rate: float, looks: Sequence[tuple[int, float]], num_steps: int, seconds: float) -> SweptRate:
    first, last = looks[0][1], looks[-1][1]
    before, loss = (value if math.isfinite(value) else None for value in (first, last))
    return SweptRate(rate, before, loss, num_steps, round(seconds, 1))


def _report(
    on_progress: OnProgress, before: int, of: int, rate: str, done: int, _: int, loss: str = ""
) -> None:
    on_progress(before + done, of, f"at {rate} {loss}".strip())
