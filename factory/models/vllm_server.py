"""A vLLM process of ours on loopback: started behind a guard, waited for, given adapters, stopped.

The guard (`factory.models.guard`) ends the server with the factory, however that ends. The log is a file
in the workspace; when the server dies, its end is told (`vllm_log`). How vLLM is called is in `vllm_command`;
which server runs when is the pool's concern.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from factory.errors import ServerError
from factory.models.ending import READY, read_health, wait_for_end
from factory.models.folders import (
    adapter_body,
    check_adapter_folder,
    check_model_folder,
    check_rank,
    find_model,
)
from factory.models.guard import PASSED_ON
from factory.models.listing import Listed, read_listing
from factory.models.vllm_command import (
    build_command,
    build_environment,
    find_device,
    find_dtype,
    share_of_machine,
)
from factory.models.vllm_log import TAIL_LINES, find_cause, last_progress, read_tail
from factory.servers import VllmServer

if TYPE_CHECKING:
    import aiohttp

    from factory.models.client import EndpointModel

__all__ = ["VllmProcess", "check_adapter_folder", "check_model_folder", "check_rank"]

POLL_SECONDS: Final = 0.25
TELL_SECONDS: Final = 5.0
STOP_SECONDS: Final = 15.0
REQUEST_SECONDS: Final = 120.0


class VllmProcess:
    """One process. `folder` is what the recipe's paths are relative to, `where` its key for messages.

    `replica` tells those of one server apart, from 0 on.
    """

    def __init__(
        self,
        name: str,
        spec: VllmServer,
        folder: Path,
        log: Path,
        on_progress: Callable[[str], None],
        replica: int = 0,
    ) -> None:
        self.name = replica_name(name, spec, replica)
        self.replica = replica
        self.spec = spec
        self.log = log
        self.where = f"servers.{name}"
        self.model, self.is_folder = find_model(folder, spec.model)
        self.device = find_device(spec.device, f"{self.where}.device")
        self.api_key = ""
        self.base_url = ""
        self.is_asleep = False
        self.passed_on: tuple[int, ...] = ()  # descriptors that the process gets
        self._on_progress = on_progress
        self._process: subprocess.Popen[bytes] | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def is_running(self) -> bool:
        """Whether the process is there, asleep or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_died(self) -> bool:
        """Whether it ended by itself; one that was stopped has not."""
        return self._process is not None and self._process.poll() is not None

    @property
    def started(self) -> subprocess.Popen[bytes] | None:
        """Its guard, another one after each start."""
        return self._process

    @property
    def can_sleep(self) -> bool:
        return self.device == "cuda"

    async def start(self, port: int | None = None) -> None:
        """Ready to answer when it returns; raises RecipeError before, ServerError after the start."""
        check_rank(self.spec.max_lora_rank, f"{self.where}.max_lora_rank")
        if self.is_folder:
            check_model_folder(Path(self.model), f"{self.where}.model")
        await self.stop()  # a start or a sleep that failed may have left something
        share = share_of_machine(self.spec, self.device, self.replica, self.where)
        command = self._command(port)
        try:
            self._launch(command, self._environment() | share)
            await self._connect()
            await self._wait_until_ready()
        except BaseException:
            await self.stop()
            raise

    def _command(self, port: int | None) -> list[str]:
        """What starts it; says where it will be."""
        port = port or find_free_port()
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.api_key = secrets.token_urlsafe(24)
        return build_command(self.spec, self.model, self.device, port)

    async def run(self, command: list[str]) -> None:
        """Runs another program of vLLM's to its end; raises ServerError where that is no good one."""
        share = share_of_machine(self.spec, self.device, self.replica, self.where)
        try:
            self._launch(command, self._environment() | share)
            while self.is_running:  # noqa: ASYNC110 (it is another process)
                await asyncio.sleep(POLL_SECONDS)
            if self._process is not None and self._process.returncode:
                raise self._failure("did not get through its batch")
        finally:
            await self.stop()

    def _environment(self) -> dict[str, str]:
        return build_environment(self.spec, self.device, is_folder=self.is_folder, key=self.api_key)

    def _launch(self, command: list[str], environment: dict[str, str]) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "factory.models.guard", "--", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment | {PASSED_ON: " ".join(map(str, self.passed_on))},
                pass_fds=self.passed_on,
                start_new_session=True,
            )

    async def _connect(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(REQUEST_SECONDS)
        headers = {"Authorization": f"Bearer {self.api_key}"}
        self._session = aiohttp.ClientSession(headers=headers, timeout=timeout)

    async def _wait_until_ready(self) -> None:
        told = began = time.monotonic()
        dtype = find_dtype(self.spec, self.model, self.device)
        how = f"{self.device}" if dtype == "auto" else f"{self.device} in {dtype}"
        self._on_progress(f"server '{self.name}': starting vLLM on {how}, log in {self.log}")
        while await self.health() != READY:
            seconds = time.monotonic() - began
            self.raise_if_dead("did not start")
            if seconds > self.spec.startup_timeout_seconds:
                raise self._failure(f"was not ready after {seconds:.0f} s")
            if time.monotonic() - told > TELL_SECONDS:
                told = time.monotonic()
                self._on_progress(f"server '{self.name}': {seconds:.0f} s, {last_progress(self.log)}")
            await asyncio.sleep(POLL_SECONDS)
        await self.list_models()
        self._on_progress(f"server '{self.name}': ready after {time.monotonic() - began:.0f} s")

    async def health(self) -> int | None:
        """The status that it tells of itself: `ending.read_health`."""
        return None if self._session is None else await read_health(self._session, self.base_url)

    def open_model(self, name: str, model_id: str, timeout_seconds: float) -> EndpointModel:
        """A client of the model or adapter that it serves under a name."""
        from factory.models.client import EndpointModel

        return EndpointModel(self.base_url, name, model_id, self.api_key, timeout_seconds)

    async def load_adapter(self, name: str, path: Path) -> None:
        """Serves the LoRA adapter in `path` as model `name`; raises RecipeError or ServerError."""
        check_adapter_folder(path, self.spec.max_lora_rank, f"{self.where}: adapter '{name}'")
        await self._request("POST", "/v1/load_lora_adapter", adapter_body(name, path))
        if name not in await self.list_models():
            raise self._failure(f"does not list the adapter '{name}' that it loaded")

    async def list_models(self) -> dict[str, Listed]:
        """What it serves, by name: 'base' and adapters."""
        return read_listing(await self._request("GET", "/v1/models"))

    async def sleep(self) -> None:
        """Moves the weights to main memory once the calls in flight are done; only on a GPU."""
        await self._request("POST", "/sleep?level=1&mode=wait")
        self.is_asleep = True

    async def wake(self) -> None:
        """Undoes sleep."""
        await self._request("POST", "/wake_up")
        self.is_asleep = False

    async def stop(self) -> None:
        """Ends the server and everything it started; calling it again does nothing."""
        session, self._session = self._session, None
        process, self._process = self._process, None
        self.is_asleep = False
        self.key_file.unlink(missing_ok=True)
        if process is not None and process.stdin is not None:
            process.stdin.close()  # the guard ends the server from here on, even if we are cancelled now
        if session is not None:
            await session.close()
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, STOP_SECONDS)

    def raise_if_dead(self, what: str = "died") -> None:
        """Raises ServerError with the end of the log where the process has ended."""
        if not self.is_running:
            raise self._failure(what)

    def put_log_aside(self) -> ServerError:
        """Why it died; its log is kept under a number, since the next start writes over it."""
        aside = (self.log.with_name(f"{self.log.stem}-died-{number}.log") for number in itertools.count(1))
        kept = next(path for path in aside if not path.exists())
        with contextlib.suppress(OSError):  # somebody may have tidied up
            self.log.replace(kept)
        return self._failure("died", kept)

    @property
    def key_file(self) -> Path:
        return self.log.with_suffix(".key")

    def describe(self) -> str:
        """What serves where, for a person; leaves the key in a file that only its owner can read."""
        self.key_file.unlink(missing_ok=True)
        with os.fdopen(os.open(self.key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self.api_key)
        return f"{self.model} on {self.device} at {self.base_url}, with the key in {self.key_file}"

    async def _request(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        """The JSON of an answer, or its text; raises ServerError for every status but 200."""
        import aiohttp

        if self._session is None:
            raise self._failure("is not running")
        started = self.started
        try:
            url = self.base_url.removesuffix("/v1") + path
            async with self._session.request(method, url, json=body) as reply:
                if reply.status != 200:
                    text = (await reply.text())[:500]
                    raise ServerError(f"{path} answered {reply.status}: {text}", where=self.where)
                return await reply.json() if reply.content_type == "application/json" else await reply.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            if not isinstance(error, TimeoutError):
                await wait_for_end(self, started)
            self.raise_if_dead()
            raise ServerError(
                f"{path} failed: {str(error) or type(error).__name__}", where=self.where
            ) from error

    def _failure(self, what: str, log: Path | None = None) -> ServerError:
        log = log or self.log
        lines, code = read_tail(log), self._process.returncode if self._process else None
        return ServerError(
            f"the vLLM server '{self.name}' {what}: {find_cause(lines, code)}",
            where=self.where,
            hint=f"the whole log is in {log}",
            log_tail=lines[-TAIL_LINES:],
        )


def replica_name(name: str, spec: VllmServer, replica: int) -> str:
    """What messages and log files call a process: the server's name, numbered where it has several."""
    return name if spec.replicas == 1 else f"{name}-{replica + 1}"


def find_free_port() -> int:
    """A TCP port of loopback that nobody listens on right now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
