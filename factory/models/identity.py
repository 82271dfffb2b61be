"""Who answers: an identity by content for a base and an adapter, so that a stored answer is found again.

It is part of every request's hash. A folder is named by its weights, its configuration and its
tokenizer with the chat template, not by its path; a hub name and an endpoint's model can only be named.
Large weights are read in part: size, beginning and end. A file that has not changed is read once.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from factory.errors import ServerError
from factory.types import Json, digest

EDGE_BYTES: Final = 1 << 26
NAME_DIGITS: Final = 8
# What changes an answer besides weights: not the README, not the trainer's own state.
MODEL_FILES: Final = (
    "*.safetensors",
    "pytorch_model*.bin",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "chat_template*",
)
ADAPTER_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
ADAPTER_KEYS: Final = (
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
)


def describe_folder(path: Path) -> Json:
    """Name and content hash of every file of a model's folder that decides its answers."""
    files = {file.name: file for pattern in MODEL_FILES for file in path.glob(pattern)}
    return [[name, hash_file(files[name])] for name in sorted(files)]


def describe_adapter(path: Path) -> Json:
    """Content hash of an adapter's weights and the part of its configuration that decides its answers."""
    weights = [hash_file(file) for file in adapter_weights(path)]
    config: dict[str, Any] = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError("adapter_config.json holds no object")
    values = {key: config.get(key) for key in ADAPTER_KEYS}
    if isinstance(values["target_modules"], list):
        values["target_modules"] = sorted(values["target_modules"])  # PEFT writes a set in any order
    return [weights, values]


def adapter_weights(path: Path) -> list[Path]:
    """The files of an adapter's weights."""
    return [path / name for name in ADAPTER_WEIGHTS if (path / name).is_file()]


def digest_adapter(path: Path) -> tuple[str, str]:
    """(hash of the weights, as `models.adapter_digest` has it, hash of all that decides answers), read anew.

    Raises OSError or ValueError where the folder holds no adapter.
    """
    _hash_file.cache_clear()  # a file may be changed and keep its size and time
    weights, values = describe_adapter(path)
    if not weights:
        raise FileNotFoundError("there are no adapter weights")
    return weights[0][:20], digest([weights, values])


def name_adapter(role: str, path: Path) -> str:
    """The name an adapter is served under: role and eight digits of its content."""
    return f"{role}-{digest(describe_adapter(path), NAME_DIGITS)}"


def refuse_other_content(name: str, path: Path, where: str) -> None:
    """Raises ServerError where the folder no longer holds the adapter that is served under this name.

    Loaded then, another adapter would answer in its place.
    """
    try:
        content = digest_adapter(path)[1]
    except (OSError, ValueError):
        content = ""
    if content[:NAME_DIGITS] != name.rpartition("-")[2]:
        what = f"the adapter '{name}' cannot be loaded: {path} does not hold it any more"
        raise ServerError(
            what, where=where, hint="put its files back, or run again with those that are there"
        )


def hash_file(path: Path) -> str:
    """BLAKE2b of size and content; of files over 128 MiB size, beginning and end."""
    stat = path.stat()
    return _hash_file(str(path.resolve()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1024)
def _hash_file(path: str, size: int, _mtime_ns: int) -> str:
    state = hashlib.blake2b(str(size).encode(), digest_size=20)
    with Path(path).open("rb") as file:
        state.update(file.read(EDGE_BYTES))
        file.seek(max(EDGE_BYTES, size - EDGE_BYTES))
        state.update(file.read(EDGE_BYTES))
    return state.hexdigest()
