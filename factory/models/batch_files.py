"""Carries batches as files on this machine: `vllm run-batch` answers them, or somebody does elsewhere.

What is handed over stays here, so handing it over twice changes nothing, and a runner that was cut off runs
again. A file of answers that somebody brings counts once it has a line for each request, or has not changed
for a while.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from factory.models.batch_endpoint import move
from factory.models.batch_log import Batch
from factory.models.vllm_command import Device, build_batch_command
from factory.servers import VllmServer
from factory.store.database import unwritable

if TYPE_CHECKING:
    from factory.models.vllm_server import VllmProcess

Adapter = tuple[str, Path]  # name and folder

POLL_SECONDS: Final = 1.0
SCRIPT: Final = """#!/bin/sh
# Answers requests.jsonl into answers.jsonl, both beside this file; model and adapter lie where it says.
cd "$(dirname "$0")" || exit
export VLLM_NO_USAGE_STATS=1
exec {command}
"""


class RunnerCarrier:
    """Implements batches.Carrier by a vLLM process for each batch; `turn` is when it may hold the device."""

    is_ours = True

    def __init__(
        self,
        process_of: Callable[[Path], VllmProcess],
        adapter: Adapter | None,
        turn: Callable[[], AbstractAsyncContextManager[None]],
        where: str,
    ) -> None:
        self.where = where
        self._process_of = process_of
        self._adapter = adapter
        self._turn = turn

    def hide(self, text: str) -> str:
        """There is no key."""
        return text

    async def submit(self, batch: Batch, *, perhaps_sent: bool) -> str:
        """Nothing leaves this machine."""
        return batch.id

    async def collect(self, batch: Batch) -> None:
        """Runs vLLM over the file; raises ServerError where it fails."""
        if batch.answers.is_file():
            return
        process = self._process_of(batch.folder / "vllm.log")
        part = batch.answers.with_suffix(".part")
        async with self._turn():
            files = batch.requests, part
            await process.run(
                build_batch_command(process.spec, process.model, process.device, files, self._adapter)
            )
        move(part, batch.answers)

    async def discard(self, batch: Batch) -> None:
        """Nothing is elsewhere."""

    async def close(self) -> None:
        """The process ends with whoever waits for it."""


class LeftCarrier:
    """Implements batches.Carrier by leaving the file where it is and waiting for the answers."""

    is_ours = True
    settled_seconds = 60.0  # without a change, after which a file that lacks lines is taken as it is

    def __init__(
        self,
        spec: VllmServer,
        model: str,
        adapter: Adapter | None,
        where: str,
        on_progress: Callable[[str], None],
    ) -> None:
        self.where = where
        self._spec = spec
        self._model = model
        self._adapter = adapter
        self._on_progress = on_progress

    def hide(self, text: str) -> str:
        """There is no key."""
        return text

    async def submit(self, batch: Batch, *, perhaps_sent: bool) -> str:
        """The file stands already."""
        return batch.id

    async def collect(self, batch: Batch) -> None:
        """Tells what to run, and waits for the answers; raises WorkspaceError where it cannot be written."""
        script = batch.folder / "command.sh"
        try:
            script.write_text(self._script(batch), encoding="utf-8")
        except OSError as error:
            raise unwritable(script, error) from error
        self._on_progress(f"batch {batch.id} waits for somebody to run {script}")
        while not self._is_whole(batch):  # noqa: ASYNC110 (another process writes it)
            await asyncio.sleep(POLL_SECONDS)

    async def discard(self, batch: Batch) -> None:
        """What somebody copied elsewhere is theirs."""

    async def close(self) -> None:
        """Nothing is held."""

    def _script(self, batch: Batch) -> str:
        """The server's own words. Elsewhere there is a GPU, unless the recipe says `device: cpu`."""
        device: Device = "cpu" if self._spec.device == "cpu" else "cuda"
        files = Path(batch.requests.name), Path(batch.answers.name)
        words = build_batch_command(self._spec, self._model, device, files, self._adapter, "python3")
        return SCRIPT.format(command=shlex.join(words))

    def _is_whole(self, batch: Batch) -> bool:
        try:
            changed = batch.answers.stat().st_mtime
            with batch.answers.open("rb") as lines:
                num_lines = sum(line.endswith(b"\n") for line in lines)
        except FileNotFoundError:
            return False
        settled = time.time() - changed > self.settled_seconds
        return num_lines >= len(batch.call_ids) or (num_lines > 0 and settled)
