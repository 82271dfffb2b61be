"""A frozen dataset as a folder that `datasets.load_dataset` reads: JSONL, Parquet, a card, Croissant.

The folder appears under its name only when it is whole. The dev and test splits are not exported,
and nothing is uploaded anywhere. What stands in the files is in factory.export_files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory import croissant
from factory.accuracy import Selects
from factory.card import render_card
from factory.errors import GuardTripped, InputError
from factory.export_files import write_files
from factory.export_forms import dataset_info
from factory.findings import find_run
from factory.partial_files import new_folder


def export(
    store: Selects,
    directory: Path,
    run_id: str | None = None,
    dataset_id: str | None = None,
    forms: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes a dataset to `directory`, which must be absent or empty; returns what was written.

    By default that is the newest dataset of the newest run that is no control. `forms` are further ones in
    which its samples are written (factory.export_forms), with LLaMA-Factory's dataset_info.json. Raises
    InputError for a folder that holds something, a dataset that does not exist or a sample that does not fit
    a form, GuardTripped for a dataset that the guard stopped, WorkspaceError where the disk refuses.
    """
    dataset = _find_dataset(store, run_id, dataset_id)
    dataset["num_missing"] = count_missing(store, dataset)
    directory = directory.resolve()
    with new_folder(directory, "the export") as partial:
        written = write_files(store, dataset, partial, forms)
        if forms:
            info = json.dumps(dataset_info(forms, written.has_tools, written.num_pairs > 0), indent=1)
            (partial / "dataset_info.json").write_text(info + "\n", encoding="utf-8")
        (partial / "README.md").write_text(render_card(store, dataset, written), encoding="utf-8")
        about = croissant.describe(find_run(store, dataset["run_id"]), dataset, partial)
        text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
        (partial / croissant.NAME).write_text(text, encoding="utf-8", errors="replace")
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {
        "directory": str(directory),
        "run": dataset["run_id"],
        "dataset": dataset["id"],
        "num_samples": dataset["num_samples"],
        "num_missing": dataset["num_missing"],
        "files": files,
    }


def count_missing(store: Selects, dataset: dict[str, Any]) -> int:
    """Samples that a dataset lacks, because its round ended before it had as many as it was asked for.

    Raises GuardTripped for a dataset that the guard stopped, or did not come to see.
    """
    events = store.select(
        "SELECT status, detail->>'dataset' AS dataset, detail->>'error' AS error, "
        "(detail->>'missing')::BIGINT AS missing FROM stages "
        "WHERE run_id = ? AND round = ? AND stage = 'freeze' ORDER BY created_at, rowid",
        (dataset["run_id"], dataset["round"]),
    )
    events = [event for event in events if event["dataset"] == dataset["id"]]
    if any(event["status"] == "done" for event in events):
        return 0
    if events and events[-1]["missing"]:
        return int(events[-1]["missing"])
    errors = [event["error"] or "" for event in events]
    tripped = [error for error in errors if error.startswith(GuardTripped.__name__)]
    if tripped:
        what = f"the guard stopped this dataset: {tripped[-1].removeprefix('GuardTripped: ')}"
        hint = "where you take it as it is, raise the limit under `guard` in the recipe and run again"
        raise GuardTripped(what, where=dataset["id"], hint=hint)
    what = "the run was cut off before the guard looked at this dataset"
    raise GuardTripped(what, where=dataset["id"], hint="the same `factory run` goes on")


def _find_dataset(store: Selects, run_id: str | None, dataset_id: str | None) -> dict[str, Any]:
    if dataset_id is None:
        run_id = find_run(store, run_id)["id"]
    rows = store.select(
        "SELECT id, run_id, round, num_samples, "
        "strftime(created_at AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%SZ') AS created_at FROM datasets "
        "WHERE (?::VARCHAR IS NULL OR id = ?) AND (?::VARCHAR IS NULL OR run_id = ?) "
        "ORDER BY round DESC, created_at DESC LIMIT 1",
        (dataset_id, dataset_id, run_id, run_id),
    )
    if not rows:
        what = f"no dataset '{dataset_id}'" if dataset_id else "the run has frozen no dataset yet"
        raise InputError(what, where=run_id or "", hint="`factory status` lists what is there")
    if not rows[0]["num_samples"]:
        raise InputError("the dataset is empty", where=rows[0]["id"], hint="`factory report` tells why")
    return rows[0]
