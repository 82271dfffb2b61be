"""Files of samples, JSONL (gzip or not) and Parquet: read line by line, written whole or not at all.

What is kept of a JSONL file is written as it stood, byte for byte. Memory does not grow with the file. What
a line means is in `factory.sample_lines`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from factory.errors import FactoryError, InputError, WorkspaceError
from factory.partial_files import partial_of
from factory.types import Json

LINES: Final = (".jsonl", ".jsonl.gz")
SUFFIXES: Final = (*LINES, ".parquet")
MAX_LINE_BYTES: Final = 1 << 30
Write = Callable[["Line"], None]


class Line(NamedTuple):
    """A line, or a row of Parquet, counted from 1; `text` is how it stands in a text file."""

    number: int
    row: dict[str, Json]
    text: str | None = None


def suffix_of(path: Path) -> str:
    """The kind of file by its name; raises InputError for another than SUFFIXES."""
    for suffix in SUFFIXES:
        if path.name.endswith(suffix):
            return suffix
    raise InputError("unknown kind of file", where=str(path), hint=f"known: {', '.join(SUFFIXES)}")


def digest_of(path: Path) -> str:
    """Twenty hexadecimal digits of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=10)).hexdigest()


def read_lines(path: Path) -> Iterator[Line]:
    """Every line of a file but blank ones; raises InputError naming file and line for what is no object."""
    if suffix_of(path) == ".parquet":
        yield from _read_parquet(path)
        return
    with _opened(path) as file:
        number = 0
        while text := _next(file, f"{path}:{number + 1}", is_first=not number):
            number += 1
            if text.strip():
                yield Line(number, _object(text, f"{path}:{number}"), text.rstrip("\r\n"))


@contextmanager
def writing(path: Path, like: Path) -> Iterator[Write]:
    """What writes lines to `path`, which appears when the body is through; `like` is where they come from."""
    partial = partial_of(path)
    try:
        if suffix_of(path) in LINES:
            with _writing_lines(partial, is_gzip=path.name.endswith(".gz")) as write:
                yield write
        elif suffix_of(like) == ".parquet":
            with _writing_parquet(partial, like) as write:
                yield write
        else:
            lines = partial.with_name(f"{partial.name}.jsonl")
            try:
                with _writing_lines(lines, is_gzip=False) as write:
                    yield write
                _convert(lines, partial)
            finally:
                lines.unlink(missing_ok=True)
        partial.replace(path)
    except OSError as error:
        raise WorkspaceError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def as_json(row: Json, *, encode_bytes: bool = False) -> str:
    """One line of JSON; what JSON has no word for, such as a date, becomes text.

    So do bytes, in Base64, where that is asked for; else they raise InputError. NaN and infinity become null.
    """
    told = _as_told if encode_bytes else _as_text
    try:
        text = json.dumps(row, ensure_ascii=False, default=told, allow_nan=False)
    except ValueError:
        row = _finite(row)
        text = json.dumps(row, ensure_ascii=False, default=told, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which JSON can only escape
        return json.dumps(row, default=told)
    return text


def is_finite(row: Json) -> bool:
    """Whether all numbers of a row are such that JSON has words for them, unlike NaN and infinity."""
    if isinstance(row, dict):
        return all(map(is_finite, row.values()))
    if isinstance(row, list | tuple):
        return all(map(is_finite, row))
    return not isinstance(row, float) or math.isfinite(row)


def _finite(row: Json) -> Json:
    if isinstance(row, dict):
        return {key: _finite(value) for key, value in row.items()}
    if isinstance(row, list | tuple):
        return [_finite(value) for value in row]
    return row if is_finite(row) else None


def check_writable(path: Path, like: Path) -> None:
    """Raises InputError where columns of a Parquet file `like` are bytes, and `path` is JSONL."""
    if suffix_of(path) not in LINES or suffix_of(like) != ".parquet":
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(like)
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=str(like)) from error
    except pa.ArrowInvalid as error:
        raise InputError(f"is no Parquet file: {error}", where=str(like)) from error
    if columns := [field.name for field in schema if _holds_bytes(field.type)]:
        what = f"bytes cannot be written as JSON: {', '.join(columns)}"
        raise InputError(what, where=str(like), hint="give an --output that ends in .parquet")


def _holds_bytes(kind: Any) -> bool:
    """Whether a type of Arrow is bytes, or holds some."""
    from pyarrow import types

    tests = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
    if any(test(kind) for test in tests):
        return True
    if types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    return any(_holds_bytes(kind.field(at).type) for at in range(kind.num_fields))


def _as_told(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        raise InputError("bytes cannot be written as JSON", hint="give an --output that ends in .parquet")
    return str(value)


def _opened(path: Path) -> IO[bytes]:
    try:
        return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=str(path)) from error


def _next(file: IO[bytes], place: str, *, is_first: bool) -> str:
    """The next line with its end, '' after the last; decoded by itself, so that its number is known."""
    try:
        return file.readline().decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8: {error.reason}", where=place) from error
    except (EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"is no whole gzip file: {error}", where=place) from error


def _object(text: str, place: str) -> dict[str, Json]:
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is no JSON: {error}", where=place) from error
    if not isinstance(row, dict):
        raise InputError("is no JSON object", where=place)
    return row


def _read_parquet(path: Path) -> Iterator[Line]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1000):
                for row in batch.to_pylist():
                    number += 1
                    yield Line(number, row)
    except FileNotFoundError as error:
        raise InputError("there is no such file", where=str(path)) from error
    except pa.ArrowInvalid as error:
        raise InputError(f"is no Parquet file: {error}", where=str(path)) from error


@contextmanager
def _writing_lines(path: Path, is_gzip: bool) -> Iterator[Write]:
    opener = gzip.open if is_gzip else open
    with cast("IO[str]", opener(path, "wt", encoding="utf-8", newline="\n")) as file:
        yield lambda line: cast("None", file.write((line.text or as_json(line.row)) + "\n"))


@contextmanager
def _writing_parquet(path: Path, like: Path) -> Iterator[Write]:
    """Rows with the columns of another Parquet file, a thousand at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(like)
    rows: list[dict[str, Json]] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as file:

        def write(line: Line) -> None:
            rows.append(line.row)
            if len(rows) >= 1000:
                file.write_table(pa.Table.from_pylist(rows, schema))
                rows.clear()

        yield write
        file.write_table(pa.Table.from_pylist(rows, schema))


def _convert(lines: Path, parquet: Path) -> None:
    """Parquet of a JSONL file, with the columns that all of its lines have together."""
    import duckdb

    if not lines.stat().st_size:
        raise FactoryError("nothing was kept, and an empty Parquet file has no columns", hint="write .jsonl")
    try:
        with duckdb.connect() as connection:
            found = connection.read_json(
                str(lines), format="newline_delimited", sample_size=-1, maximum_object_size=MAX_LINE_BYTES
            )
            types = {
                name: str(_with_text(kind)) for name, kind in zip(found.columns, found.types, strict=True)
            }
            found = connection.read_json(
                str(lines), columns=types, format="newline_delimited", maximum_object_size=MAX_LINE_BYTES
            )
            found.write_parquet(str(parquet), compression="zstd")
    except duckdb.Error as error:
        raise FactoryError(f"Parquet cannot hold these lines: {error}", hint="write .jsonl") from error


def _with_text(kind: Any) -> Any:
    """A type that DuckDB found, with text in place of the dates and the like that it takes text for."""
    import duckdb

    if kind.id in ("date", "time", "uuid") or kind.id.startswith("timestamp"):
        return duckdb.sqltype("VARCHAR")
    if kind.id == "struct":
        return duckdb.struct_type({name: _with_text(inner) for name, inner in kind.children})
    if kind.id == "list":
        return duckdb.list_type(_with_text(kind.children[0][1]))
    if kind.id == "map":
        key, value = (inner for _, inner in kind.children)
        return duckdb.map_type(_with_text(key), _with_text(value))
    return kind
