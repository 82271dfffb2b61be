"""A frozen dataset as a folder that `datasets.load_dataset` reads: JSONL, Parquet and a card.

Samples go page by page from the store into both files, so memory does not grow with the dataset.
The folder appears under its name only when it is whole. The dev and test splits are not exported,
and nothing is uploaded anywhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any

from factory.accuracy import Selects
from factory.card import render_card
from factory.errors import FactoryError, GuardTripped, InputError, WorkspaceError
from factory.findings import find_run
from factory.store.text import from_json, restore

PAGE_SIZE = 1000
TEXTS = ("question", "answer", "slice", "strategy", "sample_id", "source_citation", "source_key")

PAGE = """
    WITH RECURSIVE page AS (
        SELECT d.position, s.* FROM dataset_samples d JOIN samples s ON s.id = d.sample_id
        WHERE d.dataset_id = ? AND d.position > ? ORDER BY d.position LIMIT ?
    ), up(sample_id, ancestor) AS (
        SELECT id, id FROM page
        UNION SELECT up.sample_id, e.parent FROM up JOIN edges e ON e.child = up.ancestor
        WHERE e.relation IN ('rewrite_of', 'derived_from')
    ), origin AS (
        SELECT up.sample_id, string_agg(DISTINCT o.citation, '; ' ORDER BY o.citation) AS citation,
               string_agg(DISTINCT o.key, '; ' ORDER BY o.key) AS key
        FROM up JOIN edges e ON e.child = up.ancestor AND e.relation = 'source'
        JOIN sources o ON o.id = e.parent
        GROUP BY up.sample_id
    ), cited AS (
        SELECT key, string_agg(DISTINCT citation, '; ' ORDER BY citation) AS citation
        FROM sources GROUP BY key
    )
    SELECT p.position, p.id AS sample_id, p.messages, p.question, p.answer, p.slice, p.strategy, p.round,
           coalesce(origin.key, p.attributes->>'source_key', '') AS source_key,
           coalesce(origin.citation, cited.citation, '') AS source_citation
    FROM page p LEFT JOIN origin ON origin.sample_id = p.id
    LEFT JOIN cited ON cited.key = p.attributes->>'source_key'
    ORDER BY p.position
"""


def export(
    store: Selects, directory: Path, run_id: str | None = None, dataset_id: str | None = None
) -> dict[str, Any]:
    """Writes a dataset to `directory`, which must be absent or empty; returns what was written.

    By default that is the newest dataset of the newest run that is no control. Raises InputError
    for a folder that holds something or a dataset that does not exist, GuardTripped for one that the
    guard stopped, WorkspaceError where the disk refuses.
    """
    dataset = _find_dataset(store, run_id, dataset_id)
    dataset["num_missing"] = count_missing(store, dataset)
    directory = directory.resolve()
    partial = directory.with_name(f".{directory.name}.{token_hex(4)}.partial")
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError(
                "there is something already", where=str(directory), hint="name a new or empty folder"
            )
        (partial / "data").mkdir(parents=True)
        _write_samples(store, dataset, partial / "data")
        (partial / "README.md").write_text(render_card(store, dataset), encoding="utf-8")
        partial.replace(directory)
    except OSError as error:
        what = f"the export cannot be written: {error.strerror or error}"
        raise WorkspaceError(what, where=str(directory)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
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
        "SELECT id, run_id, round, num_samples FROM datasets "
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


def _write_samples(store: Selects, dataset: dict[str, Any], folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [("messages", pa.list_(message)), *((name, pa.string()) for name in TEXTS), ("round", pa.int32())]
    )
    num_samples = 0
    with (
        (folder / "train.jsonl").open("w", encoding="utf-8") as lines,
        pq.ParquetWriter(folder / "train.parquet", schema, compression="zstd") as parquet,
    ):
        for page in _pages(store, dataset["id"]):
            lines.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in page)
            parquet.write_table(pa.Table.from_pylist(page, schema))
            num_samples += len(page)
    if num_samples != dataset["num_samples"]:
        what = f"the dataset has {dataset['num_samples']} samples but {num_samples} were found"
        raise FactoryError(what, where=dataset["id"])


def _pages(store: Selects, dataset_id: str) -> Iterator[list[dict[str, Any]]]:
    """The samples in order; only what `select` offers is used, so any process can export."""
    last = -1
    while rows := store.select(PAGE, (dataset_id, last, PAGE_SIZE)):
        yield [_sample(row) for row in rows]
        last = rows[-1]["position"]


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    """Absent sources are empty texts: readers of JSONL infer a column's type from its first lines."""
    messages = [
        {"role": each["role"], "content": _unicode(each["content"])} for each in from_json(row["messages"])
    ]
    texts = {name: _unicode(restore(row[name])) for name in TEXTS}
    return {"messages": messages, **texts, "round": row["round"]}


def _unicode(text: str) -> str:
    """Files are UTF-8, which has no lone surrogates; models sometimes emit them."""
    return text.encode("utf-8", "replace").decode("utf-8")
