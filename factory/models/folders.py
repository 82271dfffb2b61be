"""Where a recipe's models lie, and what must be true of such a folder before vLLM is started on it.

A server needs half a minute to find out what these few files say at once: weights that are missing,
a rank or a kind of adapter that vLLM 0.32 does not serve (vllm/lora/peft_helper.py). Reads JSON and lists
names; opens no weights.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from factory.consistency import SERVED_RANKS
from factory.errors import RecipeError

HINT: Final = "paths start at the recipe's folder"

SERVED_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth")
TRAINABLE_WEIGHTS: Final = ("*.safetensors", "pytorch_model*.bin")
# Initialisations that leave the base alone; the others subtract from it, which vLLM cannot undo.
PLAIN_INITS: Final = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
REFUSED_FLAGS: Final = {
    "use_dora": "DoRA",
    "lora_bias": "a LoRA bias",
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "layer replication",
    "use_bdlora": "block-diagonal LoRA",
    "use_qalora": "QALoRA",
}


def check_rank(max_lora_rank: int, where: str = "") -> None:
    """Raises RecipeError unless vLLM serves this `max_lora_rank`."""
    if max_lora_rank not in SERVED_RANKS:
        ranks = ", ".join(map(str, SERVED_RANKS))
        raise RecipeError(f"vLLM cannot serve rank {max_lora_rank}", where=where, hint=f"one of {ranks}")


def find_model(folder: Path, model: str) -> tuple[str, bool]:
    """(what loads as this model, whether that is a local folder); a hub name stands for itself.

    `folder` is what a recipe's paths are relative to. A name that nothing on disk bears is a hub name if it
    looks like one.
    """
    path = (folder / Path(model).expanduser()).resolve()
    is_hub_name = not path.exists() and not model.startswith((".", "/", "~")) and model.count("/") <= 1
    return (model, False) if is_hub_name else (str(path), True)


def check_model_folder(path: Path, where: str = "", weights: Sequence[str] = SERVED_WEIGHTS) -> None:
    """Raises RecipeError unless the folder holds a config.json and weights, in files of such names."""
    if not path.is_dir():
        raise RecipeError(f"there is no model directory {path}", where=where, hint=HINT)
    _read_json(path / "config.json", "model directory", where)
    found = [file for pattern in weights for file in path.glob(pattern)]
    if not any(file.stat().st_size for file in found):
        raise RecipeError(f"model directory without weights: {path}", where=where, hint=HINT)


def check_adapter_folder(path: Path, max_lora_rank: int, where: str = "") -> None:
    """Raises RecipeError unless vLLM with this `max_lora_rank` serves the LoRA adapter in the folder."""
    if not path.is_dir():
        raise RecipeError(f"there is no adapter directory {path}", where=where, hint=HINT)
    config = _read_json(path / "adapter_config.json", "adapter directory", where)
    if not any((path / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        raise RecipeError(f"adapter directory without weights: {path}", where=where, hint=HINT)
    rank = find_rank(config)
    if rank > max_lora_rank:
        fit = next((served for served in SERVED_RANKS if served >= rank), None)
        hint = (
            f"set the server's `max_lora_rank` to {fit}" if fit else f"vLLM serves up to {SERVED_RANKS[-1]}"
        )
        what = f"the adapter's rank {rank} is above the server's max_lora_rank {max_lora_rank}"
        raise RecipeError(f"{what}: {path}", where=where, hint=hint)
    for reason in find_refusals(config):
        raise RecipeError(
            f"vLLM does not serve {reason}: {path}", where=where, hint="train a plain LoRA adapter"
        )


def adapter_body(name: str, path: Path) -> dict[str, str]:
    """What vLLM's /v1/load_lora_adapter is sent."""
    return {"lora_name": name, "lora_path": str(path.resolve())}


def find_rank(config: dict[str, Any]) -> int:
    """The largest rank in an adapter_config.json, patterns included."""
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    return max((rank for rank in ranks if isinstance(rank, int)), default=0)


def find_refusals(config: dict[str, Any]) -> list[str]:
    """What vLLM would refuse about an adapter_config.json, in words; empty where it serves it."""
    found = [name for key, name in REFUSED_FLAGS.items() if config.get(key)]
    if config.get("peft_type", "LORA") != "LORA":
        found.append(f"adapters of type {config['peft_type']}")
    if config.get("bias", "none") != "none":
        found.append(f"bias '{config['bias']}'")
    if saved := [name for name in config.get("modules_to_save") or [] if name not in {"classifier", "score"}]:
        found.append(f"modules_to_save {saved}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in PLAIN_INITS:
        found.append(f"init_lora_weights '{start}'")
    return found


def _read_json(path: Path, what: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{what} without {path.name}: {path.parent}", where=where, hint=HINT) from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read: {error}", where=where) from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} is not a JSON object", where=where)
    return values
