"""When a training in the worker writes a checkpoint, and what transformers' trainer leaves out of one.

Its trainer draws the order of an epoch's samples when the epoch begins and does not keep what it drew from:
a training that goes on within an epoch would go through it in another order. Where checkpoints lie, and whose
they are, is `training.resume`'s. Of several processes the first draws and decides for all: dropout
drawn on a processor takes their generators apart, and each would go through its own order, learning samples
twice or never.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_pt_utils import safe_globals

from training import ranks
from training.resume import CHECKPOINTS, LAST_WRITTEN, newest_checkpoint
from training.stopping import WISH, Stopped


def tokens_before(checkpoint: Path | None) -> int:
    """Tokens learned from up to a checkpoint, which TRL does not count on from; 0 where there is none."""
    if checkpoint is None:
        return 0
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return int(max((log.get("num_tokens", 0) for log in state["log_history"]), default=0))


class Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint when a loss is logged that is a number and the last is so many seconds old.

    Where somebody asked the training to stop, it asks for one at once, and what was saved raises `Stopped`.
    """

    def __init__(self, every_seconds: float, partial: Path) -> None:
        self._every_seconds, self._partial = every_seconds, partial
        self._last = time.monotonic()
        self._before_epoch = torch.empty(0)
        self._left = newest_checkpoint(partial)
        self._stops = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        WISH.can_save = math.isfinite(self._every_seconds)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        WISH.can_save = False

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._left is not None:
            of_trainer = "rng_state.pth" if ranks.count() == 1 else "rng_state_0.pth"
            file = self._left / (of_trainer if is_between_epochs(state) else LAST_WRITTEN)
            with safe_globals():  # the trainer's file holds numpy's state too
                torch.set_rng_state(torch.load(file, weights_only=True)["cpu"])
            self._left = None
        self._before_epoch = draw_alike()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        values = [logs[name] for name in ("loss", "grad_norm") if name in logs]
        is_good = bool(values) and all(math.isfinite(value) for value in values)
        # What an early stop left is not to be gone on from: the last checkpoint before it leads there again.
        stops_early = control.should_training_stop and state.global_step < state.max_steps
        if not is_good or stops_early:
            return
        age = time.monotonic() - self._last
        is_due, is_asked = ranks.of_first((age >= self._every_seconds, WISH.is_there))
        self._stops = is_asked and state.global_step < state.max_steps
        if is_due or self._stops:
            control.should_save = True
            self._last = time.monotonic()
            if is_between_epochs(state):  # then the trainer begins the next from what each has saved
                draw_alike()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        ranks.wait()  # each writes the state of its own generator
        if ranks.is_first():
            self._complete(state)
        if self._stops:
            ranks.wait()
            raise Stopped

    def _complete(self, state: Any) -> None:
        folder = self._partial / CHECKPOINTS / f"checkpoint-{state.global_step}"
        torch.save({"cpu": self._before_epoch}, folder / f".{LAST_WRITTEN}")
        (folder / f".{LAST_WRITTEN}").rename(folder / LAST_WRITTEN)


def is_between_epochs(state: Any) -> bool:
    """Whether an epoch is at its end and the next has not begun."""
    return math.isclose(state.epoch, round(state.epoch), abs_tol=1e-9)


def draw_alike() -> torch.Tensor:
    """Sets the generator of all processes to where the first's is, and returns that."""
    state = ranks.of_first(torch.get_rng_state())
    torch.set_rng_state(state)
    return state
