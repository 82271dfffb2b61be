"""Between generation and refinement: finished tasks, put back into the order in which they were planned.

Tasks are sent in another order (`factory.sending`), and answers come in any. Which of two duplicates stays
must depend on neither. So what is finished waits here for what was planned before it, and goes on in batches
whose bounds depend on the plan alone. Whoever generates waits while the refiners have enough to do; while
they wait for a straggler, generation goes on. Nothing is stored here.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from factory.sending import by_material, in_windows
from factory.types import Sample, Task

NUM_AHEAD = 512  # samples that may wait for the refiners


@dataclass(slots=True)
class _Place:
    """A task in its place in the order; `samples` is None until it is finished."""

    position: int
    task: Task
    samples: Sequence[Sample] | None = None


class Feed:
    """One plan's way from the generators to the refiners; belongs to one event loop.

    `window` tasks at a time are put into the order in which they are sent (`factory.sending`).
    """

    def __init__(self, num_ahead: int = NUM_AHEAD, window: int = 1) -> None:
        self.num_ahead = num_ahead
        self.window = window
        self.num_tasks = 0  # taken in so far
        self._order: deque[_Place] = deque()
        self._places: dict[int, _Place] = {}  # by id() of the task, which its place keeps alive
        self._num_waiting = 0
        self._end: float = math.inf  # the position where the order breaks off
        self._is_full = self._is_closed = self._skips = False
        self._changed = asyncio.Event()

    def take_in(self, plan: Iterable[tuple[int, Task]]) -> Iterator[Task]:
        """The tasks of a plan, lazily, a window of them at a time in the order of sending.

        Each has its place in the order of the plan before any of its window is taken.
        """
        for places in in_windows((_Place(position, task) for position, task in plan), self.window):
            if self._is_full:
                return
            self._order.extend(places)
            self._places.update((id(place.task), place) for place in places)
            for task in by_material([place.task for place in places]):
                if self._is_full:
                    return
                self.num_tasks += 1
                yield task

    def position(self, task: Task) -> int:
        """Where a task under way stands in the order."""
        return self._places[id(task)].position

    async def put(self, task: Task, samples: Sequence[Sample]) -> None:
        """A task is finished; returns when there is room for more."""
        place = self._places.pop(id(task))
        if place.position > self._end:
            return
        place.samples = samples
        self._num_waiting += len(samples)
        self._changed.set()
        while self._num_waiting > self.num_ahead and self._order[0].samples is not None:
            await self._change()

    def break_off(self, task: Task) -> None:
        """A task will be made at another time: the order ends before it."""
        self._end = min(self._end, self._places.pop(id(task)).position)
        self._changed.set()

    def end_intake(self) -> None:
        """No further task is taken in; those under way go on."""
        self._is_full = True

    def close(self, *, skip: bool = False) -> None:
        """Nothing more is finished. Tasks that are not end the order, or are skipped."""
        self._is_closed, self._skips = True, skip
        self._changed.set()

    async def batches(self, size: int) -> AsyncIterator[list[Sample]]:
        """So many samples at a time, in order. The last ones may be fewer, but only where the order is whole:
        where it breaks off, what would be a smaller batch waits for another time.
        """
        batch: list[Sample] = []
        while (samples := await self._next()) is not None:
            batch += samples
            while len(batch) >= size:
                yield batch[:size]
                batch = batch[size:]
        if batch and not self._order:
            yield batch

    async def _next(self) -> Sequence[Sample] | None:
        """The samples of the next task in order; None at the end."""
        while True:
            if self._order and self._order[0].position >= self._end:
                return None
            if self._order and (samples := self._order[0].samples) is not None:
                self._order.popleft()
                self._num_waiting -= len(samples)
                self._changed.set()
                return samples
            if self._is_closed:
                if not (self._order and self._skips):
                    return None
                self._order.popleft()
            else:
                await self._change()

    async def _change(self) -> None:
        """Returns after the next change; whoever waits looks again."""
        self._changed.clear()
        await self._changed.wait()
