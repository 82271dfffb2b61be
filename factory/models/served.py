"""A model on a vLLM server of ours, wherever that is by now: awake, asleep, or not started again yet.

It holds no process; before each call it asks for its server, which costs nothing where that is awake.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from factory.errors import EndpointError, ServerError
from factory.models.ending import wait_for_end
from factory.models.listing import Listed
from factory.types import Completion, Request

if TYPE_CHECKING:
    from factory.models.client import EndpointModel
    from factory.models.vllm_replicas import VllmReplicas
    from factory.models.vllm_server import VllmProcess

Ready = Callable[[str], Awaitable["VllmReplicas"]]


class ServedModel:
    """A model on one replica of a server of ours; asking it brings the server back where it was put aside."""

    is_ours = True  # nobody bills its calls

    def __init__(
        self, server: str, name: str, model_id: str, timeout_seconds: float, ready: Ready, replica: int = 0
    ) -> None:
        self.server = server
        self.name = name
        self._ready = ready
        self._replica = replica
        self._id = model_id
        self._timeout_seconds = timeout_seconds
        self._endpoint: EndpointModel | None = None
        self._connected_to = ("", "")

    @property
    def id(self) -> str:
        return self._id

    async def complete(self, request: Request) -> Completion:
        """One answer; raises EndpointError, or ServerError where all replicas of the server keep dying."""
        server = await self._ready(self.server)
        process = server.processes[self._replica]
        started, endpoint = process.started, await self._connect(process)
        try:
            answer = await endpoint.complete(request)
        except EndpointError as error:
            if error.kind == "unreachable" and len(server.processes) == 1:  # else others may answer
                await wait_for_end(process, started)
            server.raise_if_dead()
            raise
        server.has_answered = True
        return answer

    async def list_models(self) -> dict[str, Listed]:
        """What its replica serves, by name; raises ServerError."""
        server = await self._ready(self.server)
        try:
            return await server.processes[self._replica].list_models()
        except ServerError:
            if not server.has_died:
                raise
        server = await self._ready(self.server)  # started again
        return await server.processes[self._replica].list_models()

    async def address(self) -> tuple[str, str]:
        """Where others can ask it and with what key; no http address of one that we alone can ask."""
        server = await self._ready(self.server)
        process = server.processes[self._replica]
        return process.base_url, process.api_key

    def beside(self, name: str, model_id: str) -> ServedModel:
        """Another model of the same replica."""
        return ServedModel(self.server, name, model_id, self._timeout_seconds, self._ready, self._replica)

    async def close(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await endpoint.close()

    async def _connect(self, process: VllmProcess) -> EndpointModel:
        """The client; a new one where the server came back, with another key and maybe at another address."""
        where = process.base_url, process.api_key
        if self._endpoint is None or self._connected_to != where:
            before, self._connected_to = self._endpoint, where
            endpoint = self._endpoint = process.open_model(self.name, self.id, self._timeout_seconds)
            if before is not None:
                await before.close()
            return endpoint
        return self._endpoint
