"""Whether a merge fits into memory and onto the disk, by the headers of the base's files.

Nothing of the model is loaded. The estimate counts the base as it is loaded beside the whole merge.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.errors import TrainingError

ROOM_BYTES = 1 << 30  # of the libraries themselves, and of what a forward pass takes
QUANTIZED_BYTES = 0.6  # of a weight in NF4: half a byte, and its share of the scales


def check_room(job: Mapping[str, Any]) -> None:
    """Raises TrainingError where memory or disk do not suffice, by the headers of the base's files.

    A base that is only a hub name is measured where its files lie in the cache.
    """
    num_weights, num_embedded = count_weights(find_folder(job["base"]))
    size = 2  # bytes, of bfloat16 and float16
    wide = size if device() else 4  # what is not quantised is loaded in float32 on a CPU
    loaded = num_weights * QUANTIZED_BYTES + num_embedded * wide if job["quantize"] else num_weights * wide
    needed = loaded + num_weights * size + ROOM_BYTES
    free, where = free_memory()
    if needed > free:
        what = f"needs about {_gib(needed)} of {where}, {_gib(free)} are free"
        raise TrainingError(what, where=job["base"], hint="merge on a larger machine, or end what else runs")
    folder = Path(job["directory"])
    num_logits = 3 * len(job["chats"]) * job["num_tokens"] * count_vocabulary(job["base"])
    on_disk, free = num_weights * size + 4 * num_logits, shutil.disk_usage(folder).free
    if on_disk > free:
        what = f"needs about {_gib(on_disk)} of disk, {_gib(free)} are free"
        raise TrainingError(what, where=str(folder.parent))


def find_folder(base: str) -> Path:
    """Where the base's files lie: itself, or in the cache of the hub; raises TrainingError where nowhere."""
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise TrainingError("the base is not in the cache of the hub", where=base) from error


def count_weights(folder: Path) -> tuple[int, int]:
    """Values in all tensors, and in those that look like embeddings or a head, by the files' headers."""
    from safetensors import safe_open

    num, num_embedded = 0, 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                size = 1
                for length in file.get_slice(name).get_shape():
                    size *= length
                num += size
                num_embedded += size if "embed" in name or "lm_head" in name else 0
    if not num:
        raise TrainingError("the base has no safetensors, whose headers tell its size", where=str(folder))
    return num, num_embedded


def count_vocabulary(base: str) -> int:
    """Tokens that the base gives a logit to."""
    from transformers import AutoConfig

    return int(AutoConfig.from_pretrained(base).get_text_config().vocab_size)


def free_memory() -> tuple[int, str]:
    """Bytes free on the GPU, or in this machine where there is none, and the name of that memory."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0]), "the GPU's memory"
    return int(psutil.virtual_memory().available), "memory"


def device() -> dict[str, int] | None:
    """Where a model goes, as transformers takes it: the first GPU, None for a CPU."""
    import torch

    return {"": 0} if torch.cuda.is_available() else None


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
