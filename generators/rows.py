"""Reads a file of rows, JSONL or CSV: what a user's own table brings into prompts.

A row is a mapping of column names to values, and every row has the same columns, so that a template
which works for one works for all. A CSV's values are text. What the columns mean is for who reads them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from factory.errors import RecipeError
from factory.layers import read_text
from factory.types import Json


class Row(NamedTuple):
    """A row and where it stands, as a line number."""

    line: int
    values: dict[str, Json]


def read_rows(path: Path) -> list[Row]:
    """All rows of a `.jsonl` or `.csv` file; blank lines are skipped.

    Raises RecipeError naming file and line for another kind of file, what cannot be read, a row whose
    columns are not those of the first, and a file without rows.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise RecipeError("rows are read from .jsonl and .csv files", where=str(path))
    rows: list[Row] = []
    for row in reader(path):
        if rows and row.values.keys() != rows[0].values.keys():
            odd = ", ".join(sorted(row.values.keys() ^ rows[0].values.keys()))
            hint = "every row has the same columns; write null where there is no value"
            raise RecipeError(
                f"other columns than the first row: {odd}", where=f"{path}:{row.line}", hint=hint
            )
        rows.append(row)
    if not rows:
        raise RecipeError("the file has no rows", where=str(path))
    return rows


def _jsonl(path: Path) -> Iterator[Row]:
    for line, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            what = f"not JSON: {error}"
            raise RecipeError(what, where=f"{path}:{line}", hint="one object a line") from error
        if not isinstance(values, dict):
            raise RecipeError("must be a JSON object", where=f"{path}:{line}")
        yield Row(line, values)


def _csv(path: Path) -> Iterator[Row]:
    reader = csv.reader(read_text(path).splitlines(keepends=True), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) < len(header) or not all(name.strip() for name in header):
            what = "the first line must name every column, each once"
            raise RecipeError(what, where=f"{path}:1")
        for values in reader:
            if not values:
                continue
            if len(values) != len(header):
                what = f"{len(values)} values for {len(header)} columns"
                raise RecipeError(what, where=f"{path}:{reader.line_num}")
            yield Row(reader.line_num, dict(zip(header, values, strict=True)))
    except csv.Error as error:
        raise RecipeError(f"not CSV: {error}", where=f"{path}:{reader.line_num}") from error
