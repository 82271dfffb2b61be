"""The models of a run by role: starts servers when they are needed, and shares what can be shared.

Roles that name the same server share its processes, each with its own adapter. Servers on a GPU take turns:
one is awake at a time, and none while a model trains. A model that was handed out stays good: it
wakes its server again when it is asked, or starts it where it died. How a server is started or asked is
not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from factory.address import without_password
from factory.errors import RecipeError, ServerError
from factory.models.batched import BatchedModels, is_batched
from factory.models.folders import find_model
from factory.models.identity import (
    describe_adapter,
    describe_folder,
    name_adapter,
    refuse_other_content,
)
from factory.models.replicated import replicated
from factory.models.scripted import SCRIPTS, ScriptedModel, check_script
from factory.models.served import ServedModel
from factory.models.vllm_command import BASE_NAME
from factory.recipe import ModelSpec, Recipe, Role
from factory.servers import EndpointServer, ScriptedServer, VllmServer
from factory.types import digest

if TYPE_CHECKING:
    from factory.models.vllm_replicas import VllmReplicas
    from factory.ports import Model

WATCH_SECONDS: Final = 1.0


class ModelPool:
    """Models by role, for one run. `folder` is what paths in the recipe are relative to.

    `on_progress` gets a line of text now and then. `port` is where a server of ours listens, its further
    replicas at the numbers after it; None: any.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        workspace: Path,
        on_progress: Callable[[str], None],
        port: int | None = None,
    ) -> None:
        self._recipe = recipe
        self._folder = folder
        self._workspace = workspace
        self._on_progress = on_progress
        self._port = port
        self._models: dict[str, Model] = {}
        self._servers: dict[str, VllmReplicas] = {}
        self._adapters: dict[str, dict[str, Path]] = {}
        self._bases: dict[str, object] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._awake: set[str] = set()
        self.batched = BatchedModels(recipe, folder, on_progress, self)
        self._closed = False

    def model_id(self, role: Role, adapter: Path | None = None) -> str:
        """'model_' and a hash of what answers for a role: weights and adapter, or endpoint and name."""
        return self._identify(role, self.adapter_of(role, adapter))

    def base_id(self, role: Role) -> str:
        """The same of what answers for a role where it has no adapter."""
        return self._identify(role, None)

    def _identify(self, role: Role, path: Path | None) -> str:
        spec, server = self._find(role)
        if isinstance(server, ScriptedServer):
            return f"scripted:{server.script}"
        if isinstance(server, EndpointServer):
            base: object = [without_password(server.base_url), spec.model]
        else:
            model, is_folder = find_model(self._folder, server.model)
            base = [describe_folder(Path(model)) if is_folder else model, server.dtype, server.quantization]
        try:
            return "model_" + digest([base, describe_adapter(path) if path else None])
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"the adapter {path} cannot be read: {error}", where=f"models.{role}"
            ) from error

    def adapter_of(self, role: Role, given: Path | None = None) -> Path | None:
        """The adapter's folder: the given one, else the recipe's own for the role, if it has one."""
        spec, _ = self._find(role)
        if given is not None or spec.adapter is None:
            return given
        return (self._folder / Path(spec.adapter).expanduser()).resolve()

    async def model(self, role: Role, adapter: Path | None = None) -> Model:
        """The model that answers for a role, with the given adapter or the recipe's own.

        Starts its server and loads the adapter where that was not done yet. Raises RecipeError for what the
        recipe got wrong, ServerError for a server that does not start.
        """
        spec, server = self._find(role)
        if isinstance(server, ScriptedServer):
            return self._scripted(spec, server)
        path = self.adapter_of(role, adapter)
        if is_batched(server):
            return await self.batched.model(role, spec, server, path)
        if isinstance(server, EndpointServer):
            return await self._endpoint(role, spec, server, path)
        self._process(spec.server, server)  # a wrong device is told before weights are read
        if path is not None:
            from factory.models.folders import check_adapter_folder

            check_adapter_folder(path, server.max_lora_rank, f"models.{role}.adapter")
        name = name_adapter(role, path) if path else BASE_NAME
        model_id = self.model_id(role, adapter)
        async with self._lock(spec.server):
            process = await self._awaken(spec.server)
            if path is not None:
                name = await self._load(spec.server, process, name, path)
        key = f"{model_id} {spec.timeout_seconds}"
        if key not in self._models:
            served = partial(ServedModel, spec.server, name, model_id, spec.timeout_seconds, self.ready)
            self._models[key] = replicated([served(index) for index in range(server.replicas)])
        return self._models[key]

    async def ready(self, server: str) -> VllmReplicas:
        """The server, started or woken where need be; raises ServerError where it died once too often."""
        process = self._opened(server)
        if server in self._awake and process.is_running:
            return process
        async with self._lock(server):
            return await self._awaken(server)

    @asynccontextmanager
    async def device_free(self) -> AsyncIterator[None]:
        """While it is open, no server of ours holds the device, as `loop.while_training` says.

        Servers come back when their models are asked again.
        """
        for name, process in list(self._servers.items()):
            async with self._lock(name):
                if name in self._awake and process.is_running:
                    await self._put_aside(name, process)
        yield

    @asynccontextmanager
    async def turn(self, device: str, server: str) -> AsyncIterator[None]:
        """While it is open, a process that is no server holds the device, and no server of ours does."""
        async with self._locks.setdefault(device if device == "cuda" else f"cpu {server}", asyncio.Lock()):
            await self._put_to_sleep(device)
            yield

    def describe(self, model: Model) -> str:
        """What answers where, for a person who wants to ask it too."""
        model = getattr(model, "replicas", (model,))[0]
        if not isinstance(model, ServedModel):
            return model.id
        process = self._servers[model.server]
        return f"model '{model.name}' of {process.describe()}"

    async def watch(self, model: Model) -> None:
        """Looks after a model that others ask, for ever; raises ServerError where its server dies."""
        server = getattr(getattr(model, "replicas", (model,))[0], "server", None)
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if server is not None:
                (await self.ready(server)).raise_if_dead()  # which tells of a replica that died

    async def close(self) -> None:
        """Stops every server and closes every connection; calling it again does nothing."""
        self._closed = True
        models, self._models = list(self._models.values()), {}
        processes, self._servers = list(self._servers.values()), {}
        closing = [self.batched.close(), *(model.close() for model in models)]
        await asyncio.gather(*closing, return_exceptions=True)
        await asyncio.gather(*[process.stop() for process in processes], return_exceptions=True)

    def _find(self, role: Role) -> tuple[ModelSpec, VllmServer | EndpointServer | ScriptedServer]:
        spec = self._recipe.models.get(role)
        if spec is None:
            raise RecipeError("no model for this role", where=f"models.{role}", hint="add it to the profile")
        return spec, self._recipe.servers[spec.server]

    def _scripted(self, spec: ModelSpec, server: ScriptedServer) -> Model:
        check_script(server.script, f"servers.{spec.server}.script")
        if server.script not in self._models:
            self._on_progress(f"DRY RUN: '{spec.server}' is scripted, no model is asked")
            self._models[server.script] = ScriptedModel(SCRIPTS[server.script], server.script)
        return self._models[server.script]

    async def _endpoint(
        self, role: Role, spec: ModelSpec, server: EndpointServer, adapter: Path | None
    ) -> Model:
        from factory.models.endpoints import open_endpoint

        model_id = self.model_id(role, adapter)
        key = f"{model_id} {spec.timeout_seconds}"
        if key not in self._models:
            self._models[key] = await open_endpoint(role, spec, server, model_id, adapter, self._on_progress)
        return self._models[key]

    def _process(self, name: str, server: VllmServer) -> VllmReplicas:
        if self._closed:
            raise ServerError("the models of this run are closed", where=f"servers.{name}")
        if name not in self._servers:
            from factory.models.vllm_replicas import VllmReplicas

            logs = self._workspace / "logs"
            self._servers[name] = VllmReplicas(name, server, self._folder, logs, self._on_progress)
        return self._servers[name]

    def _opened(self, server: str) -> VllmReplicas:
        if server not in self._servers:
            raise ServerError("the models of this run are closed", where=f"servers.{server}")
        return self._servers[server]

    def _lock(self, server: str) -> asyncio.Lock:
        """One for each server on a CPU, one for all that share the GPU."""
        device = self._servers[server].device
        return self._locks.setdefault(device if device == "cuda" else f"cpu {server}", asyncio.Lock())

    async def _awaken(self, name: str) -> VllmReplicas:
        """The server running and awake, with all its adapters; on a GPU the others are put aside first."""
        process = self._opened(name)
        if process.has_died:
            process.raise_if_dead()
            self._awake.discard(name)  # nobody is sent there before it is back, with its adapters
        if name in self._awake:
            return process
        others = [other for other in self._servers.values() if other is not process]
        await self._put_to_sleep(process.device)
        if process.is_asleep:
            await process.wake()
        else:
            await self._start(name, process, [other for other in others if other.is_asleep])
        if self._closed:  # meanwhile, when there may have been nothing to stop yet
            await process.stop()
        self._opened(name)
        self._awake.add(name)
        return process

    async def _put_to_sleep(self, device: str) -> None:
        """Every server on the GPU, where that is the device that is wanted."""
        for process in list(self._servers.values()):  # one may be added meanwhile
            if device == process.device == "cuda" and process.name in self._awake:
                self._awake.discard(process.name)
                await process.sleep()

    async def _start(self, name: str, process: VllmReplicas, sleeping: list[VllmReplicas]) -> None:
        """Starts a server and loads the adapters that it had; if need be, stops those that sleep.

        Raises ServerError where files of base or adapters are others than when they were first loaded.
        """
        base = describe_folder(Path(process.model)) if process.is_folder else process.model
        if self._bases.setdefault(name, base) != base:
            what = f"the server cannot come back: {process.model} holds another model than at its start"
            hint = "put its files back, or run again with those that are there"
            raise ServerError(what, where=f"servers.{name}", hint=hint)
        try:
            await process.start(self._port)
        except ServerError:
            if not sleeping:
                raise
            for other in sleeping:  # one that sleeps still holds a little of the GPU's memory
                await other.stop()
            await process.start(self._port)
        for adapter, path in self._adapters.get(name, {}).items():
            refuse_other_content(adapter, path, f"servers.{name}")
            await process.load_adapter(adapter, path)

    async def _load(self, server: str, process: VllmReplicas, name: str, path: Path) -> str:
        """The name under which the adapter is served; the same content is loaded once, whatever the role."""
        loaded = self._adapters.setdefault(server, {})
        content = name.rpartition("-")[2]
        for known in loaded:
            if known.rpartition("-")[2] == content:
                return known
        refuse_other_content(name, path, f"servers.{server}")
        await process.load_adapter(name, path)
        loaded[name] = path
        return name

    async def _put_aside(self, name: str, process: VllmReplicas) -> None:
        """Sleep, stop or nothing, for the time of a training."""
        wanted = self._recipe.loop.while_training
        if wanted == "auto":
            wanted = "sleep" if process.can_sleep else "keep"
        if wanted != "keep":
            self._awake.discard(name)
            await (process.sleep() if wanted == "sleep" and process.can_sleep else process.stop())
