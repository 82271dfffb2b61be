"""Prints results on stdout: tables for people, JSON and CSV for programs.

Whatever a model or a user wrote is shown and never obeyed: no markup, no terminal control. What to
print is decided elsewhere; progress is drawn in factory.progress, errors are told in factory.cli.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from factory.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

MAX_TABLE_ROWS = 1000  # nobody reads more, and laying them out takes seconds


def print_json(data: Any) -> None:
    """One JSON document, indented; what a terminal would not show is escaped, which JSON undoes.

    NaN and infinities, which JSON does not know, become null.
    """
    text = json.dumps(finite(data), ensure_ascii=False, indent=2, default=str, allow_nan=False)
    print("\n".join(line if line.isprintable() else _escaped(line) for line in text.split("\n")))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """Aligned columns, numbers to the right; as wide as it needs where stdout is no terminal.

    Of more than MAX_TABLE_ROWS rows the first are shown, and how many are not.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    everything = [list(row) for row in rows]
    cells = everything[:MAX_TABLE_ROWS]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        values = [row[index] for row in cells if row[index] is not None]
        numeric = bool(values) and all(isinstance(value, int | float) for value in values)
        table.add_column(
            Text(printable(column)), justify="right" if numeric else "left", overflow="fold", header_style=""
        )
    for row in cells:
        table.add_row(*(Text(shown(value)) for value in row))
    if title:
        print_text(f"\n{title}")
    print_renderable(table, width=100_000)
    if len(everything) > len(cells):
        print_note(f"and {len(everything) - len(cells):,} more rows, which JSON and CSV have")


def print_renderable(renderable: RenderableType, width: int = 100) -> None:
    """Something that rich draws; `width` holds where stdout is no terminal."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else width, highlight=False)
    console.print(renderable)


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Comma-separated values with a heading; empty where a value is NULL."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    plain = printable if sys.stdout.isatty() else str
    writer.writerow(columns)
    for row in rows:
        writer.writerow(["" if value is None else plain(cell_text(value)) for value in row])


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, a repeated one with the first free number: id, id, id → id, id_1, id_2."""
    found: list[str] = []
    for name in names:
        distinct, numbers = name, count(1)
        while distinct in found or (distinct != name and distinct in names):
            distinct = f"{name}_{next(numbers)}"
        found.append(distinct)
    return found


def print_text(text: str) -> None:
    """Lines of text."""
    print(printable(text))


def print_note(text: str) -> None:
    """Lines on stderr, which leave stdout to what was asked for."""
    print(printable(text), file=sys.stderr)


def print_mapping(data: Mapping[str, Any]) -> None:
    """A line for each key; lists of mappings as tables below, other nested values as JSON."""
    for key, value in data.items():
        if not _is_rows(value):
            print_text(f"{key.replace('_', ' ')}: {shown(value)}")
    for key, value in data.items():
        if _is_rows(value):
            columns = list(dict.fromkeys(name for row in value for name in row))
            print_table(columns, ([row.get(name) for name in columns] for row in value), key)


def shown(value: Any) -> str:
    """A value as it stands in a table: thousands apart, four significant digits, - for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return printable(cell_text(value))


def finite(value: Any) -> Any:
    """The value with null for NaN and infinities, which JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def _is_rows(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(row, dict) for row in value)


def cell_text(value: Any) -> str:
    """A value in a cell of a table or of CSV: nested ones as JSON."""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _escaped(line: str) -> str:
    return "".join(sign if sign.isprintable() else json.dumps(sign)[1:-1] for sign in line)
