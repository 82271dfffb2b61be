"""What an endpoint says it serves: the entries of vLLM's /v1/models, and whether one of them is an adapter.

An adapter's entry names its base (`parent`) and the folder it was loaded from (`root`); a base has no parent.
Reads and checks; asks nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from factory.errors import FactoryError
from factory.types import Json


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry; `parent` is None for a base, `max_model_len` in tokens for an adapter.

    All are None where the endpoint does not tell.
    """

    name: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


def read_listing(body: Json) -> dict[str, Listed]:
    """The entries by name; raises ValueError, LookupError or TypeError where that is no list of models."""
    told = ("root", "parent", "max_model_len")
    entries = [Listed(str(each["id"]), *map(each.get, told)) for each in body["data"]]
    return {each.name: each for each in entries}


def find_adapter(entries: Mapping[str, Listed], name: str, where: str) -> Listed:
    """The entry of an adapter; raises FactoryError where there is none, or it has no base that is served."""
    hint = "restart that server, so that the adapter is loaded anew"
    entry = entries.get(name)
    if entry is None:
        raise FactoryError(f"the adapter '{name}' is not among the models served", where=where, hint=hint)
    base = entries.get(entry.parent or "")
    if base is None or base.parent is not None:
        what = f"what is served as '{name}' is no adapter of a base that is served"
        raise FactoryError(what, where=where, hint=hint)
    return entry
