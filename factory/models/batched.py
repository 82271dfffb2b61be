"""The models of a run that are asked in batches: by an endpoint's Batch API, or by vLLM over files.

A batch asks one model, so there is a queue for each model, not for each server. What answers has the same
identity as where it is asked call by call, so stored answers serve both. How a batch fares is not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard

from factory.errors import RecipeError, ServerError
from factory.models.api_key import read_key
from factory.models.batch_closing import Closing
from factory.models.chat import ChatRequests
from factory.models.folders import find_model
from factory.models.identity import name_adapter
from factory.models.vllm_command import BASE_NAME
from factory.recipe import ModelSpec, Recipe, Role
from factory.servers import EndpointServer, Server, VllmServer

if TYPE_CHECKING:
    from factory.models.batch_log import Batch, BatchLog
    from factory.models.batches import BatchModel, Carrier
    from factory.models.vllm_server import VllmProcess

FILES: Final = ("batch", "files")


class Pool(Protocol):
    """What of the pool is needed here."""

    def model_id(self, role: Role, adapter: Path | None = None) -> str: ...

    def turn(self, device: str, server: str) -> AbstractAsyncContextManager[None]: ...


def is_batched(server: Server) -> TypeGuard[VllmServer | EndpointServer]:
    """Whether calls to the server go in batches."""
    return getattr(server, "batch", False) or getattr(server, "run_as", "") in FILES


class BatchedModels:
    """Makes each model once. `log` is set where there is a store; without one nothing can be asked."""

    def __init__(self, recipe: Recipe, folder: Path, on_progress: Callable[[str], None], pool: Pool) -> None:
        self.log: BatchLog | None = None
        self._recipe = recipe
        self._folder = folder
        self._on_progress = on_progress
        self._pool = pool
        self._models: dict[str, BatchModel] = {}
        self._closings: dict[str, Closing] = {}  # by server, of batches that nobody asks any more

    async def model(
        self,
        role: Role,
        spec: ModelSpec,
        server: VllmServer | EndpointServer,
        adapter: Path | None,
    ) -> BatchModel:
        """The model of a role; raises RecipeError for what the recipe got wrong."""
        from factory.models.batches import BatchModel

        model_id = self._pool.model_id(role, adapter)
        if self.log is None:
            raise ServerError("batches need a workspace", where=f"servers.{spec.server}")
        if model_id not in self._models:
            if isinstance(server, EndpointServer):
                name, carrier = await self._at_endpoint(role, spec, server, adapter)
                requests = ChatRequests(name, server.structured)
            else:
                name, carrier = self._on_files(role, spec, server, adapter)
                requests = ChatRequests(name)
            sharing = [model for model in self._recipe.models.values() if model.server == spec.server]
            most = max(model.concurrency for model in sharing)  # as the engine lets in flight
            if model_id not in self._models:  # another may have come first while an adapter was loaded
                found = BatchModel(model_id, requests, carrier, self.log, most, self._on_progress)
                self._models[model_id] = found
        return self._models[model_id]

    def refuse_if_turned_off(self, log: BatchLog) -> None:
        """Raises RecipeError where calls are out in a batch and would be asked one by one now, paid twice."""
        for batch in log.unanswered_batches():
            servers = self._servers_of(batch, log)
            if servers and not any(is_batched(self._recipe.servers[name]) for name in servers):
                is_endpoint = isinstance(self._recipe.servers[servers[0]], EndpointServer)
                raise RecipeError(
                    f"{batch.id} is out; its {len(batch.call_ids):,} calls would be sent and paid again",
                    where=f"servers.{servers[0]}.{'batch' if is_endpoint else 'run_as'}",
                    hint=f"set it as it was until it is collected, or delete {batch.folder} to give it up",
                )

    def close_stored(self, log: BatchLog) -> None:
        """Begins to end the batches that a process left with all answers in the store; nobody may ask again.

        Those of other recipes are theirs, and so are those whose key is not here now.
        """
        from factory.models.batch_endpoint import EndpointCarrier

        log.remove_folders()
        for batch in log.stored_batches():
            for name in self._servers_of(batch, log)[:1]:
                server = self._recipe.servers[name]
                if not isinstance(server, EndpointServer):
                    log.finish(batch)
                    continue
                with suppress(RecipeError):
                    if name not in self._closings:
                        carrier = EndpointCarrier(server.base_url, _key_of(name, server))
                        self._closings[name] = Closing(carrier, log, self._on_progress)
                    self._closings[name].begin(batch)

    async def close(self) -> None:
        """Leaves what is out to itself; calling it again does nothing."""
        ending: list[BatchModel | Closing] = [*self._models.values(), *self._closings.values()]
        self._models, self._closings = {}, {}
        await asyncio.gather(*[each.close() for each in ending], return_exceptions=True)

    def _servers_of(self, batch: Batch, log: BatchLog) -> list[str]:
        """The servers of the roles that a batch asks; none where it is another recipe's."""
        roles = [role for role in self._recipe.models if self._id_of(role) == batch.model_id]
        trained = [role for role in log.trained_roles(batch.model_id) if role in self._recipe.models]
        return [self._recipe.models[role].server for role in roles or trained]

    def _id_of(self, role: Role) -> str | None:
        with suppress(RecipeError):  # an adapter that is not there yet
            return self._pool.model_id(role)
        return None

    async def _at_endpoint(
        self, role: Role, spec: ModelSpec, server: EndpointServer, adapter: Path | None
    ) -> tuple[str, Carrier]:
        from factory.models.batch_endpoint import EndpointCarrier
        from factory.models.endpoints import served_name

        key = _key_of(spec.server, server)
        name = await served_name(role, spec, server, adapter, key, self._on_progress)
        return name, EndpointCarrier(server.base_url, key)

    def _on_files(
        self, role: Role, spec: ModelSpec, server: VllmServer, adapter: Path | None
    ) -> tuple[str, Carrier]:
        from factory.models.batch_files import LeftCarrier, RunnerCarrier
        from factory.models.folders import check_adapter_folder
        from factory.models.vllm_server import VllmProcess

        where, name, loaded = f"servers.{spec.server}", BASE_NAME, None
        if adapter is not None:
            check_adapter_folder(adapter, server.max_lora_rank, f"models.{role}.adapter")
            name = name_adapter(role, adapter)
            loaded = (name, adapter)
        if server.run_as == "files":
            model, _ = find_model(self._folder, server.model)
            return name, LeftCarrier(server, model, loaded, where, self._on_progress)

        def process_of(log: Path) -> VllmProcess:
            return VllmProcess(spec.server, server, self._folder, log, self._on_progress)

        device = process_of(Path()).device  # a wrong one is told before anything is asked
        return name, RunnerCarrier(process_of, loaded, lambda: self._pool.turn(device, spec.server), where)


def _key_of(name: str, server: EndpointServer) -> str | None:
    return read_key(server.api_key_env, f"servers.{name}.api_key_env")
