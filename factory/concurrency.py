"""How many calls one server gets at once, found out by asking: slots that grow and shrink.

Additive increase, and one multiplicative decrease for each burst of refusals (AIMD, as TCP does it):
every answer adds 1/limit, and once more than a tenth of a window of calls was refused the limit falls to 0.7
of itself, after which refusals of calls sent before the fall do not count again. The tolerated tenth
keeps an endpoint that refuses a steady few percent, whatever the load, from grinding to a halt. It knows
nothing of models or retries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

DECREASE = 0.7
TOLERATED_SHARE = 0.1


@dataclass(slots=True)
class Slot:
    """The right to have one call in flight; the holder sets `overloaded` if the server refused for load."""

    epoch: int
    answered: bool = False
    overloaded: bool = False


class AdaptiveLimit:
    """First come, first served slots of one server; constant time for each call, one event loop."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.num_in_flight = 0
        self._limit = float(maximum)
        self._epoch = 0
        self._window_finished = 0
        self._window_overloaded = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Calls that may be in flight now, at least 1."""
        return max(1, int(self._limit))

    def allow(self, maximum: int) -> None:
        """Raises the ceiling to `maximum` for a second role of the same server."""
        if maximum <= self.maximum:
            return
        if self._limit >= self.maximum:  # nothing was refused yet
            self._limit = float(maximum)
        self.maximum = maximum
        self._wake()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Waits for a slot and frees it at the end, on cancellation too."""
        await self._acquire()
        slot = Slot(self._epoch)
        try:
            yield slot
        finally:
            self._learn(slot)
            self._release()

    async def _acquire(self) -> None:
        if self.num_in_flight < self.limit and not self._waiting:
            self.num_in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come just before the cancellation: then the slot is ours to give back.
            if turn.done() and not turn.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        self.num_in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self.num_in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():  # done here means that its waiter was cancelled
                self.num_in_flight += 1
                turn.set_result(None)

    def _learn(self, slot: Slot) -> None:
        self._window_finished += 1
        if slot.answered:
            self._limit = min(float(self.maximum), self._limit + 1 / self._limit)
        elif slot.overloaded and slot.epoch == self._epoch:
            self._window_overloaded += 1
            if self._window_overloaded > TOLERATED_SHARE * self._limit:
                self._limit = max(1.0, self._limit * DECREASE)
                self._epoch += 1
                self._window_finished = self._window_overloaded = 0
        if self._window_finished >= self._limit:
            self._window_finished = self._window_overloaded = 0
