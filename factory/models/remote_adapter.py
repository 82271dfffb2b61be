"""Loads LoRA adapters into a vLLM that somebody else started (`can_load_adapters: true`), and lists them.

The path must mean the same folder there as here. Nothing is unloaded: it is not our server.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from factory.address import without_password
from factory.errors import EndpointError
from factory.models.failure import failure_from_status
from factory.models.folders import adapter_body
from factory.models.listing import Listed, read_listing

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_SECONDS: Final = 120.0


async def load_adapter(base_url: str, api_key: str | None, name: str, path: Path, where: str) -> None:
    """Serves the adapter in `path` as `name`, unless it is served already; raises EndpointError."""
    url = base_url.rstrip("/")
    async with _asking(base_url, api_key, f"cannot load '{name}'") as session:
        if name in await _list_models(session, url, api_key):
            return
        async with session.post(f"{url}/load_lora_adapter", json=adapter_body(name, path)) as reply:
            await _check(reply, api_key, without_password(base_url))
        if name not in await _list_models(session, url, api_key):
            raise EndpointError(
                f"does not list the adapter '{name}' it loaded", kind="malformed", where=where
            )


async def list_models(base_url: str, api_key: str | None) -> dict[str, Listed]:
    """What is served there, by name; raises EndpointError."""
    async with _asking(base_url, api_key, "cannot list its models") as session:
        return await _list_models(session, base_url.rstrip("/"), api_key)


@asynccontextmanager
async def _asking(base_url: str, api_key: str | None, what: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose failures become EndpointErrors that begin with `what`."""
    import aiohttp

    shown = without_password(base_url)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(TIMEOUT_SECONDS)
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            yield session
    except (aiohttp.ClientError, TimeoutError) as error:
        kind = "timeout" if isinstance(error, TimeoutError) else "unreachable"
        told = f"{what}: {str(error) or kind}".replace(base_url, shown)
        raise EndpointError(told, kind=kind, where=shown) from None
    except (ValueError, LookupError, TypeError) as error:
        raise EndpointError(
            f"/models is not a list of models: {error}", kind="malformed", where=shown
        ) from None


async def _list_models(session: aiohttp.ClientSession, url: str, api_key: str | None) -> dict[str, Listed]:
    async with session.get(f"{url}/models") as reply:
        await _check(reply, api_key, without_password(url))
        return read_listing(await reply.json())


async def _check(reply: aiohttp.ClientResponse, api_key: str | None, where: str) -> None:
    """Raises EndpointError for every status but 200, in the server's own words and without the key."""
    if reply.status != 200:
        text = await reply.text()
        shown = text.replace(api_key, "***") if api_key else text
        raise failure_from_status(reply.status, reply.headers, shown, where)
