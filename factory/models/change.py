"""How much an adapter can change its base: a bound from the adapter's own weights, without the base.

Reads safetensors with numpy alone; weights are held one half of a module at a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factory.models.identity import adapter_weights


def largest_change(folder: Path) -> float | None:
    """No weight is changed by more: rank times the largest values of both halves, scaled, over all modules.

    0.0 where one half of each is zero, as an adapter starts. None where the weights are in a form that
    only torch reads, or in none.
    """
    import numpy as np
    import safetensors

    files = [file for file in adapter_weights(folder) if file.suffix == ".safetensors"]
    if not files:
        return None
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    alpha = max(config.get("lora_alpha") or 0, *(config.get("alpha_pattern") or {}).values(), 0)
    halves: dict[str, tuple[int, float]] = {}
    try:
        tensors = safetensors.deserialize(files[0].read_bytes())  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError:
        return None
    for name, tensor in tensors:
        values = _as_float(tensor["dtype"], tensor["data"])
        if values is None:
            return None
        halves[name] = (tensor["shape"][0], float(np.abs(values).max(initial=0.0)))
    changes = [0.0]
    for name, (rank, first) in halves.items():
        second = halves.get(name.replace("lora_A", "lora_B").replace("embedding_A", "embedding_B"))
        if second is not None and second is not halves[name]:
            scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
            changes.append(scale * rank * first * second[1])
    return max(changes)


def _as_float(dtype: str, data: bytes) -> Any:
    import numpy as np

    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
    plain = {"F16": np.float16, "F32": np.float32, "F64": np.float64}.get(dtype)
    return None if plain is None else np.frombuffer(data, plain).astype(np.float32)
