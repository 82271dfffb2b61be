"""The slots of a server for all who ask it: one queue, from which calls go to the least loaded replica.

A server has one replica or several; each finds out its own limit (`factory.concurrency`). One whose latest
calls all failed gets no calls while others answer: after a rest a single call finds out how it fares. Where
all are down all are asked, so that a call fails in the end with what its server said. First come,
first served; it knows nothing of models or retries.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Self

from factory.concurrency import AdaptiveLimit


class Slot:
    """The right to have a call in flight at `replica`, while the context is open; freed on cancellation too.

    Its holder sets `answered`, or `failed` if another attempt may fare better, and `overloaded` too if the
    replica refused for load, with the seconds after which it wants to be asked again.
    """

    __slots__ = (
        "_slots",
        "answered",
        "epoch",
        "failed",
        "first",
        "not_at",
        "overloaded",
        "replica",
        "retry_after_seconds",
    )

    def __init__(self, slots: Slots, first: bool, not_at: int | None) -> None:
        self._slots = slots
        self.first = first
        self.not_at = not_at
        self.replica = self.epoch = 0
        self.answered = self.failed = self.overloaded = False
        self.retry_after_seconds: float | None = None

    async def __aenter__(self) -> Self:
        await self._slots.take(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._slots.give_back(self)


class Slots:
    """First come, first served slots of one server; belongs to one event loop."""

    def __init__(self, maximum: int, num_replicas: int = 1) -> None:
        """`maximum` calls in flight at each replica."""
        self.replicas = [AdaptiveLimit(maximum) for _ in range(num_replicas)]
        self._waiting: deque[tuple[asyncio.Future[None], Slot]] = deque()

    @property
    def limit(self) -> int:
        """Calls that may be in flight now, at all replicas together."""
        return sum(replica.limit for replica in self.replicas)

    @property
    def maximum(self) -> int:
        """Calls that may be in flight at most."""
        return sum(replica.maximum for replica in self.replicas)

    @property
    def num_in_flight(self) -> int:
        return sum(replica.num_in_flight for replica in self.replicas)

    def is_up(self, sent_at: float) -> bool:
        """Whether any replica fares well, as far as others tell than a call sent at `sent_at` (monotonic)."""
        return any(replica.is_up(sent_at) for replica in self.replicas)

    def others_sound(self, replica: int | None) -> bool:
        """Whether nothing is known against some other replica than this one."""
        return any(other.is_sound for index, other in enumerate(self.replicas) if index != replica)

    def allow(self, maximum: int) -> None:
        """Raises the ceiling of each replica to `maximum` for a second role of the same server."""
        for replica in self.replicas:
            replica.allow(maximum)
        self._wake()

    def slot(self, *, first: bool = False, not_at: int | None = None) -> Slot:
        """A slot to be entered; `first`: before all that wait, for a call that had its turn already.

        `not_at` is the replica where that failed: another one is taken where it has room.
        """
        return Slot(self, first, not_at)

    async def take(self, slot: Slot) -> None:
        """Waits for the slot's turn, and says which replica it is at."""
        chosen = None if self._waiting else self._choose(slot.not_at)
        if chosen is not None:
            self._occupy(slot, chosen)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._waiting.appendleft if slot.first else self._waiting.append)((turn, slot))
        try:
            await turn
        except asyncio.CancelledError:
            # The turn may have come just before the cancellation: then the slot is ours to give back.
            if turn.done() and not turn.cancelled():
                self._release(slot)
            raise

    def give_back(self, slot: Slot) -> None:
        """Learns what came of the slot and passes it on."""
        replica = self.replicas[slot.replica]
        if slot.answered:
            replica.answered()
        elif slot.failed:
            before, pause = replica.rests_until, slot.retry_after_seconds
            replica.failed(slot.epoch, overloaded=slot.overloaded, retry_after_seconds=pause)
            if replica.rests_until > before:  # who waits for the other replicas may try it after its rest
                rest_seconds = replica.rests_until - time.monotonic()
                asyncio.get_running_loop().call_later(rest_seconds, self._wake)
        else:
            replica.given_up()
        self._release(slot)

    def _choose(self, not_at: int | None) -> int | None:
        """The replica with the fewest calls in flight among those that have room and answer; None: wait."""
        if len(self.replicas) == 1:
            return 0 if self.replicas[0].has_room else None
        now = time.monotonic()
        all_down = all(replica.is_down for replica in self.replicas)
        usable = [
            index
            for index, replica in enumerate(self.replicas)
            if (replica.may_be_tried(now) if replica.is_down and not all_down else replica.has_room)
        ]
        load = [replica.num_in_flight for replica in self.replicas]
        return min(usable, key=lambda index: (index == not_at, load[index], index), default=None)

    def _occupy(self, slot: Slot, replica: int) -> None:
        slot.replica = replica
        slot.epoch = self.replicas[replica].begin()

    def _release(self, slot: Slot) -> None:
        self.replicas[slot.replica].end()
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn, slot = self._waiting[0]
            if turn.done():  # done here means that its waiter was cancelled
                self._waiting.popleft()
                continue
            chosen = self._choose(slot.not_at)
            if chosen is None:
                return
            self._waiting.popleft()
            self._occupy(slot, chosen)
            turn.set_result(None)
