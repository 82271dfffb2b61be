"""POST requests to one address over keep-alive connections, with as little between as can be.

Bytes go to the loop's transport and come back through httptools (llhttp, the parser of Node.js). A general
client such as aiohttp builds requests, responses, timers and streams for each call, which was a third of all
that a sample cost (docs/log.md). One address, one method, whole bodies: that is all this can do. Proxies,
forms and downloads are not here.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
import zlib
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from multidict import CIMultiDict

if TYPE_CHECKING:
    import ssl

# Below the five seconds after which uvicorn (vLLM) closes idle connections, so that none is reused too late.
KEEPALIVE_SECONDS: Final = 4.0
NEXT_ADDRESS_SECONDS: Final = 0.25
ON_THE_WAY: Final = {100, 102, 103}  # statuses before that of the reply
ADDRESSES_SECONDS: Final = 10.0  # for which a host's addresses are remembered
OURS: Final = {"content-length", "transfer-encoding", "connection", "expect"}


class Reply(NamedTuple):
    """What came back; names of headers are found in any case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Wire:
    """Connections to one http or https address; belongs to one event loop."""

    def __init__(self, url: str, headers: Mapping[str, str], context: ssl.SSLContext | None) -> None:
        """Raises ValueError for an address that is none."""
        where = urlsplit(url)
        if where.scheme not in {"http", "https"} or not where.hostname:
            raise ValueError("neither http:// nor https:// and a host")
        self._host, self._context = where.hostname, context
        self._port = where.port or (443 if context else 80)
        target = where.path + (f"?{where.query}" if where.query else "")
        usual = {"host": where.netloc, "accept-encoding": "gzip"}
        given = {name.lower(): value for name, value in headers.items() if name.lower() not in OURS}
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in (usual | given).items())]
        self._is_sound = not any(char in line for line in lines for char in "\r\n\0")
        self._head = "\r\n".join([*lines, "content-length: "]).encode()
        self._idle: deque[_Exchange] = deque()
        self._open: set[_Exchange] = set()
        self._lookup: asyncio.Task[list[Any]] | None = None
        self._looked_up_at = 0.0

    async def post(self, body: bytes, sent: asyncio.Event) -> Reply:
        """The reply to one request; raises OSError, and ValueError for headers that cannot be sent.

        `sent` is set once there is a connection, before anything of the request leaves.
        """
        if not self._is_sound:
            raise ValueError("a header holds a line break or NUL")
        exchange = self._rested() or await self._connect()
        sent.set()
        try:
            reply = await exchange.send(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        except BaseException:  # whatever still comes over it answers nobody
            exchange.transport.abort()
            raise
        if exchange.can_go_on:
            exchange.idle_since = time.monotonic()
            self._idle.append(exchange)
            while self._idle and not self._idle[0].is_rested:
                self._idle.popleft().transport.close()
        else:
            exchange.transport.close()
        return reply

    async def close(self) -> None:
        """Closes all connections."""
        for exchange in list(self._open):
            exchange.transport.abort()
        self._open.clear()
        if self._lookup:
            self._lookup.cancel()
        await asyncio.sleep(0)  # transports tell their protocols in the next turn of the loop

    def _rested(self) -> _Exchange | None:
        """The connection that was used last, unless it is too old; then all others are older."""
        while self._idle:
            exchange = self._idle.pop()
            if exchange.is_rested:
                return exchange
            exchange.transport.close()
        return None

    async def _addresses(self) -> list[Any]:
        """The host's addresses, looked up once for all who connect in the meantime."""
        is_old = time.monotonic() - self._looked_up_at > ADDRESSES_SECONDS
        if self._lookup is None or (self._lookup.done() and (is_old or self._lookup.exception())):
            looking = asyncio.get_running_loop().getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            self._lookup, self._looked_up_at = asyncio.ensure_future(looking), time.monotonic()
            self._lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(self._lookup)

    async def _connect(self) -> _Exchange:
        """A new connection; of several addresses of the host the first that answers (RFC 8305)."""
        loop = asyncio.get_running_loop()
        there = await start_connection(await self._addresses(), happy_eyeballs_delay=NEXT_ADDRESS_SECONDS)
        name = self._host if self._context else None
        _, exchange = await loop.create_connection(
            lambda: _Exchange(self._open), sock=there, ssl=self._context, server_hostname=name
        )
        return exchange


class _Exchange(asyncio.Protocol):
    """One connection: a request out, its reply in, and the next."""

    transport: Any
    idle_since = 0.0
    can_go_on = True  # after this reply

    def __init__(self, all_open: set[_Exchange]) -> None:
        self._all_open = all_open
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._reply: asyncio.Future[Reply] | None = None

    @property
    def is_rested(self) -> bool:
        """Whether it can be used again: open, and idle for less than servers wait."""
        return not self.transport.is_closing() and time.monotonic() - self.idle_since < KEEPALIVE_SECONDS

    def send(self, request: bytes) -> asyncio.Future[Reply]:
        """Sends a whole request; the future is its reply or an OSError."""
        self._begin()
        self._reply = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self._fail(ConnectionResetError("Server disconnected"))
        else:
            self.transport.write(request)
        return self._reply

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._all_open.add(self)

    def data_received(self, data: bytes) -> None:
        if self._reply is None:  # nobody asked
            self.transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:  # status 101 is the reply; what follows is another protocol
            self.transport.abort()
        except HttpParserError as error:
            self._fail(ConnectionError(f"the answer is not HTTP: {error}"))
            self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._all_open.discard(self)
        if self._reply is None:
            return
        names = {name.lower() for name, _ in self._headers}
        if error is None and self._is_body and not names & {b"content-length", b"transfer-encoding"}:
            self._finish()  # such a body ends with the connection
        else:
            self._fail(error if isinstance(error, OSError) else ConnectionResetError("Server disconnected"))

    def on_message_begin(self) -> None:
        if self._reply is None:  # more than was asked for: what follows could pass for the next reply
            self.transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._is_body = True

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() in ON_THE_WAY:
            self._begin()
        else:
            self.can_go_on = self._parser.should_keep_alive()
            self._finish()

    def _begin(self) -> None:
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._is_body = False

    def _finish(self) -> None:
        headers = CIMultiDict(
            [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._headers]
        )
        content = b"".join(self._pieces)
        if headers.get("content-encoding", "").lower() in {"gzip", "x-gzip"}:
            with suppress(OSError, EOFError, zlib.error):  # as it came, it is no answer
                content = gzip.decompress(content)
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_result(Reply(self._parser.get_status_code(), headers, content))

    def _fail(self, error: Exception) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            reply.set_exception(error)
