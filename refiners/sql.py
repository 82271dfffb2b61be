"""Drops a query that does not execute: every answer to a question of a database is run over its schema.

Samples of other strategies pass. It stands after the refiners that can mend a query, since a rewrite comes to
it again and what it drops comes to nobody. What a query returns is not judged: that there is something to
return at all is evidence, and no reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.schemas import KEY_PREFIX, schemas_of
from factory.sql_sandbox import Result, SqlSandbox
from factory.types import Decision, Json, Sample


class SqlOptions(Strict):
    """None: the schemas are those of the recipe's strategies."""


class Sql:
    """Runs queries one after the other, in a process of their own."""

    Options: ClassVar[type[BaseModel]] = SqlOptions
    uses_model: ClassVar[bool] = False
    needs: ClassVar[str] = "the schemas of a recipe"

    def __init__(self, options: SqlOptions, domain: Domain) -> None:
        self._schemas = schemas_of(domain)
        self._sandbox = SqlSandbox()

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order; raises ServerError where nothing can be executed."""
        return [await self._judge(sample) for sample in samples]

    async def _judge(self, sample: Sample) -> Decision:
        key = sample.attributes.get("source_key", "")
        if not key.startswith(KEY_PREFIX):
            return Decision(sample.id, "sql", "keep", "not_applicable")
        schema = self._schemas.get(key)
        if schema is None:
            return Decision(sample.id, "sql", "drop", "unknown_schema", evidence={"schema": key})
        results = [await self._sandbox.run(schema, sql) for sql in sample.texts("assistant")]
        failed = next((result for result in results if result.fault), None)
        if failed:
            return Decision(sample.id, "sql", "drop", failed.fault, evidence={"error": failed.error})
        return Decision(sample.id, "sql", "keep", "ok", evidence=_shape(results))


def _shape(results: Sequence[Result]) -> dict[str, Json]:
    """Of the last query, which a sample is about."""
    return {"num_rows": results[-1].num_rows, "num_columns": results[-1].num_columns} if results else {}
