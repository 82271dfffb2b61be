"""The way to one endpoint: where an `openai` client would post, with what headers, over aiohttp.

The openai client is what is configured: it reads base URL, key and its environment variables, and says
the headers. Its own request path is left out, since it walks the JSON schema by Python's type hints for
each call and builds every header and URL anew (docs/log.md): what it would send is worked out once and
posted on connections of our own. Bytes in, status and bytes out; what they mean is not here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from factory.models.wire import KEEPALIVE_SECONDS, Reply, Wire

if TYPE_CHECKING:
    import asyncio
    import ssl
    from contextlib import AbstractAsyncContextManager
    from typing import IO

    from aiohttp import ClientResponse
    from openai import AsyncOpenAI

MAX_CONNECTIONS: Final = 4096
SILENCE_SECONDS: Final = 120.0  # of a server that takes or gives a file
PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Route:
    """Where chat completions are posted to, with which headers, and through which proxy."""

    url: str
    headers: Mapping[str, str]
    proxy: str | None
    proxy_headers: Mapping[str, str]


class Connection:
    """Keep-alive connections to one endpoint; belongs to one event loop.

    Raises ValueError or httpx2.InvalidURL for a base URL that is none.
    """

    def __init__(self, base_url: str, key: str) -> None:
        import aiohttp
        from multidict import CIMultiDict
        from yarl import URL

        self.client = open_client(base_url, key)
        route = find_route(self.client)
        self._url = URL(route.url, encoded=True)
        # For each request: of a session's own headers, the key among them, aiohttp tells the proxy too.
        self._headers = CIMultiDict(route.headers)
        self._proxy = route.proxy
        self._proxy_headers = route.proxy_headers
        context = _certificates() if route.url.startswith("https:") else None
        self._wire = None if route.proxy else Wire(route.url, route.headers, context)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS, keepalive_timeout=KEEPALIVE_SECONDS, ssl=context or True
            ),
            timeout=aiohttp.ClientTimeout(total=None),  # the caller's deadline covers all
        )

    async def post(self, body: bytes, sent: asyncio.Event) -> Reply:
        """The endpoint's reply to one chat completion; raises aiohttp.ClientError, OSError, ValueError.

        `sent` is set once there is a connection, before anything of the request leaves.
        """
        if self._wire:
            return await self._wire.post(body, sent)
        from factory.models.body import Body

        async with self._session.post(
            self._url,
            data=Body(body, sent),
            headers=self._headers,
            proxy=self._proxy,
            proxy_headers=self._proxy_headers,
            allow_redirects=False,  # prompts go where the recipe says and nowhere else
        ) as reply:
            return Reply(reply.status, reply.headers, await reply.read())

    async def request(self, method: str, path: str, data: object = None) -> Reply:
        """The reply at another of the endpoint's paths, such as files; `data` is JSON as bytes, or a form."""
        async with self._open(method, path, data) as reply:
            return Reply(reply.status, reply.headers, await reply.read())

    async def download(self, path: str, file: IO[bytes]) -> Reply:
        """Writes what stands at a path to a file, piece by piece; the reply holds a refusal's body only."""
        async with self._open("GET", path, None) as reply:
            if reply.status != 200:
                return Reply(reply.status, reply.headers, await reply.read())
            async for piece in reply.content.iter_chunked(PIECE_BYTES):
                file.write(piece)
            return Reply(reply.status, reply.headers, b"")

    def _open(self, method: str, path: str, data: object) -> AbstractAsyncContextManager[ClientResponse]:
        from aiohttp import ClientTimeout
        from yarl import URL

        headers = self._headers.copy()
        if not isinstance(data, bytes):
            headers.popall("content-type", None)  # that of a form has its boundary
        return self._session.request(
            method,
            URL(str(self._url).removesuffix("chat/completions") + path, encoded=True),
            data=data,
            headers=headers,
            proxy=self._proxy,
            proxy_headers=self._proxy_headers,
            allow_redirects=False,
            timeout=ClientTimeout(total=None, connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS),
        )

    async def close(self) -> None:
        """Closes all connections."""
        if self._wire:
            await self._wire.close()
        await self._session.close()
        await self.client.close()


def open_client(base_url: str, key: str) -> AsyncOpenAI:
    """The openai client of an endpoint, which knows address and headers and sends nothing itself."""
    import httpx2
    from openai import AsyncOpenAI

    # A transport that cannot send: the usual one would load certificates, and proxies of kinds it lacks.
    silent = httpx2.AsyncClient(trust_env=False, transport=httpx2.AsyncBaseTransport())
    return AsyncOpenAI(base_url=base_url, api_key=key or "none", max_retries=0, http_client=silent)


def find_route(client: AsyncOpenAI) -> Route:
    """What the client would do with a chat completion; user and password in its URL become a header."""
    base = client.base_url
    url = base.copy_with(raw_path=base.raw_path + b"chat/completions", userinfo=b"")
    headers = {name.lower(): value for name, value in client.auth_headers.items()}
    for name, value in client.default_headers.items():  # a user's own come last, in any case
        if isinstance(value, str):
            headers[name.lower()] = value
        else:  # openai's mark for a header that is to be left out
            headers.pop(name.lower(), None)
    if base.userinfo:
        headers["authorization"] = _basic(base.username, base.password)
    proxy, proxy_headers = _proxy_of(str(url))
    return Route(str(url), headers, proxy, proxy_headers)


def _proxy_of(url: str) -> tuple[str | None, dict[str, str]]:
    """The proxy that the environment names for an address, and the header with its user and password."""
    where = urlsplit(url)
    if not where.hostname or is_loopback(where.hostname) or proxy_bypass(where.netloc):
        return None, {}
    proxies = getproxies()
    proxy = proxies.get(where.scheme) or proxies.get("all")
    if not proxy:
        return None, {}
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = {}
    if parts.username is not None:
        user, password = unquote(parts.username), unquote(parts.password or "")
        headers["Authorization"] = _basic(user, password)  # aiohttp makes it Proxy-Authorization
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), headers


def _basic(user: str, password: str) -> str:
    import aiohttp

    return aiohttp.encode_basic_auth(user, password)


def is_loopback(host: str) -> bool:
    """Whether a proxy named in the environment could not reach the host anyway."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _certificates() -> ssl.SSLContext:
    """The certificates that openai trusts: SSL_CERT_FILE and SSL_CERT_DIR, else certifi's."""
    import httpx2

    return httpx2.create_ssl_context()
