"""Bases and adapters as folders on disk: found, told apart by content, read back.

Nothing here loads weights into a model; a digest is taken of the files as they lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.errors import RecipeError, TrainingError
from factory.models.folders import find_model
from factory.types import Adapter, digest


def resolve_base(folder: Path, base: str) -> tuple[str, str]:
    """Where the base is loaded from, and a digest of it; a hub name stands for itself.

    Of large weights only size, beginning and end are hashed. Raises RecipeError where a folder has no
    weights.
    """
    found, is_folder = find_model(folder, base)
    if not is_folder:
        return base, base
    path = Path(found)
    weights = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
    if not (path / "config.json").is_file() or not weights:
        raise RecipeError("not a model folder: no config.json or no weights", where=str(path))
    return str(path), digest([hash_file(file) for file in (path / "config.json", *weights)])


def hash_file(path: Path, edge_bytes: int = 1 << 26) -> str:
    """BLAKE2b of size and content, of files over two edges of size, beginning and end."""
    size = path.stat().st_size
    state = hashlib.blake2b(str(size).encode(), digest_size=20)
    with path.open("rb") as file:
        state.update(file.read(edge_bytes))
        file.seek(max(edge_bytes, size - edge_bytes))
        state.update(file.read(edge_bytes))
    return state.hexdigest()


def identify(options: Mapping[str, Any], base_digest: str, dataset_digest: str, seed: int) -> str:
    """What an adapter is by what it was made of: the options of its training.json, base, dataset and seed."""
    counted = {name: value for name, value in options.items() if name != "num_threads"}
    if counted.get("preference", {}).get("method") == "dpo":  # named as ever
        counted["preference"] = {k: v for k, v in counted["preference"].items() if k != "method"}
    return digest([counted, base_digest, dataset_digest, seed])


def is_complete(directory: Path, identity: str) -> bool:
    """Whether this very adapter stands in `directory`; raises TrainingError if another one does."""
    if not directory.exists():
        return False
    try:
        found = json.loads((directory / "training.json").read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError):
        found = None
    if found != identity:
        raise TrainingError(
            "the folder holds something else already", where=str(directory), hint="choose another"
        )
    return True


def read_adapter(directory: Path) -> Adapter:
    """The adapter that a finished training left in `directory`."""
    record = json.loads((directory / "training.json").read_text(encoding="utf-8"))
    weights = hash_file(directory / "adapter_model.safetensors")
    return Adapter(
        directory, weights[:20], record["base"], record["num_steps"], record["loss"], record["seconds"]
    )
