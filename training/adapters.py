"""Bases and adapters as folders on disk: found, told apart by content, read back.

Nothing here loads weights into a model; a digest is taken of the files as they lie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.errors import RecipeError, TrainingRefused
from factory.models.folders import find_model
from factory.types import Adapter, digest
from training.curves import read_curve

UNCOUNTED = {"num_threads", "tracker"}  # options that change nothing of an adapter


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


def identify(
    options: Mapping[str, Any],
    base_digest: str,
    dataset_digest: str,
    seed: int,
    dev_digest: str | None = None,
) -> str:
    """What an adapter is by what it was made of: the options of its training.json, base, dataset and seed.

    `dev_digest` is that of the chats of dev, where early stopping looked at them.
    """
    counted = {name: value for name, value in options.items() if name not in UNCOUNTED}
    if counted.get("preference", {}).get("method") == "dpo":  # named as ever
        counted["preference"] = {k: v for k, v in counted["preference"].items() if k != "method"}
    made_of = [counted, base_digest, dataset_digest, seed]
    return digest(made_of if dev_digest is None else [*made_of, dev_digest])


def is_complete(directory: Path, job: Mapping[str, Any]) -> bool:
    """Whether the very adapter of this job stands in `directory`.

    Raises TrainingRefused if another one does, which names what differs: base, dataset, seed or options.
    """
    if not directory.exists():
        return False
    try:
        found = json.loads((directory / "training.json").read_text(encoding="utf-8"))
        identity = found["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        what = "the folder holds something else already"
        raise TrainingRefused(what, where=str(directory), hint="choose another") from None
    if identity != job["identity"]:
        what = f"the folder holds an adapter of another {' and '.join(differences(found, job))}"
        hint = "choose another folder, or train as that one was trained"
        raise TrainingRefused(what, where=str(directory), hint=hint)
    return True


def differences(record: Mapping[str, Any], job: Mapping[str, Any]) -> list[str]:
    """What tells a stored training from a job, in words: "base (/a, here /b)", "rank (8, here 16)"."""
    found = []
    if record.get("base_digest", job["base_digest"]) != job["base_digest"]:
        same = record.get("base") == job["base"]
        found.append(f"base ({'its files changed' if same else _pair(record.get('base'), job['base'])})")
    if record.get("dataset_digest") != job["dataset_digest"]:
        found.append("dataset")
    if record.get("seed") != job["seed"]:
        found.append(f"seed ({_pair(record.get('seed'), job['seed'])})")
    if record.get("dev_digest") != job.get("dev_digest") and record.get("dev_digest") and "dev_digest" in job:
        found.append("dev (its items changed)")
    before, now = _flat(record.get("options") or {}), _flat(job["options"])
    for name in sorted({*before, *now} - UNCOUNTED):
        if before.get(name) != now.get(name):
            found.append(f"{name} ({_pair(before.get(name), now.get(name))})")
    return found or ["configuration"]


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by dotted names, so that what differs within a group is told by itself."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _pair(before: Any, now: Any) -> str:
    return f"{json.dumps(before)}, here {json.dumps(now)}"


def read_adapter(directory: Path) -> Adapter:
    """The adapter that a finished training left in `directory`."""
    record = json.loads((directory / "training.json").read_text(encoding="utf-8"))
    weights = hash_file(directory / "adapter_model.safetensors")
    return Adapter(
        directory,
        weights[:20],
        record["base"],
        record["num_steps"],
        record["loss"],
        record["seconds"],
        read_curve(record.get("curve", ())),
    )
