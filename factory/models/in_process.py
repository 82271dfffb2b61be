"""Our end of a vLLM without HTTP (`factory.models.vllm_worker`): a process like a server, behind a socket.

It is started, watched, given adapters and stopped as a server is, under the same guard; requests and answers
are lines instead of HTTP. It cannot be asked by anybody else, and its address is only a name.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from itertools import count
from typing import Any, Final

from factory.errors import ServerError
from factory.models.client import EndpointModel
from factory.models.ending import NOBODY, READY, wait_for_end
from factory.models.vllm_command import build_worker_command
from factory.models.vllm_server import REQUEST_SECONDS, VllmProcess
from factory.models.vllm_worker import CHAT, MAX_LINE, SOCKET, encode
from factory.models.wire import Reply

NO_HEADERS: Final[dict[str, str]] = {}
_STARTS: Final = count(1)


class Pipe:
    """Our end of the socket; requests side by side, each with a number."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.is_ready = False
        self._writer = writer
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._reading = asyncio.create_task(self._read(reader))

    async def request(self, path: str, body: bytes) -> Reply:
        """The reply to one request, which is taken back where nobody waits any more; raises OSError."""
        if self._reading.done():
            raise ConnectionResetError("the process is gone")
        number = next(self._numbers)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            self._writer.write(encode(number, path, body))
            await self._writer.drain()
            return await reply
        except asyncio.CancelledError:
            if number in self._waiting:
                self._writer.write(encode(number, None, b"null"))
            raise
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """Closes our end, which ends the worker."""
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                number, status, content = line[1:-2].split(b",", 2)
                if number == b"0":
                    self.is_ready = True
                elif (reply := self._waiting.get(int(number))) is not None and not reply.done():
                    reply.set_result(Reply(int(status), NO_HEADERS, content))
        finally:
            self.is_ready = False
            for reply in self._waiting.values():
                if not reply.done():
                    reply.set_exception(ConnectionResetError("the process is gone"))


class PipeConnection:
    """What an EndpointModel posts to; the pipe is its process's to close."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    async def post(self, body: bytes, sent: asyncio.Event) -> Reply:
        """The reply to one chat completion; raises OSError."""
        sent.set()
        return await self._pipe.request(CHAT, body)

    async def close(self) -> None:
        """Nothing is its own."""


class VllmInProcess(VllmProcess):
    """A vLLM behind a socket pair."""

    _pipe: Pipe | None = None
    _theirs: socket.socket | None = None
    _ours: socket.socket | None = None

    def _command(self, _port: int | None) -> list[str]:
        self._ours, self._theirs = socket.socketpair()
        self.base_url = f"{self.where}, start {next(_STARTS)}"  # a client of an earlier one is no good
        return build_worker_command(self.spec, self.model, self.device)

    def _launch(self, command: list[str], environment: dict[str, str]) -> None:
        if self._theirs is None:
            return super()._launch(command, environment)
        self.passed_on = (self._theirs.fileno(),)
        try:
            super()._launch(command, environment | {SOCKET: str(self._theirs.fileno())})
        finally:
            self._theirs.close()  # else the end of the process would not close it

    async def _connect(self) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=self._ours, limit=MAX_LINE)
        self._pipe = Pipe(reader, writer)

    async def health(self) -> int | None:
        return READY if self._pipe is not None and self._pipe.is_ready else NOBODY

    async def stop(self) -> None:
        """Ends the process; calling it again does nothing."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            await pipe.close()
        await super().stop()

    def open_model(self, name: str, model_id: str, timeout_seconds: float) -> EndpointModel:
        """A model or adapter that it serves."""
        if self._pipe is None:
            raise self._failure("is not running")
        connection = PipeConnection(self._pipe)
        return EndpointModel(self.base_url, name, model_id, None, timeout_seconds, connection=connection)

    def describe(self) -> str:
        """What it is, for a person."""
        return f"{self.model} on {self.device} (process {os.getpid()} alone can ask it)"

    async def _request(self, method: str, path: str, body: dict[str, str] | None = None) -> Any:
        if self._pipe is None:
            raise self._failure("is not running")
        started = self.started
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                reply = await self._pipe.request(path, json.dumps(body).encode())
        except OSError as error:
            if not isinstance(error, TimeoutError):
                await wait_for_end(self, started)
            self.raise_if_dead()
            raise ServerError(
                f"{path} failed: {str(error) or type(error).__name__}", where=self.where
            ) from error
        if reply.status != 200:
            text = reply.content.decode("utf-8", "replace")[:500]
            raise ServerError(f"{path} answered {reply.status}: {text}", where=self.where)
        return json.loads(reply.content)
