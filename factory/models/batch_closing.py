"""The end of batches whose answers are in the store: files elsewhere are deleted, then the record says done.

It happens beside the run; who closes the run waits for it. A process that is killed on the way leaves the
batch as it was, and the next one begins again. Which batches are at their end is not decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from factory.errors import EndpointError, WorkspaceError

if TYPE_CHECKING:
    from factory.models.batch_log import Batch, BatchLog
    from factory.models.batches import Carrier


class Closing:
    """Ends batches of one carrier; belongs to one event loop."""

    def __init__(self, carrier: Carrier, log: BatchLog, on_progress: Callable[[str], None]) -> None:
        self._carrier = carrier
        self._log = log
        self._on_progress = on_progress
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_told = False

    def begin(self, batch: Batch) -> None:
        """Nobody waits for it but `close`."""
        task = asyncio.create_task(self._end(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Waits for what was begun and closes the carrier; calling it again does nothing."""
        try:
            await asyncio.gather(*self._tasks)
        finally:
            await self._carrier.close()

    async def _end(self, batch: Batch) -> None:
        """That files could not be deleted is told once and fails nothing: the answers are here."""
        try:
            await self._carrier.discard(batch)
        except (EndpointError, OSError) as error:
            if not self._is_told:
                self._is_told = True
                self._on_progress(f"the files of batch {batch.id} could not be deleted: {error}")
        with suppress(WorkspaceError):  # whoever writes next is told; the next process ends the batch
            self._log.finish(batch)
