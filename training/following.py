"""What the factory sees of the worker's events: steps done in all jobs, and in words what happens to them.

Nothing here starts or ends a process; `training.qlora` reads the events and hands them on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.ports import OnProgress
from training.reported import heard
from training.resume import step_of


class Follower:
    """Tells `on_progress` of a list of jobs, one after another; `num_done` of them are whole."""

    def __init__(self, jobs: Sequence[dict[str, Any]], on_progress: OnProgress) -> None:
        self.num_done = 0
        self._jobs, self._on_progress = jobs, on_progress
        self._totals = [0] * len(jobs)
        self._step = 0
        self._left = step_of(Path(jobs[0]["partial"]))
        on_progress(0, None, "loads libraries")

    def take(self, line: str) -> None:
        """Passes one event on; raises the error that it reports."""
        event = json.loads(line)
        if event["event"] == "plan":
            self._totals = event["num_steps"]
            self._begin()
        elif event["event"] == "step":
            self._totals[event["job"]], self._step = event["of"], event["step"]
            loss = "no loss yet" if math.isnan(event["loss"]) else f"loss {event['loss']:.3f}"
            self.tell(loss + (f", went on at step {self._left:,}" if self._left else ""))
        elif event["event"] == "done":
            self._end(event)
        else:
            raise heard(event)

    def tell(self, detail: str) -> None:
        """How far the jobs are, with these words."""
        total = sum(self._totals)
        self._on_progress(sum(self._totals[: self.num_done]) + self._step, total or None, detail)

    def tell_what_is_left(self) -> None:
        """Where the training that was stopped will go on."""
        job = self._jobs[min(self.num_done, len(self._jobs) - 1)]
        step = step_of(Path(job["partial"]))
        if Path(job["directory"]).exists():
            self.tell("it had come to its end, and the adapter stands")
        else:
            self.tell(f"goes on at step {step:,}" if step else "no checkpoint yet: starts again")

    def _end(self, event: dict[str, Any]) -> None:
        self._totals[self.num_done] = self._step
        if "planned" in event:
            best, planned = event["best_step"], event["planned"]
            self.tell(f"stopped early, of {planned:,} planned: dev was best at step {best:,}")
        self.num_done += 1
        self._step = self._left = 0

    def _begin(self) -> None:
        if self._left:
            self._step = self._left
            detail = f"goes on at step {self._left:,}"
            self._on_progress(self._left, sum(self._totals), detail, earlier=self._left)
        else:
            self.tell("the base loads")
