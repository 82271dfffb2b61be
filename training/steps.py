"""What a trainer in the worker tells of each step, and where it ends a training that went wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from factory.errors import DivergedError
from training.resume import newest_checkpoint

OnStep = Callable[..., None]  # called with step, of (their number) and loss


class Steps(TrainerCallback):  # type: ignore[misc]
    """Reports each step with the last known loss; so many steps came before these, and so many come after."""

    def __init__(self, on_step: OnStep, partial: Path, before: int = 0, after: int = 0) -> None:
        self.on_step, self.partial, self.before, self.after = on_step, partial, before, after

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        loss = next((log["loss"] for log in reversed(state.log_history) if "loss" in log), math.nan)
        of = self.before + state.max_steps + self.after
        self.on_step(step=self.before + state.global_step, of=of, loss=float(loss))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raises DivergedError as soon as the loss is no number: nothing good comes of it any more."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            what = f"the loss became {loss} at step {self.before + state.global_step}, so training stopped"
            rate = "preference.learning_rate" if self.before else "learning_rate"
            kept = newest_checkpoint(self.partial)
            saved = f"what was learned before is in {kept}" if kept else "nothing is saved of it"
            raise DivergedError(what, hint=f"lower {rate}; {saved}")
