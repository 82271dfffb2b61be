"""What the fields of the list of samples offer: the values that stand in the workspace.

They are counted over whole tables, so they are kept for a while: a hundred times as long as the counting
took, and new values of a run show up then.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from factory.audit.access import Access
from factory.store.trace import outcomes_in

MAX_VALUES: Final = 300  # of a field; others can be given in the address
SAMPLED: Final = 2000  # samples whose attributes are looked at: the first and the last
LEAST_SECONDS: Final = 10.0

RUNS = "SELECT id, recipe, control FROM runs ORDER BY started_at DESC, id"
COLUMNS = "SELECT round, strategy, operation, slice, count(*) AS n FROM samples GROUP BY ALL"
STEPS = """SELECT refiner, reason, min(step) AS step, count(*) AS n FROM {outcomes}
           GROUP BY refiner, reason ORDER BY step, refiner, n DESC"""
SCORES = "SELECT metric, scorer FROM scores GROUP BY metric, scorer ORDER BY metric, scorer"
KEYS = """SELECT DISTINCT unnest(json_keys(attributes)) AS key FROM (
              (SELECT attributes FROM samples ORDER BY created_at LIMIT ?)
              UNION ALL (SELECT attributes FROM samples ORDER BY created_at DESC LIMIT ?)) ORDER BY key"""
# Tables of which the rows of a few samples are found at once.
INDEXED = """SELECT DISTINCT table_name AS name FROM duckdb_indexes()
             WHERE regexp_replace(expressions, '[^a-z_,]', '', 'g') = 'sample_id'"""
DATASETS = "SELECT id, round, run_id, num_samples FROM datasets ORDER BY created_at DESC, id"


@dataclass(frozen=True, slots=True)
class Options:
    """Values to choose from, in the order in which they are shown."""

    runs: list[dict[str, Any]]
    round: list[str]
    strategy: list[str]
    operation: list[str]
    slice: list[str]
    steps: list[str]
    reasons: list[str]
    scores: list[str]  # metric@scorer
    keys: list[str]
    datasets: list[dict[str, Any]]
    indexed: frozenset[str]
    outcomes: str  # the table or view that says what became of samples

    @property
    def has_one_run(self) -> bool:
        """Whether every row of the workspace is of one run."""
        return len(self.runs) <= 1


@dataclass(slots=True)
class OptionsShelf:
    """The newest options of a workspace; safe from several threads."""

    _found: Options | None = None
    _until: float = 0.0
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def get(self, access: Access) -> Options:
        """The options, read again where they are old."""
        found = self._found
        if found is not None and (time.monotonic() < self._until or self._reading.locked()):
            return found
        with self._reading:
            if self._found is None or time.monotonic() >= self._until:
                begun = time.monotonic()
                self._found = read_options(access)
                took = time.monotonic() - begun
                self._until = time.monotonic() + max(LEAST_SECONDS, 100 * took)
            return self._found


def read_options(access: Access) -> Options:
    """The options as the workspace stands."""
    groups = access.select(COLUMNS)
    outcomes = outcomes_in(access)
    steps = access.select(STEPS.format(outcomes=outcomes))
    return Options(
        runs=access.select(RUNS),
        **{name: _values(groups, name) for name in ("round", "strategy", "operation", "slice")},
        steps=list(dict.fromkeys(row["refiner"] for row in steps)),
        reasons=sorted({row["reason"] for row in steps})[:MAX_VALUES],
        scores=[f"{row['metric']}@{row['scorer']}" for row in access.select(SCORES)][:MAX_VALUES],
        keys=[row["key"] for row in access.select(KEYS, [SAMPLED // 2] * 2)][:MAX_VALUES],
        datasets=access.select(DATASETS)[:MAX_VALUES],
        indexed=frozenset(row["name"] for row in access.select(INDEXED)),
        outcomes=outcomes,
    )


def _values(groups: list[dict[str, Any]], name: str) -> list[str]:
    return [str(value) for value in sorted({row[name] for row in groups})[:MAX_VALUES]]
