"""Runs a command and outlives nobody: when the factory goes, the command and all that came of it go too.

    python -m factory.models.guard -- COMMAND...

The factory holds the other end of standard input, so that the pipe closes however it ends, kill -9
included. The command runs in a session of its own, where a terminal's Ctrl-C does not reach it; it gets the
descriptors that FACTORY_PASSED_ON names. Standard library only, so that it starts at once; on Linux also
processes that left the group are found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

TERM_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.5
ENDED_BY_SIGNAL: Final = 128
PASSED_ON: Final = "FACTORY_PASSED_ON"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


class Guard:
    """One command: its children's exit states, and whether it is time to end."""

    def __init__(self, command: list[str]) -> None:
        self.factory = os.getppid()
        self.told_to_stop = False
        self.state: int | None = None  # of the command, as waitpid gives it
        set_process_control = _find_prctl()
        set_process_control(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the command become our children
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        self.command = subprocess.Popen(  # noqa: S603 (there is one thread)
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=[int(number) for number in os.environ.pop(PASSED_ON, "").split()],
            preexec_fn=lambda: set_process_control(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509
        )

    def run(self) -> int:
        """The command's exit code once it has ended, by itself or by us, and nothing of it is left."""
        while self.state is None and not self.told_to_stop:
            self._look_at_pipe()
            self._reap()
        self._end_all()
        if self.state is None:
            return 0
        code = os.waitstatus_to_exitcode(self.state)
        return code if code >= 0 else ENDED_BY_SIGNAL - code

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.told_to_stop = True

    def _look_at_pipe(self) -> None:
        """Waits a moment for the end of input; a parent that changed means the same."""
        ready, _, _ = select.select([0], [], [], POLL_SECONDS)
        if (ready and not os.read(0, 4096)) or os.getppid() != self.factory:
            self.told_to_stop = True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, state = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.command.pid:
                    self.state = state

    def _end_all(self) -> None:
        """TERM to everything, KILL to what is left after five seconds."""
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + TERM_SECONDS
        while self._anything_left() and time.monotonic() < deadline:
            time.sleep(0.05)
        while self._anything_left():
            self._signal_all(signal.SIGKILL)
            time.sleep(0.02)

    def _anything_left(self) -> bool:
        self._reap()
        if find_descendants(os.getpid()):
            return True
        try:
            os.killpg(self.command.pid, 0)
        except OSError:
            return False
        return True

    def _signal_all(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):
            os.killpg(self.command.pid, number)
        for pid in find_descendants(os.getpid()):
            with contextlib.suppress(OSError):
                if os.getpgid(pid) != self.command.pid:  # the others have it from above, and once is enough
                    os.kill(pid, number)


def find_descendants(pid: int) -> set[int]:
    """Processes that descend from `pid`, read from /proc; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name, in parentheses, may hold anything; what follows the last one is plain.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: set[int] = set()
    to_visit = [pid]
    while to_visit:
        for child in children.get(to_visit.pop(), []):
            if child not in found:
                found.add(child)
                to_visit.append(child)
    return found


def _find_prctl() -> Callable[[int, int], object]:
    """Linux's prctl(2), found before the fork; elsewhere something that does nothing."""
    try:
        found = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return lambda _option, _value: None

    def call(option: int, value: int) -> object:
        return found(option, ctypes.c_ulong(value), 0, 0, 0)

    return call


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(Guard(arguments[1:] if arguments[:1] == ["--"] else arguments).run())
