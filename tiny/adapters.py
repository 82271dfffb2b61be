"""Trains a LoRA adapter on the tiny base with the product's own trainer.

The product trains on a 4-bit base and so does this, unless told otherwise: what is committed was
made the way a user makes it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from factory.domain import Domain
from training.qlora import QLoRA, QLoRAOptions

Chat = dict[str, Any]  # {"messages": […]}, and {"tools": […]} where there are some, as in training files


def chats(pairs: Iterable[tuple[str, str]]) -> Iterator[Chat]:
    """Pairs of what a user and an assistant say, as chats."""
    for user, assistant in pairs:
        yield {"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]}


def train(examples: Iterable[Chat], base: Path, directory: Path, seed: int = 0, **options: Any) -> float:
    """Replaces `directory` by an adapter trained on `examples`; returns the seconds training took."""
    dataset = directory.with_suffix(".jsonl")
    with dataset.open("w", encoding="utf-8") as file:
        for chat in examples:
            file.write(json.dumps(chat, ensure_ascii=False) + "\n")
    shutil.rmtree(directory, ignore_errors=True)
    domain = cast(Domain, SimpleNamespace(folder=Path.cwd(), recipe=SimpleNamespace(seed=seed)))
    trainer = QLoRA(QLoRAOptions(**options), domain)
    trainer.train(dataset, str(base.resolve()), directory, _show)
    dataset.unlink()
    print()
    return float(json.loads((directory / "training.json").read_text())["seconds"])


def _show(done: int, total: int, detail: str = "") -> None:
    print(f"\r  step {done} of {total}  {detail}   ", end="", flush=True)
