"""Models at endpoints that already run: the key from the environment, the adapter loaded at every address."""

from __future__ import annotations

from pathlib import Path

from factory.errors import RecipeError
from factory.models.api_key import read_key
from factory.models.client import EndpointModel
from factory.models.identity import name_adapter
from factory.models.replicated import replicated
from factory.ports import Model
from factory.recipe import ModelSpec
from factory.servers import EndpointServer


async def open_endpoint(
    role: str, spec: ModelSpec, server: EndpointServer, model_id: str, adapter: Path | None
) -> Model:
    """The model of a role at an endpoint, with all its replicas; raises RecipeError or EndpointError."""
    key = read_key(server.api_key_env, f"servers.{spec.server}.api_key_env")
    name = await served_name(role, spec, server, adapter, key)
    return replicated(
        [
            EndpointModel(address, name, model_id, key, spec.timeout_seconds, server.structured)
            for address in server.addresses
        ]
    )


async def served_name(
    role: str, spec: ModelSpec, server: EndpointServer, adapter: Path | None, key: str | None
) -> str:
    """The name of a role's model at an endpoint; loads the adapter at every address."""
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
    for address in server.addresses:
        await load_adapter(address, key, name, adapter, where)
    return name
