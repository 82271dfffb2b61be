"""How a training is asked to stop and keeps what it learned: the worker's side of SIGTERM.

While a training can write checkpoints, the signal only leaves a wish; the next step whose loss is logged is
saved, and `Stopped` ends the training there, so that it goes on to the same bits. At any other time, while
libraries load or nothing can be saved, the signal ends the process at once.
"""

from __future__ import annotations

import os
import signal
from typing import Any


class Stopped(Exception):
    """A training was ended because it was asked to; a checkpoint holds what it learned."""


class Wish:
    """Whether somebody asked this process to stop, and whether it may first save what it learned."""

    def __init__(self) -> None:
        self.is_there = False
        self.can_save = False

    def listen(self) -> None:
        """From here on SIGTERM is a wish."""
        signal.signal(signal.SIGTERM, self._take)

    def _take(self, number: int, _frame: Any) -> None:
        if not self.can_save:
            os._exit(128 + number)
        self.is_there = True


WISH = Wish()  # signals are of a process, and so is this
