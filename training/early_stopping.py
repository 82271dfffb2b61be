"""Early stopping: the loss over dev while a student trains, and the best adapter kept.

Dev are the gold items that steer the loop, each as the chat in which a student is asked it, with its right
answer; test is never looked at. Looking draws no random number, so that a training that is watched is the
same as one that is not, as far as it goes. What was found is part of each checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from transformers import TrainerCallback

from factory.errors import TrainingRefused
from training import ranks
from training.resume import CHECKPOINTS, newest_checkpoint
from training.splitting import fitting
from training.tokens import IGNORED, Chat, Row, tokenize

FILE: Final = "early_stopping.pt"  # of a checkpoint


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Looks at dev before the first step, every so many and after the last one.

    It is made before the trainer that calls it, which is to be set as `trainer`.
    """

    trainer: Any

    def __init__(self, options: dict[str, Any], rows: Sequence[Row], partial: Path) -> None:
        self._patience, self._every = options["patience"], options["every_steps"]
        self._min_gain = options["min_gain"]
        self._rows = sorted(rows, key=lambda row: len(row.input_ids))  # less padding
        self._partial = partial
        self._best = {"loss": math.inf, "step": 0, "num_vain": 0}
        self._weights: dict[str, torch.Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        left = newest_checkpoint(self._partial)
        if left is not None:
            found = torch.load(left / FILE, weights_only=True)
            self._best, self._weights = found["best"], found["weights"]
        else:
            self._look(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self._every and state.global_step != state.max_steps:
            return
        loss = self._look(control)
        num_vain = 0 if loss < self._best["loss"] - self._min_gain else self._best["num_vain"] + 1
        if loss < self._best["loss"]:
            self._best = {"loss": loss, "step": state.global_step}
            self._weights = {name: value.detach().cpu().clone() for name, value in self._trained()}
        self._best["num_vain"] = num_vain
        if num_vain >= self._patience:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not ranks.is_first():
            return
        folder = self._partial / CHECKPOINTS / f"checkpoint-{state.global_step}"
        torch.save({"best": self._best, "weights": self._weights}, folder / FILE)

    def finish(self) -> dict[str, Any]:
        """Gives the model the best adapter that was seen; returns what to record."""
        for name, value in self._trained():
            if name in self._weights:
                value.data.copy_(self._weights[name])
        return {"best_step": self._best["step"], "best_dev_loss": self._best["loss"]}

    def _trained(self) -> list[tuple[str, Any]]:
        named = self.trainer.model.named_parameters()
        return [(name, value) for name, value in named if value.requires_grad]

    def _look(self, control: Any) -> float:
        """The loss over dev, which is logged with this step's."""
        model, will_log = self.trainer.model, control.should_log
        model.eval()  # `check_quantized` sees to it that a 4-bit base stands this
        loss = ranks.of_first(mean_loss(self.trainer, self._rows))  # all must stop at the same step
        self.trainer.log({"eval_loss": loss})
        model.train()
        control.should_log = will_log  # which logging has put out
        return loss


def dev_rows(chats: Sequence[Chat], tokenizer: Any, stop_ids: set[int], options: dict[str, Any]) -> list[Row]:
    """The chats of dev in tokens; raises TrainingRefused where one could not be learned either."""
    chats, split = list(fitting(chats, tokenizer, options)), options.get("split_long", False)
    try:
        return tokenize(chats, tokenizer, stop_ids, options["max_length"], split=split)
    except TrainingRefused as error:
        where = error.where.replace("the dataset", "dev")
        raise TrainingRefused(f"of dev, {error.what}", where=where, hint=error.hint) from error


def mean_loss(trainer: Any, rows: Sequence[Row]) -> float:
    """The loss per learned token over rows, by the trainer's own loss in batches of its size."""
    size, total, num_learned = trainer.args.per_device_train_batch_size, 0.0, 0
    with torch.no_grad(), trainer.compute_loss_context_manager():
        for start in range(0, len(rows), size):
            batch = trainer.data_collator([row._asdict() for row in rows[start : start + size]])
            learned = int((batch["labels"][..., 1:] != IGNORED).sum())
            loss = trainer.compute_loss(trainer.model_wrapped, trainer._prepare_inputs(batch))
            total += float(loss) * learned
            num_learned += learned
    return total / num_learned
