"""What `factory train` does outside the loop: an adapter from a dataset's file, and the plan of a training.

The trainer is the recipe's, by its registered name; what it learns is a file of chats, or a dataset that a
run has frozen, by its id. Nothing is stored: the adapter's folder says what it was made of.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from factory.errors import InputError, RecipeError
from factory.models.folders import find_model
from factory.needs import Needs
from factory.registry import create
from factory.session import open_domain

if TYPE_CHECKING:
    from factory.domain import Domain
    from factory.ports import PlanningTrainer, Trainer, TrainingPlan
    from factory.progress import Progress
    from factory.recipe import TrainingSpec
    from factory.sweep import SweepingTrainer

DATASET_ID = re.compile(r"dat_[0-9a-f]+")
Role = Literal["student", "refiner"]


class Trained(NamedTuple):
    """Whose training, of which recipe."""

    recipe: Path
    profile: str | None
    role: Role


def find_dataset(dataset: str, workspace: Path) -> Path:
    """A file as it is named, or the dataset of that id in the workspace.

    Raises InputError where there is none, or where the run has not written it yet.
    """
    path = Path(dataset)
    if DATASET_ID.fullmatch(dataset) and not path.exists():
        path = workspace / "datasets" / f"{dataset}.jsonl"
        hint = "the file is written when the round trains; `factory export` writes any dataset"
    else:
        hint = 'a JSONL file of {"messages": […]} lines, or an id such as dat_… of the workspace'
    if not path.is_file():
        raise InputError("there is no such dataset", where=str(path), hint=hint)
    return path


def train_on(trained: Trained, dataset: Path, directory: Path, progress: Progress) -> dict[str, Any]:
    """`factory train --dataset`: an adapter in `directory`; returns what was made."""
    domain = open_domain(trained.recipe, trained.profile, lambda _: Needs(trained=(trained.role,)))
    spec, trainer = _trainer(domain, trained.role)
    base, _ = find_model(domain.folder, spec.base)
    with progress.stage(f"train {trained.role}", None, "steps") as bar:
        adapter = trainer.train(dataset, base, directory, bar.update)
    made = {
        "adapter": str(adapter.path),
        "already_there": adapter.was_there,
        "digest": adapter.digest,
        "base": base,
        "dataset": str(dataset),
        "steps": adapter.num_steps,
        "loss": adapter.loss,
        "seconds": adapter.seconds,
    }
    looks = [
        (each["dev_loss"], each["step"]) for each in adapter.curve if each["step"] and "dev_loss" in each
    ]
    return {**made, **dict(zip(("dev_loss", "best_step"), min(looks), strict=True))} if looks else made


def plan(trained: Trained, dataset: Path | None, gpu: str | None) -> dict[str, Any]:
    """`factory train --plan`: memory by part, tokens, time, and what makes it fit; nothing is loaded."""
    domain = open_domain(trained.recipe, trained.profile)
    spec, trainer = _trainer(domain, trained.role)
    if not hasattr(trainer, "plan"):
        hint = "its package must offer `plan` (factory.ports.PlanningTrainer)"
        raise RecipeError(
            f"the trainer '{spec.name}' makes no plans", where=f"training.{trained.role}", hint=hint
        )
    planning = cast("PlanningTrainer", trainer)
    return as_data(planning.plan(dataset, spec.base, gpu))


def sweep(
    trained: Trained,
    dataset: Path,
    rates: Sequence[float],
    num_steps: int,
    output: Path | None,
    progress: Progress,
) -> dict[str, Any]:
    """`factory train --sweep`: a short training at each rate; the table, also as `output`/sweep.json."""
    from factory import sweep as sweeps

    domain = open_domain(trained.recipe, trained.profile, lambda _: Needs(trained=(trained.role,)))
    spec, trainer = _trainer(domain, trained.role)
    if not hasattr(trainer, "sweep"):
        hint = "its package must offer `sweep` (factory.sweep.SweepingTrainer)"
        raise RecipeError(
            f"the trainer '{spec.name}' makes no sweeps", where=f"training.{trained.role}", hint=hint
        )
    base, _ = find_model(domain.folder, spec.base)
    if output is not None:  # before anything is trained
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder cannot be made: {error.strerror}", where=str(output)) from error
    with progress.stage(f"sweep {trained.role}", None, "steps") as bar:
        made = cast("SweepingTrainer", trainer).sweep(dataset, base, rates, num_steps, bar.update)
    found = {"base": base, "dataset": str(dataset), "steps": num_steps, **sweeps.as_data(made)}
    if output is not None:
        (output / "sweep.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def as_data(made: TrainingPlan) -> dict[str, Any]:
    """A plan as it is printed: sizes in bytes, derived figures included."""
    return {
        "base": made.base,
        "device": made.device,
        "fits": made.fits,
        "bytes": made.num_bytes,
        "memory_bytes": made.memory_bytes,
        "change": dict(made.changes),
        "changed_bytes": made.changed_bytes,
        "steps": made.num_steps,
        "tokens": made.num_tokens,
        "tokens_per_second": made.tokens_per_second,
        "seconds": made.seconds,
        "lengths": None if made.lengths is None else made.lengths._asdict(),
        "refusals": list(made.refusals),
        "notes": list(made.notes),
        "parts": [part._asdict() for part in made.parts],
    }


def _trainer(domain: Domain, role: Role) -> tuple[TrainingSpec, Trainer]:
    spec = domain.recipe.training.get(role)
    if spec is None:
        raise InputError(f"no {role} is trained here", where=f"training.{role}", hint="add it to the profile")
    return spec, create("trainers", spec, domain, f"training.{role}")
