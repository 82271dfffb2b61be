"""Loads a LoRA adapter into a vLLM that somebody else started (`can_load_adapters: true`).

The path must mean the same folder there as here. Nothing is unloaded: it is not our server.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from factory.address import without_password
from factory.errors import EndpointError
from factory.models.failure import failure_from_status
from factory.models.folders import adapter_body

if TYPE_CHECKING:
    import aiohttp

TIMEOUT_SECONDS: Final = 120.0


async def load_adapter(base_url: str, api_key: str | None, name: str, path: Path, where: str) -> None:
    """Serves the adapter in `path` as `name`, unless it is served already; raises EndpointError."""
    import aiohttp

    shown = without_password(base_url)
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(TIMEOUT_SECONDS)
    url = base_url.rstrip("/")
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            if name in await _list_models(session, url, api_key):
                return
            async with session.post(f"{url}/load_lora_adapter", json=adapter_body(name, path)) as reply:
                await _check(reply, api_key, shown)
            if name not in await _list_models(session, url, api_key):
                raise EndpointError(
                    f"does not list the adapter '{name}' it loaded", kind="malformed", where=where
                )
    except (aiohttp.ClientError, TimeoutError) as error:
        kind = "timeout" if isinstance(error, TimeoutError) else "unreachable"
        what = f"cannot load '{name}': {str(error) or kind}".replace(base_url, shown)
        raise EndpointError(what, kind=kind, where=shown) from None
    except (ValueError, LookupError, TypeError) as error:
        raise EndpointError(
            f"/models is not a list of models: {error}", kind="malformed", where=shown
        ) from None


async def _list_models(session: aiohttp.ClientSession, url: str, api_key: str | None) -> list[str]:
    async with session.get(f"{url}/models") as reply:
        await _check(reply, api_key, without_password(url))
        return [str(model["id"]) for model in (await reply.json())["data"]]


async def _check(reply: aiohttp.ClientResponse, api_key: str | None, where: str) -> None:
    """Raises EndpointError for every status but 200, in the server's own words and without the key."""
    if reply.status != 200:
        text = await reply.text()
        shown = text.replace(api_key, "***") if api_key else text
        raise failure_from_status(reply.status, reply.headers, shown, where)
