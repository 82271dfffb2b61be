"""The processes of one vLLM server of the recipe: started, given adapters, put aside and stopped as one.

One replica, mostly; with several each has its own GPUs, or its share of the cores. One that dies is told
once and stays away until the server is started again: as long as another runs, calls go there. Where none is
left the server may be started again if it had answered, a few times an hour: what kills it each time must
not go on for ever. What a single process does is `vllm_server`'s, or `in_process`'.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final

from factory.errors import ServerError
from factory.models.in_process import VllmInProcess
from factory.models.vllm_server import VllmProcess, replica_name
from factory.servers import VllmServer

MAX_RETURNS: Final = 3  # of a server that died, within an hour
HOUR_SECONDS: Final = 3600.0


class VllmReplicas:
    """One server. `folder` is what the recipe's paths are relative to; logs go into the folder `logs`."""

    def __init__(
        self, name: str, spec: VllmServer, folder: Path, logs: Path, on_progress: Callable[[str], None]
    ) -> None:
        self.name = name
        kind = VllmInProcess if spec.run_as == "in_process" else VllmProcess
        self.processes: list[VllmProcess] = [
            kind(name, spec, folder, logs / f"{replica_name(name, spec, index)}.log", on_progress, index)
            for index in range(spec.replicas)
        ]
        self.device = self.processes[0].device
        self.model, self.is_folder = self.processes[0].model, self.processes[0].is_folder
        self._on_progress = on_progress
        self._told: set[int] = set()
        self._returns: list[float] = []  # when it was started again after it died (monotonic)
        self.has_answered = False  # since its last start

    @property
    def is_running(self) -> bool:
        """Whether any process is there, asleep or not."""
        return any(process.is_running for process in self.processes)

    @property
    def has_died(self) -> bool:
        """Whether all of them ended by themselves; those that were stopped have not."""
        return all(process.has_died for process in self.processes)

    @property
    def may_return(self) -> bool:
        """Whether it is worth starting again where it died."""
        latest = [moment for moment in self._returns if time.monotonic() - moment < HOUR_SECONDS]
        return self.has_answered and len(latest) < MAX_RETURNS

    @property
    def is_asleep(self) -> bool:
        """Whether any is there that was put to sleep."""
        return any(process.is_asleep for process in self._running())

    @property
    def can_sleep(self) -> bool:
        return self.processes[0].can_sleep

    async def start(self, port: int | None = None) -> None:
        """All ready to answer when it returns, else none is left; raises RecipeError or ServerError.

        `port` is where the first listens; each further one has the next number. Where it died, what became
        of it is told, and its logs are kept.
        """
        self._told.clear()
        self._note_return()
        ports = [None if port is None else port + index for index in range(len(self.processes))]
        try:
            await _all(process.start(at) for process, at in zip(self.processes, ports, strict=True))
        except BaseException:
            await self.stop()
            raise
        self.has_answered = False

    async def load_adapter(self, name: str, path: Path) -> None:
        """Serves the LoRA adapter in `path` as model `name` at every replica that runs."""
        await _all(_unless_it_dies(each, _load(each, name, path)) for each in self._running())

    async def sleep(self) -> None:
        """Moves the weights of all to main memory once the calls in flight are done; only on a GPU."""
        await _all(_unless_it_dies(each, each.sleep()) for each in self._running())

    async def wake(self) -> None:
        """Undoes sleep."""
        await _all(_unless_it_dies(each, each.wake()) for each in self._running() if each.is_asleep)

    async def stop(self) -> None:
        """Ends every process and everything it started; calling it again does nothing."""
        await asyncio.gather(*[process.stop() for process in self.processes])

    def raise_if_dead(self) -> None:
        """Raises ServerError where all died and may not return; says of one that died beside others why."""
        if self.has_died and not self.may_return:
            self.processes[0].raise_if_dead()
        if not self.is_running:
            return
        for index, process in enumerate(self.processes):
            if process.has_died and index not in self._told:
                self._told.add(index)
                try:
                    process.raise_if_dead()
                except ServerError as error:
                    self._on_progress(f"{error}; its calls go to the other replicas")

    def _note_return(self) -> None:
        if not self.has_died:
            return
        self._returns.append(time.monotonic())
        errors = [process.put_log_aside() for process in self.processes]
        self._on_progress(f"{errors[0]}; it is started again")

    def describe(self) -> str:
        """What serves where, for a person."""
        return "; ".join(process.describe() for process in self._running())

    def _running(self) -> list[VllmProcess]:
        return [process for process in self.processes if process.is_running]


async def _unless_it_dies(process: VllmProcess, work: Coroutine[Any, Any, None]) -> None:
    """The work, which may fail with a process that dies: who asks there next starts it again, or is told."""
    try:
        await work
    except ServerError:
        if not process.has_died:
            raise


async def _load(process: VllmProcess, name: str, path: Path) -> None:
    """Loads an adapter, unless an attempt that failed at another replica left it here."""
    if name not in await process.list_models():
        await process.load_adapter(name, path)


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Side by side; where one fails the others are stopped and waited for, and its error is raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
