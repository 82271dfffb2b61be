"""Answers to SQL as files: Parquet, CSV or JSON by the suffix, written batch by batch, whole or not at all.

A file appears under its name once it is complete. Values in CSV and JSON are those that `factory sql` prints.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from factory.errors import InputError
from factory.partial_files import partial_of
from factory.screen import cell_text, distinct_names, finite
from factory.store.confined import Batches, plain_value

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".parquet", ".csv", ".json")


def check_suffix(path: Path) -> None:
    """Raises InputError unless the suffix says how to write."""
    if path.suffix not in SUFFIXES:
        raise InputError("the suffix must be .parquet, .csv or .json", where=str(path))


def write_answer(found: Batches, path: Path) -> int:
    """Writes all rows and returns how many; raises InputError for what cannot be written."""
    import pyarrow as pa

    partial = partial_of(path)
    try:
        num_rows = {".parquet": _parquet, ".csv": _csv, ".json": _json}[path.suffix](found, partial)
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
    except pa.ArrowException as error:
        hint = "cast such columns in the query: value::VARCHAR"
        raise InputError(f"cannot be written: {error}", where=str(path), hint=hint) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return num_rows


def _parquet(found: Batches, path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = distinct_names(found.schema.names)
    schema = pa.schema([field.with_name(name) for name, field in zip(names, found.schema, strict=True)])
    num_rows = 0
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in found.batches:
            writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
            num_rows += batch.num_rows
    return num_rows


def _csv(found: Batches, path: Path) -> int:
    num_rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(found.schema.names)
        for row in _rows(found.batches):
            writer.writerow(["" if value is None else cell_text(value) for value in row])
            num_rows += 1
    return num_rows


def _json(found: Batches, path: Path) -> int:
    names = distinct_names(found.schema.names)
    with path.open("w", encoding="utf-8") as file:
        return _json_rows(names, _rows(found.batches), file)


def _json_rows(names: list[str], rows: Iterator[list[Any]], file: TextIO) -> int:
    num_rows = 0
    file.write("[")
    for row in rows:
        file.write(",\n" if num_rows else "\n")
        file.write(json.dumps(finite(dict(zip(names, row, strict=True))), ensure_ascii=False))
        num_rows += 1
    file.write("\n]\n")
    return num_rows


def _rows(batches: Iterator[pa.RecordBatch]) -> Iterator[list[Any]]:
    for batch in batches:
        columns = [column.to_pylist(maps_as_pydicts="strict") for column in batch.columns]
        for row in zip(*columns, strict=True):
            yield [plain_value(value) for value in row]
