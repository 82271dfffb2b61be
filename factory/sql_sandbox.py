"""Executes SQL that a model wrote, in a process of its own that is killed when it takes too long.

A worker (`factory.sql_worker`) is started at the first query and goes with the sandbox. It gets no
environment and reads nothing but what it is sent. Queries wait for one another in a thread, so the event loop
goes on. What a query is for, and what its fault means, is for who asks.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, NamedTuple, cast

from factory.errors import RecipeError, ServerError
from factory.schemas import Schema
from factory.types import Json

LIMIT_SECONDS: Final = 5.0
START_SECONDS: Final = 60.0  # for the worker to import DuckDB, and for a schema to be set up
WORKER: Final = Path(__file__).with_name("sql_worker.py")
PASSED_ON: Final = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
Pipes = tuple[IO[bytes], IO[bytes]]


class Result(NamedTuple):
    """The shape of what a query gives, or why it gives nothing.

    `fault`: not_select, sql_error, sql_timeout, sql_crashed, or '' where it was executed; bad_reference where
    there is nothing to compare with. Rows are counted up to factory.sql_worker.MAX_ROWS.
    `same` and `difference` ('' where there is none) are told where there was a reference; rows are then
    counted up to one more than that has.
    """

    num_rows: int = 0
    num_columns: int = 0
    fault: str = ""
    error: str = ""
    same: bool = False
    difference: str = ""


class SqlSandbox:
    """One worker, started when it is needed and again after it had to be killed."""

    def __init__(self, limit_seconds: float = LIMIT_SECONDS) -> None:
        self.limit_seconds = limit_seconds
        self._thread = ThreadPoolExecutor(1, "sql")
        self._worker: _Worker | None = None

    async def run(self, schema: Schema, sql: str) -> Result:
        """What the query gives over a fresh copy of the schema; raises ServerError where none can run."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, schema, sql)

    async def compare(self, schema: Schema, sql: str, reference: str) -> Result:
        """Whether the query gives what `reference` gives, and in what it differs.

        Both together have twice the time of one.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._run, schema, sql, reference)

    def check(self, schema: Schema, reference: str) -> Result:
        """What is wrong with a query as a reference, at once; `same` where it gives the same twice."""
        return self._thread.submit(self._run, schema, reference, reference).result()

    def _run(self, schema: Schema, sql: str, reference: str | None = None) -> Result:
        if self._worker is None:
            self._worker = _Worker()
        question: dict[str, Json] = {"schema": schema.source.id, "sql": sql}
        limit_seconds = self.limit_seconds
        if reference is not None:
            question["reference"] = reference
            limit_seconds *= 2
        try:
            found = self._worker.ask(question, limit_seconds)
            if found.get("unknown_schema"):
                setup: dict[str, Json] = {"schema": schema.source.id, "script": schema.source.text}
                setup["sql"] = "SELECT 1"
                if error := self._worker.ask(setup, START_SECONDS).get("error"):
                    raise RecipeError(f"the schema cannot be set up: {error}", where=schema.source.path)
                found = self._worker.ask(question, limit_seconds)
        except (TimeoutError, OSError) as error:
            self._worker.stop()
            self._worker = None
            if isinstance(error, TimeoutError):
                return Result(fault="sql_timeout", error=f"no result within {limit_seconds:g} seconds")
            return Result(fault="sql_crashed", error="the query brought the database down")
        return Result(**found)


class _Worker:
    """The process and its two pipes."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        self._process = subprocess.Popen(  # noqa: S603 (our own file)
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is the factory's to handle
        )
        self._questions, self._answers = cast("Pipes", (self._process.stdin, self._process.stdout))
        self.stop = weakref.finalize(self, _end, self._process)
        self._unread = b""
        try:
            self._read(START_SECONDS)
        except (TimeoutError, OSError) as error:
            self.stop()
            raise ServerError("the process that executes SQL does not start", where=str(WORKER)) from error

    def ask(self, question: dict[str, Json], limit_seconds: float) -> dict[str, Json]:
        """The answer; raises TimeoutError, or OSError where the process is gone."""
        line = json.dumps({**question, "limit_seconds": limit_seconds})
        self._questions.write(line.encode() + b"\n")
        self._questions.flush()
        return self._read(limit_seconds)

    def _read(self, limit_seconds: float) -> dict[str, Json]:
        deadline = time.monotonic() + limit_seconds
        while b"\n" not in self._unread:
            seconds_left = deadline - time.monotonic()
            if seconds_left <= 0 or not select.select([self._answers], [], [], seconds_left)[0]:
                raise TimeoutError
            piece = os.read(self._answers.fileno(), 65536)
            if not piece:
                raise BrokenPipeError
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Json] = json.loads(line)
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in cast("Pipes", (process.stdin, process.stdout)):
        with suppress(OSError):  # a question that nobody reads any more
            pipe.close()
