"""How many calls one server gets at once, found out by asking: slots that grow and shrink.

Additive increase, and one multiplicative decrease for each burst of refusals (AIMD, as TCP does it):
every answer adds 1/limit, and once more than a tenth of a window of calls was refused the limit falls to 0.7
of itself, after which refusals of calls sent before the fall do not count again. The tolerated tenth
keeps an endpoint that refuses a steady few percent, whatever the load, from grinding to a halt. What came
of calls also says whether the server is up. It knows nothing of models or retries.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from types import TracebackType
from typing import Self

DECREASE = 0.7
TOLERATED_SHARE = 0.1
# A server is up where it answered anyone in the last second, or since the call in question was sent, and no
# more than a quarter of the latest calls failed: then a failure is that call's bad luck.
UP_SECONDS = 1.0
MAX_FAILING_SHARE = 0.25
NUM_LATEST = 64


class Slot:
    """The right to have one call in flight, while the context is open; freed on cancellation too.

    Its holder sets `answered`, or `failed` if another attempt may fare better, and `overloaded` too if the
    server refused for load.
    """

    __slots__ = ("_limit", "answered", "epoch", "failed", "first", "overloaded")

    def __init__(self, limit: AdaptiveLimit, first: bool) -> None:
        self._limit = limit
        self.first = first
        self.epoch = 0
        self.answered = self.failed = self.overloaded = False

    async def __aenter__(self) -> Self:
        await self._limit.take(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit.give_back(self)


class AdaptiveLimit:
    """First come, first served slots of one server; constant time for each call, one event loop."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.num_in_flight = 0
        self._limit = float(maximum)
        self._epoch = 0
        self._answered_at = -math.inf
        self._failing_share = 0.0  # of the latest calls, older ones counting less
        self._window_finished = 0
        self._window_overloaded = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """Calls that may be in flight now, at least 1."""
        return max(1, int(self._limit))

    def is_up(self, sent_at: float) -> bool:
        """Whether the server fares well, as far as others tell than a call sent at `sent_at` (monotonic)."""
        answers = self._answered_at > min(sent_at, time.monotonic() - UP_SECONDS)
        return answers and self._failing_share <= MAX_FAILING_SHARE

    def allow(self, maximum: int) -> None:
        """Raises the ceiling to `maximum` for a second role of the same server."""
        if maximum <= self.maximum:
            return
        if self._limit >= self.maximum:  # nothing was refused yet
            self._limit = float(maximum)
        self.maximum = maximum
        self._wake()

    def slot(self, *, first: bool = False) -> Slot:
        """A slot to be entered; `first`: before all that wait, for a call that had its turn already."""
        return Slot(self, first)

    async def take(self, slot: Slot) -> None:
        """Waits for the slot's turn."""
        await self._acquire(slot.first)
        slot.epoch = self._epoch

    def give_back(self, slot: Slot) -> None:
        """Learns what came of the slot and passes it on."""
        self._learn(slot)
        self._release()

    async def _acquire(self, first: bool) -> None:
        if self.num_in_flight < self.limit and not self._waiting:
            self.num_in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if first else self._waiting.append)(turn)
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
        if slot.answered or slot.failed:
            self._failing_share += (slot.failed - self._failing_share) / NUM_LATEST
        if slot.answered:
            self._answered_at = time.monotonic()
            self._limit = min(float(self.maximum), self._limit + 1 / self._limit)
        elif slot.overloaded and slot.epoch == self._epoch:
            self._window_overloaded += 1
            if self._window_overloaded > TOLERATED_SHARE * self._limit:
                self._limit = max(1.0, self._limit * DECREASE)
                self._epoch += 1
                self._window_finished = self._window_overloaded = 0
        if self._window_finished >= self._limit:
            self._window_finished = self._window_overloaded = 0
