"""The bound on answers that are not yet on the disk: no call is sent while there are too many of them.

A process that is killed loses what it had not committed, and pays for it again. Calls in flight and answers
behind this bound are all that can be: at most the concurrency and `GROUP_ANSWERS`. Holding back new calls
keeps the event loop free, where waiting at the append would stop it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from factory.store.store import Store

GROUP_ANSWERS: Final = 400  # a commit group of GROUP_ROWS holds as many, each with its sample and edges


class Backlog:
    """The answers of a store that are queued or being committed; belongs to one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._flushing: asyncio.Future[None] | None = None

    async def wait_for_room(self) -> None:
        """Returns once fewer than `GROUP_ANSWERS` are unsaved; raises WorkspaceError where the disk fails."""
        while self._store.num_unsaved >= GROUP_ANSWERS:
            if self._flushing is None or self._flushing.done():
                self._flushing = asyncio.ensure_future(asyncio.to_thread(self._store.flush))
            await asyncio.shield(self._flushing)
