"""What a report says of the refiner: its newest measurement in a run, as tables and plots show it.

Read from the store as it was written (`factory.refiner_records`); nothing is computed anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from factory.accuracy import Selects
from factory.funnel import read_json
from factory.types import Json


@dataclass(frozen=True)
class RefinerMeasure:
    """Figures over all drafts and by kind of fault, and the calibration of the scores, where there is one."""

    model_id: str
    num_drafts: int
    overall: Mapping[str, Json]
    by_kind: Mapping[str, Mapping[str, Json]]
    calibration: Mapping[str, Json] | None


def has_measurements(store: Selects) -> bool:
    """Whether there is a place for them: not in a file that no newer version has opened for writing yet."""
    tables = "SELECT 1 FROM duckdb_tables() WHERE table_name = 'refiner_evaluations'"
    return bool(store.select(tables))


def read_refiner(store: Selects, run_id: str) -> RefinerMeasure | None:
    """The newest measurement in a run; None where there is none."""
    if not has_measurements(store):
        return None
    rows = store.select(
        "SELECT model_id, num_drafts, figures, calibration FROM refiner_evaluations WHERE run_id = ? "
        "ORDER BY created_at DESC LIMIT 1",
        (run_id,),
    )
    if not rows:
        return None
    row, figures = rows[0], read_json(rows[0]["figures"])
    calibration = read_json(row["calibration"]) if row["calibration"] else None
    return RefinerMeasure(
        row["model_id"], row["num_drafts"], figures["overall"], figures["by_kind"], calibration
    )
