"""What the harness sent to models by itself, as rows of `calls`, so that budget and report count it.

A row for each model: the harness tells no single request apart. Its `request` says how many there were,
`attempts` is that number too, which the budget counts. Nobody tells the tokens of one that was refused.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from factory.budget import Spend, cost_dollars

if TYPE_CHECKING:
    from factory.bench import Bench
    from factory.types import Json

STAGE: Final = "suite"


@contextmanager
def counted(bench: Bench, models: Mapping[str, str], sent: Path, folder: Path) -> Iterator[None]:
    """Records what was written into `sent` while it was open, whatever ends it; `models` are ids by name.

    A line of `sent` is [name, requests, tokens of prompts, tokens of answers].
    """
    began, is_done = time.monotonic(), False
    try:
        yield
        is_done = True
    finally:
        used = {name: [0, 0, 0] for name in models}
        for name, *numbers in map(json.loads, _lines(sent)):
            used[name] = [one + more for one, more in zip(used[name], numbers, strict=True)]
        milliseconds = 1000 * (time.monotonic() - began) / len(models)
        rows = [
            _row(bench, models[name], folder, numbers, is_done) | {"latency_ms": milliseconds}
            for name, numbers in used.items()
        ]
        bench.store.append("calls", rows)
        for row in rows:
            tokens = row["prompt_tokens"] + row["completion_tokens"]
            bench.engine.budget.add(Spend(row["attempts"], tokens, row["cost_dollars"]))


def _lines(sent: Path) -> Iterator[str]:
    """The whole lines: the worker may have been stopped in the last one."""
    text = sent.read_text(encoding="utf-8") if sent.exists() else ""
    yield from text.split("\n")[:-1]


def _row(bench: Bench, model_id: str, folder: Path, used: Sequence[int], is_done: bool) -> dict[str, Json]:
    num_requests, prompt_tokens, completion_tokens = used
    price = bench.recipe.models["student"].price
    return {
        "id": f"call_{secrets.token_hex(10)}",  # never found again: the harness asks anew each time
        "run_id": bench.run_id,
        "round": 0,
        "stage": STAGE,
        "role": "student",
        "model_id": model_id,
        "request": {"messages": [], "suite": str(folder), "requests": num_requests},
        "response": "" if is_done else None,
        "reasoning": None,
        "status": "ok" if is_done else "failed",
        "error": None if is_done else "harness",
        "finish_reason": None,
        "attempts": num_requests,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cost_dollars": cost_dollars(price, prompt_tokens, completion_tokens),
    }
