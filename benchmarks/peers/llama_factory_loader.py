"""LLaMA-Factory's loader over an export's dataset_info.json: `FOLDER OUT NAME…` writes what arrives.

Each sample as {"tools": […], "turns": [[who, what], …]}; of pairs, the last two turns are the chosen and the
rejected answer.
"""

from __future__ import annotations

import json
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
ROLES = {"function": "assistant", "observation": "tool"}


def main() -> None:
    folder, out, *names = sys.argv[1:]
    # Imported at its beginning and used for recordings alone; the registry's build needs CUDA.
    sys.modules["torchaudio"] = ModuleType("torchaudio")
    sys.modules["torchaudio"].__spec__ = ModuleSpec("torchaudio", None)
    from llamafactory.data.loader import _load_single_dataset
    from llamafactory.data.parser import get_dataset_list
    from llamafactory.hparams import DataArguments

    found = {}
    for name, attributes in zip(names, get_dataset_list(names, folder), strict=True):
        asked = DataArguments(dataset=name, dataset_dir=folder, overwrite_cache=True)
        model = SimpleNamespace(cache_dir=f"{out}.cache", hf_hub_token=None)
        rows = _load_single_dataset(attributes, model, asked, SimpleNamespace(local_process_index=0))
        found[name] = [sample(row) for row in rows]
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def sample(row: dict[str, Any]) -> dict[str, Any]:
    """A sample in the form that all loaders are compared in."""
    turns = [[ROLES.get(t["role"], t["role"]), t["content"]] for t in (*row["_prompt"], *row["_response"])]
    system = [["system", row["_system"]]] if row["_system"] else []
    tools = [tool.get("function", tool) for tool in json.loads(row["_tools"] or "[]")]
    return {"tools": tools, "turns": [*system, *turns]}


if __name__ == "__main__":
    main()
