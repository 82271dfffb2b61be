"""Database schemas: files of DDL in DuckDB's SQL, with INSERTs where there are some.

A file is a source, and its name the slice of what is asked about it. What a student is to answer from is its
DDL alone; rows are for a teacher to see and for queries to run over (`factory.sql_sandbox`). Files are the
user's own and are executed, in memory, when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from factory.errors import RecipeError
from factory.layers import read_text
from factory.recipe import StepSpec
from factory.registry import options_of
from factory.types import Source

if TYPE_CHECKING:
    from factory.domain import Domain

KEY_PREFIX: Final = "schema:"  # of the sources' keys, which no section has
MAX_INSERT_CHARS: Final = 600


@dataclass(frozen=True, slots=True)
class Schema:
    """A file as a source; its statements without INSERTs, and with the beginning of each INSERT."""

    source: Source
    ddl: str
    shown: str


def read_schemas(patterns: Sequence[str], folder: Path) -> tuple[Schema, ...]:
    """The schemas of files or globs, sorted; raises RecipeError naming the file that is none."""
    paths: dict[Path, None] = {}
    for pattern in patterns:
        path = folder / Path(pattern).expanduser()
        top = Path(path.anchor)
        found = [path] if path.is_file() else list(top.glob(str(path.resolve().relative_to(top.resolve()))))
        if not found:
            hint = "paths start at the recipe's folder"
            raise RecipeError(f"no file matches '{pattern}'", where="schemas", hint=hint)
        paths.update(dict.fromkeys(found))
    return tuple(read_schema(path, _name(path, folder)) for path in sorted(paths))


def read_schema(path: Path, name: str) -> Schema:
    """One file, tried out; raises RecipeError with what the database says of it."""
    import duckdb

    from factory.sql_worker import open_database

    script = read_text(path)
    try:
        with open_database(script) as database:
            statements = [
                (found.type == duckdb.StatementType.INSERT, found.query.strip())
                for found in database.extract_statements(script)
            ]
            tables = database.execute("SELECT count(*) FROM duckdb_tables()").fetchone()
    except duckdb.Error as error:
        what = f"not DDL that DuckDB takes: {str(error).splitlines()[0]}"
        raise RecipeError(what, where=str(path)) from error
    if not tables or not tables[0]:
        raise RecipeError("it creates no table", where=str(path))
    ddl = "\n".join(text for is_insert, text in statements if not is_insert)
    shown = "\n".join(_cut(text) if is_insert else text for is_insert, text in statements)
    source = Source.create(KEY_PREFIX + name, name, name, path.stem, script, path.stem)
    return Schema(source, ddl, shown)


def _name(path: Path, folder: Path) -> str:
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def schemas_of(domain: Domain) -> Mapping[str, Schema]:
    """The schemas that the recipe's strategies name in an option `schemas`, by the key of their source."""
    specs: list[StepSpec] = list(domain.recipe.strategies)
    found = [schema for spec in specs for schema in _of_step(spec, domain.folder)]
    return {schema.source.key: schema for schema in found}


def _of_step(spec: StepSpec, folder: Path) -> Iterator[Schema]:
    options = options_of("generators", spec)
    yield from read_schemas(getattr(options, "schemas", ()), folder)
    if isinstance(inner := getattr(options, "of", None), StepSpec):
        yield from _of_step(inner, folder)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_INSERT_CHARS else text[:MAX_INSERT_CHARS] + " …"
