"""A dataset of given samples in a real store, as a finished run leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from factory.store.rows import sample_rows
from factory.store.store import Store
from factory.types import Sample

RUN, DATASET = "run_frozen", "dat_frozen"


def freeze(store: Store, samples: Sequence[Sample]) -> str:
    """Stores and freezes the samples; returns the dataset's id."""
    run = {"id": RUN, "recipe": "r", "digest": "d", "config": {}, "version": "0"}
    store.append("runs", [{**run, "started_at": datetime.now(UTC)}])
    rows, edges = sample_rows(samples, RUN, 1)
    store.append("samples", rows)
    store.append("edges", edges)
    row = {"id": DATASET, "run_id": RUN, "round": 1, "num_samples": len(samples), "guards": {}}
    store.append("datasets", [row])
    for position, sample in enumerate(samples):
        member = {"dataset_id": DATASET, "sample_id": sample.id, "position": position}
        store.append("dataset_samples", [member])
    event = {"run_id": RUN, "round": 1, "stage": "freeze", "status": "done"}
    store.append("stages", [{**event, "detail": {"dataset": DATASET}}])
    store.flush()
    return DATASET
