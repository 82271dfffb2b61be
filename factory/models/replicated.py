"""A model that answers at several places: the engine chooses one for each call (`factory.slots`).

They answer alike, so that all have one identity, whatever their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from factory.types import Completion, Request

if TYPE_CHECKING:
    from factory.ports import Model


class ReplicatedModel:
    """Implements ports.Model with `replicas`, which are always in the same order."""

    def __init__(self, replicas: Sequence[Model]) -> None:
        self.replicas = tuple(replicas)

    @property
    def id(self) -> str:
        return self.replicas[0].id

    async def complete(self, request: Request) -> Completion:
        """One answer, of the first: who asks without an engine asks one place."""
        return await self.replicas[0].complete(request)

    async def close(self) -> None:
        await asyncio.gather(*[replica.close() for replica in self.replicas])


def replicated(replicas: Sequence[Model]) -> Model:
    """One model of several, or the only one as it is."""
    return replicas[0] if len(replicas) == 1 else ReplicatedModel(replicas)
