"""The process that trains: `python -m training.worker < JOBS.json`, one LoRA adapter after another.

It lives for one list of jobs, so that torch's memory and threads end with it, and dies with the
process that started it. Events go to stdout as JSON lines (plan, step, done, error); whatever a
library prints goes to the job's train.log. An adapter is built in a hidden folder beside its
destination and renamed when complete: what stands at a destination is whole. Where several train together
(`training.launch` starts them), only the first reports and writes; an error each may report.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import stat
import sys
from functools import partial
from pathlib import Path
from typing import Any

from factory.errors import FactoryError, TrainingError
from training.reported import told
from training.resume import close_partial
from training.stopping import WISH, Stopped

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> int:
    """Trains all jobs on stdin in order; 0 if all stand or it was asked to stop, 1 after an error."""
    WISH.listen()
    plan = json.loads(read_plan())
    die_with(plan["parent"])
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    options = plan["jobs"][0]["options"]
    num_processes = options.get("processes", 1)

    def emit(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")

    try:
        set_threads(plan["num_threads"], num_processes)
        from training import ranks

        ranks.join(options)  # refuses what it must before the rest loads
        from training import sft

        report = emit if ranks.is_first() else ignore
        prepared = [sft.prepare(job) for job in plan["jobs"]]
        report("plan", num_steps=[each.num_steps + each.num_judged_steps for each in prepared])
        for index, each in enumerate(prepared):
            write_log_to(Path(each.job["partial"]) / "train.log")
            stopped_early = sft.train(each, partial(report, "step", job=index))
            if ranks.is_first():
                close_partial(each.job)
            report("done", job=index, **stopped_early)
        ranks.leave()
    except Stopped:
        return 0
    except FactoryError as error:
        emit("error", **told(error))
        return 1
    except Exception as error:
        if num_processes > 1:  # the log's end may be another's
            what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            emit("error", **told(TrainingError(what)), process=int(os.environ["RANK"]))
        raise
    return 0


def read_plan() -> str:
    """All of stdin; several processes share a file there, and each reads it from its beginning."""
    found = os.fstat(0)
    if stat.S_ISREG(found.st_mode):
        return os.pread(0, found.st_size, 0).decode()
    return sys.stdin.read()


def ignore(_event: str, **_values: Any) -> None:
    """What all but the first do with an event."""


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


def set_threads(num_threads: int | None, num_processes: int = 1) -> None:
    """As many threads as asked for, or its share of the cores that are free: more are slower than one."""
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    free = cores * (1 - psutil.cpu_percent(interval=0.2) / 100)
    torch.set_num_threads(num_threads or max(1, min(cores, round(free)) // num_processes))


if __name__ == "__main__":
    sys.exit(main())
