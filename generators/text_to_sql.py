"""Text to SQL: the teacher writes a question of a database and the SELECT that answers it, which is executed.

Questions with SQL made from a schema at given levels of complexity, and kept only where they execute, are
OmniSQL's (arXiv 2503.02240, section 3); showing the database's error to who mends the query is execution
feedback (Self-Debugging, arXiv 2304.05128). A query that fails is no malformed sample: it carries the error
in its attributes, the refiners may mend it, and the refiner `sql` executes what they leave. Whether a query
that runs answers its question is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Final

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask
from factory.prompts import render
from factory.recipe import Strict
from factory.schemas import Schema, read_schemas
from factory.sql_chat import instruct, plain_sql
from factory.sql_sandbox import SqlSandbox
from factory.types import Message, Sample, Source, Task
from generators.exchange import make_sample
from generators.fields import read_fields, schema_of
from generators.turns import take_turns

NAMES: Final = ("question", "sql")
SCHEMA: Final = schema_of(NAMES)
LEVELS: Final = {
    "simple": "One table answers it, with conditions or an aggregate.",
    "joined": "Tables have to be joined to answer it, where there are several, and rows grouped.",
    "nested": "It takes a subquery, a window or a set operation to answer it.",
}


class TextToSqlOptions(Strict):
    """What the questions are asked of."""

    schemas: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1, description="Files or globs of DDL in DuckDB's SQL, with INSERTs where there are some."
    )


class TextToSql:
    """Questions with their queries, each schema and each level in turn."""

    Options: ClassVar[type[BaseModel]] = TextToSqlOptions

    def __init__(self, options: TextToSqlOptions, domain: Domain) -> None:
        self.options = options
        schemas = read_schemas(options.schemas, domain.folder)
        self._schemas = {schema.source.id: schema for schema in schemas}
        self._sandbox = SqlSandbox()

    @property
    def slices(self) -> Collection[str]:
        """The names of the schema files, without ending."""
        return {source.slice for source in self.material}

    @property
    def material(self) -> Sequence[Source]:
        """The schema files, as sources: lineage ends at them."""
        return [schema.source for schema in self._schemas.values()]

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round, each with its schema and level."""
        names = list(LEVELS)
        for turn in take_turns(self.material, allocation, round_number):
            level = {"level": names[turn.choose(len(names))]}
            yield Task("text_to_sql", round_number, turn.ordinal, turn.slice, turn.material, attributes=level)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample, with the shape of its query's result or with the error among its attributes."""
        if task.source is None:
            raise ValueError("a task of text to SQL has its schema")
        schema = self._schemas[task.source.id]
        level = LEVELS[task.attributes["level"]]
        prompt = render("generators", "text_to_sql", level=level, schema=schema.shown)
        call = await ask([Message("user", prompt)], schema=SCHEMA, ordinal=task.ordinal)
        values, malformed = read_fields(call, NAMES)
        sql = call.text if malformed else plain_sql(values["sql"])
        found = {} if malformed or not sql else await self._execute(schema, sql)
        return [
            make_sample(
                task,
                values.get("question", ""),
                sql,
                [call],
                source=task.source,
                malformed=malformed,
                attributes={**task.attributes, **found},
                system=instruct(schema).content,
            )
        ]

    async def _execute(self, schema: Schema, sql: str) -> dict[str, str]:
        result = await self._sandbox.run(schema, sql)
        if result.fault:
            return {"error": result.error}
        return {"num_rows": str(result.num_rows), "num_columns": str(result.num_columns)}
