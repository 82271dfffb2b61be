"""Where else a learning curve goes while it is learned, by the recipe's choice: TensorBoard or Trackio.

Both are optional packages that write files on this machine: TensorBoard's events into the adapter's folder,
`tensorboard`, Trackio's database into a folder `trackio` beside it, for all adapters there. The store has
the curve anyway. transformers writes; where Trackio would send what it gets elsewhere, that is switched off.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from factory.errors import RecipeError

Tracker = Literal["tensorboard", "trackio"]
ELSEWHERE: Final = "TRACKIO_"  # what settings of it begin with: a space, a server, a webhook


def check_installed(tracker: Tracker | None) -> None:
    """Raises RecipeError where the tracker's package is not here."""
    if tracker is not None and find_spec(tracker) is None:
        hint = f"pip install 'dataset-factory[{tracker}]', or leave `tracker` out"
        raise RecipeError(f"the package {tracker} is not installed", where="tracker", hint=hint)


def trackers(job: Mapping[str, Any], phase: str) -> list[Any]:
    """The callbacks of a job for one phase of its training: one, or none."""
    tracker: Tracker | None = job["options"].get("tracker")
    if tracker == "tensorboard":
        from transformers.integrations import TensorBoardCallback

        callback = TensorBoardCallback()
        callback.logging_dir = str(Path(job["partial"]) / "tensorboard" / phase)
        return [callback]
    if tracker == "trackio":
        keep_here(Path(job["directory"]))
        from transformers.integrations import TrackioCallback

        return [TrackioCallback()]
    return []


def keep_here(directory: Path) -> None:
    """Has Trackio, before it is imported, write beside the adapter's folder and send nothing anywhere."""
    for name in [name for name in os.environ if name.startswith(ELSEWHERE)]:
        del os.environ[name]
    os.environ["TRACKIO_DIR"] = str(directory.with_name("trackio"))


def named_run(job: Mapping[str, Any], phase: str) -> dict[str, str]:
    """What a tracker calls this phase of a job, as fields of transformers' arguments."""
    return {"project": "dataset-factory", "run_name": f"{Path(job['directory']).name}-{phase}"}
