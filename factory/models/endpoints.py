"""Models at endpoints that already run: the key from the environment, adapters wherever one is up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from factory.errors import RecipeError
from factory.models.api_key import read_key
from factory.models.client import EndpointModel
from factory.models.identity import name_adapter
from factory.models.replicated import replicated
from factory.ports import Model
from factory.recipe import ModelSpec
from factory.servers import EndpointServer

DOWN: Final = {"unreachable", "timeout", "server_error"}


async def open_endpoint(
    role: str,
    spec: ModelSpec,
    server: EndpointServer,
    model_id: str,
    adapter: Path | None,
    on_progress: Callable[[str], None],
) -> Model:
    """The model of a role at an endpoint, with all its replicas; raises RecipeError or EndpointError."""
    key = read_key(server.api_key_env, f"servers.{spec.server}.api_key_env")
    name = await served_name(role, spec, server, adapter, key, on_progress)
    return replicated(
        [
            EndpointModel(address, name, model_id, key, spec.timeout_seconds, server.structured)
            for address in server.addresses
        ]
    )


async def served_name(
    role: str,
    spec: ModelSpec,
    server: EndpointServer,
    adapter: Path | None,
    key: str | None,
    on_progress: Callable[[str], None],
) -> str:
    """The name of a role's model at an endpoint; loads the adapter at every address.

    One that is down is told and left out where the adapter is at another. Raises RecipeError, EndpointError.
    """
    if adapter is None:
        return spec.model or ""
    from factory.models.remote_adapter import load_adapter

    where = f"servers.{spec.server}"
    if not server.can_load_adapters:
        raise RecipeError(
            f"the endpoint cannot load the adapter {adapter}",
            where=where,
            hint="set `can_load_adapters` where it is a vLLM that may, or serve the adapter there",
        )
    name = name_adapter(role, adapter)
    loading = [load_adapter(address, key, name, adapter, where) for address in server.addresses]
    failed = [error for error in await asyncio.gather(*loading, return_exceptions=True) if error]
    for error in failed:
        if getattr(error, "kind", "") not in DOWN or len(failed) == len(loading):
            raise error
        on_progress(f"{error}; its calls go to the other addresses")
    return name
