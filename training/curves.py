"""The learning curve of a training: what its trainer logged, a point a step, as the store keeps it.

A point holds `phase` (sft, dpo or kto) and `step`, and what was logged there. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from factory.types import Json

Point = dict[str, Json]
# What transformers' trainer calls it → the column of `training_steps`.
LOGGED: Final = {
    "epoch": "epoch",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "num_tokens": "num_tokens",
    "eval_loss": "dev_loss",
}


def curve_of(history: Iterable[Mapping[str, Any]], phase: str) -> list[Point]:
    """The points of a trainer's `log_history`, one for each step at which a loss was logged, in order."""
    points: dict[int, Point] = {}
    for log in history:
        if "loss" in log or "eval_loss" in log:
            step = int(log["step"])
            point = points.setdefault(step, {"phase": phase, "step": step})
            point |= {column: log[name] for name, column in LOGGED.items() if name in log}
    for point in points.values():
        if "num_tokens" in point:
            point["num_tokens"] = int(point["num_tokens"])
    return [points[step] for step in sorted(points)]


def read_curve(found: Iterable[Any]) -> tuple[Point, ...]:
    """The curve of a training.json, whose points were pairs of step and loss in earlier versions."""
    return tuple(
        each if isinstance(each, dict) else {"phase": "sft", "step": each[0], "loss": each[1]}
        for each in found
    )
