"""A training that was cut off goes on from its last checkpoint, but only as the same training.

Beside the adapter's destination a hidden folder holds what is not whole yet: the plan that it belongs to and,
of a long training, checkpoints by transformers' trainer. Nothing here loads torch.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

from factory.errors import TrainingRefused
from training.adapters import UNCOUNTED, differences

CHECKPOINTS: Final = "checkpoints"
PLAN: Final = "plan.json"
LAST_WRITTEN: Final = "before_epoch.pt"  # of a checkpoint, so that one that holds it is whole
IDENTIFYING: Final = ("options", "seed", "base", "base_digest", "dataset_digest", "dev_digest")


def open_partial(job: dict[str, Any]) -> None:
    """Makes the job's hidden folder, or keeps it where the very same training left a checkpoint in it.

    Raises TrainingRefused, with the fields that differ, where another training did.
    """
    partial = Path(job["partial"])
    plan = {name: job[name] for name in IDENTIFYING if name in job}
    plan["options"] = {name: value for name, value in job["options"].items() if name not in UNCOUNTED}
    if newest_checkpoint(partial) is not None:
        found = _read_plan(partial)
        if {**found, "base": plan["base"]} != plan:  # it may lie elsewhere now
            raise TrainingRefused(
                f"another training was cut off here, of another {' and '.join(differences(found, job))}",
                where=str(partial),
                hint="train into another folder, or delete this one to give its checkpoints up",
            )
        return
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / PLAN).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        what = f"the adapter cannot be written: {error.strerror or error}"
        raise TrainingRefused(what, where=job["directory"]) from error


def newest_checkpoint(partial: Path) -> Path | None:
    """The last checkpoint that was written to its end."""
    found = [path.parent for path in (partial / CHECKPOINTS).glob(f"checkpoint-*/{LAST_WRITTEN}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def step_of(partial: Path) -> int:
    """The step at which a training goes on from there, counted from its beginning; 0 without a checkpoint."""
    checkpoint = newest_checkpoint(partial)
    return 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])


def close_partial(job: dict[str, Any]) -> None:
    """Puts the whole adapter in its place, without checkpoints."""
    partial = Path(job["partial"])
    shutil.rmtree(partial / CHECKPOINTS, ignore_errors=True)
    (partial / PLAN).unlink(missing_ok=True)
    partial.rename(job["directory"])


def _read_plan(partial: Path) -> dict[str, Any]:
    try:
        found = json.loads((partial / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
