"""The process that trains: `python -m training.worker < JOBS.json`, one LoRA adapter after another.

It lives for one list of jobs, so that torch's memory and threads end with it, and dies with the
process that started it. Events go to stdout as JSON lines (plan, step, done, error); whatever a
library prints goes to the job's train.log. An adapter is built in a hidden folder beside its
destination and renamed when complete: what stands at a destination is whole.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from factory.errors import DivergedError, FactoryError
from training.resume import close_partial

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Trains all jobs on stdin in order; 0 if every adapter stands, 1 after an error event."""
    plan = json.load(sys.stdin)
    die_with(plan["parent"])
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")

    try:
        set_threads(plan["num_threads"])
        from training import sft

        prepared = [sft.prepare(job) for job in plan["jobs"]]
        emit("plan", num_steps=[each.num_steps + each.num_judged_steps for each in prepared])
        for index, each in enumerate(prepared):
            write_log_to(Path(each.job["partial"]) / "train.log")
            sft.train(each, partial(emit, "step", job=index))
            close_partial(each.job)
            emit("done", job=index)
    except FactoryError as error:
        diverged = isinstance(error, DivergedError)
        emit("error", what=error.what, where=error.where, hint=error.hint, diverged=diverged)
        return 1
    return 0


def die_with(parent: int) -> None:
    """Asks Linux to kill this process when the one that started it ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def write_log_to(path: Path) -> None:
    """Points stderr, and stdout with it, at a job's own log."""
    with path.open("a") as log:
        sys.stderr.flush()
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)


def set_threads(num_threads: int | None) -> None:
    """As many threads as asked for, or as cores are free: more than that are slower than one."""
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    free = cores * (1 - psutil.cpu_percent(interval=0.2) / 100)
    torch.set_num_threads(num_threads or max(1, min(cores, round(free))))


if __name__ == "__main__":
    sys.exit(main())
