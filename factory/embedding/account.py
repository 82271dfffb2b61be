"""What a run's embedders have asked and paid: each row kept in the store, each call counted in the budget.

A row is found again by the hash of model and text, whatever run, round or step wants it, so that none is paid
twice. Of the rows that are there only the hashes are held in memory. How an endpoint is asked is not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from factory.budget import Budget, Spend
from factory.store.embeddings import FIND, KNOWN
from factory.types import Json, digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from factory.bench import Bench
    from factory.store.store import Store

ROLE = "embedder"


@dataclass(slots=True)
class EmbeddingCall:
    """One request for rows. `error`: '' where it was answered; `lost`: attempts that may be billed so."""

    keys: Sequence[str]
    num_attempts: int = 0
    num_tokens: int = 0
    dollars: float = 0.0
    latency_ms: float = 0.0
    lost: Spend = field(default_factory=Spend)
    error: str = ""


class Account:
    """Store and budget of one run's round; `budget` belongs to the event loop."""

    def __init__(
        self, store: Store, budget: Budget, run_id: str, round_number: int, stage: str = "refine"
    ) -> None:
        self.budget = budget
        self._store = store
        self._place: dict[str, Json] = {"run_id": run_id, "round": round_number, "stage": stage}
        self._known: dict[str, set[str]] = {}  # keys of kept rows, by model

    @classmethod
    def of(cls, bench: Bench, round_number: int, stage: str = "refine") -> Account:
        """That of a run at work on a round."""
        return cls(bench.store, bench.engine.budget, bench.run_id, round_number, stage)

    def record_model(self, model_id: str, name: str, base: str) -> None:
        """Writes the row of an embedding model; once is enough."""
        row = {"id": model_id, "role": ROLE, "name": name, "base": base, "adapter": None}
        self._store.append("models", [row])

    def find(self, model_id: str, keys: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """The kept rows among those asked for, by key."""
        if model_id not in self._known:
            self._known[model_id] = {row["id"] for row in self._store.stream(KNOWN, (model_id,))}
        there = [key for key in keys if key in self._known[model_id]]
        rows = self._store.select(FIND, (there,)) if there else []
        return {row["id"]: np.array(row["vector"], np.float32) for row in rows}

    def keep(self, model_id: str, call: EmbeddingCall, rows: Mapping[str, NDArray[np.float32]]) -> None:
        """Records a call, with its rows by key; none where it failed."""
        call_id = "call_" + digest([model_id, list(call.keys)])
        kept = [
            {"id": key, "model_id": model_id, "call_id": call_id, "vector": row} for key, row in rows.items()
        ]
        self._store.append("embeddings", kept)
        self._known.setdefault(model_id, set()).update(rows)
        row: dict[str, Json] = {
            **self._place,
            "id": call_id,
            "role": ROLE,
            "model_id": model_id,
            "request": {"embeddings": list(call.keys)},
            "response": None if call.error else "",
            "status": "failed" if call.error else "ok",
            "error": call.error or None,
            "attempts": call.num_attempts,
            "prompt_tokens": call.num_tokens,
            "completion_tokens": 0,
            "latency_ms": call.latency_ms,
            "cost_dollars": call.dollars,
            "lost_tokens": call.lost.tokens or None,
            "lost_dollars": call.lost.dollars or None,
        }
        self._store.append("calls", [row])
