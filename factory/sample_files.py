"""Samples in a file that somebody else made: JSONL, or Parquet, one a line or row.

A sample is read in the forms that people use: `messages`, `conversations` (ShareGPT), or a pair under the
usual names. What else stands beside it is kept with it. Files are read and written line by line; what becomes
of a sample is decided in `factory.refine_file`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from factory.errors import InputError
from factory.types import Json, Message

SUFFIXES = (".jsonl", ".parquet")
QUESTIONS = ("prompt", "question", "instruction")
ANSWERS = ("response", "answer", "output", "completion")
SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
FORMS = f"`messages`, `conversations`, or {' or '.join(QUESTIONS)} with {' or '.join(ANSWERS)}"
PAGE_SIZE = 1000


class Line(NamedTuple):
    """A sample as it stands in the file, and its messages; `number` counts from 1."""

    number: int
    value: dict[str, Json]
    messages: tuple[Message, ...]


def is_sample_file(path: Path) -> bool:
    """Whether a path names a file of samples and no recipe."""
    return path.suffix.lower() in SUFFIXES


def read_lines(path: Path) -> Iterator[Line]:
    """The samples of a file, lazily; raises InputError naming the line that is none."""
    for number, value in _values(path):
        place = f"{path}:{number}"
        if not isinstance(value, dict):
            raise InputError("a sample is an object", where=place, hint=f"with {FORMS}")
        yield Line(number, value, _messages(value, place))


def with_messages(value: Mapping[str, Json], messages: Sequence[Message]) -> dict[str, Json]:
    """The same line with other messages, in the form that it has."""
    if "messages" in value:
        old = value["messages"]
        new = [{**of, "content": turn.content} for of, turn in zip(old, messages, strict=True)]
        return {**value, "messages": new}
    if "conversations" in value:
        old = value["conversations"]
        new = [{**of, "value": turn.content} for of, turn in zip(old, messages, strict=True)]
        return {**value, "conversations": new}
    question, answer = _keys(value)
    changed: dict[str, Json] = {**value, answer: messages[-1].content}
    if messages[0].content != _question(value, question):
        changed[question] = messages[0].content
        changed |= {"input": ""} if value.get("input") else {}  # it stands in the question now
    return changed


class Writer(Protocol):
    """Takes lines one by one."""

    def __call__(self, value: dict[str, Json]) -> None: ...


@contextmanager
def writing(path: Path, like: Path) -> Iterator[Writer]:
    """Opens a file for samples of the file `like`; it stands at `path` only once all is written.

    Raises InputError where the form is another one: JSONL goes into JSONL, Parquet into either.
    """
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", like.suffix.lower()):
        raise InputError(
            f"'{path.name}' cannot be written from {like.suffix}", where="--output", hint="use .jsonl"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with _json_lines(partial) if suffix == ".jsonl" else _rows(partial, like) as write:
        yield write
    partial.replace(path)


def _values(path: Path) -> Iterator[tuple[int, Json]]:
    if path.suffix.lower() == ".parquet":
        yield from enumerate(_parquet(path), 1)
        return
    number = 0
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, json.loads(text)
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", where=f"{path}, after line {number}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}", where=f"{path}:{number}") from error


def _parquet(path: Path) -> Iterator[Json]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PAGE_SIZE):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"no Parquet: {error}", where=str(path)) from error


def _messages(value: Mapping[str, Json], place: str) -> tuple[Message, ...]:
    if "messages" in value or "conversations" in value:
        name, role, content = (
            ("messages", "role", "content") if "messages" in value else ("conversations", "from", "value")
        )
        turns = value[name]
        if not isinstance(turns, list) or not turns:
            raise InputError("must be a list of messages", where=f"{place} {name}")
        return tuple(_message(turn, role, content, f"{place} {name}[{at}]") for at, turn in enumerate(turns))
    question, answer = _keys(value)
    if not question or not answer:
        raise InputError("no question with its answer", where=place, hint=f"a sample has {FORMS}")
    texts = (_question(value, question), value[answer])
    if not all(isinstance(text, str) for text in texts):
        raise InputError("question and answer are texts", where=f"{place} {question}, {answer}")
    return Message("user", texts[0]), Message("assistant", texts[1])


def _message(turn: Json, role: str, content: str, place: str) -> Message:
    speaker = SPEAKERS.get(turn.get(role, "")) if isinstance(turn, dict) else None
    if speaker is None:
        raise InputError(f"no `{role}` that is known", where=place, hint=f"one of {', '.join(SPEAKERS)}")
    if not isinstance(turn.get(content), str):
        raise InputError("must be a text", where=f"{place}.{content}", hint="calls of tools are not read")
    return Message(speaker, turn[content])  # type: ignore[arg-type]


def _keys(value: Mapping[str, Json]) -> tuple[str, str]:
    question = next((name for name in QUESTIONS if name in value), "")
    return question, next((name for name in ANSWERS if name in value), "")


def _question(value: Mapping[str, Json], key: str) -> Any:
    """The instruction with its input below, as Alpaca's form has them."""
    further = value.get("input") if key == "instruction" else None
    return f"{value[key]}\n\n{further}" if further else value[key]


@contextmanager
def _json_lines(path: Path) -> Iterator[Writer]:
    with path.open("w", encoding="utf-8", errors="replace") as file:

        def write(value: dict[str, Json]) -> None:
            file.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")

        yield write


@contextmanager
def _rows(path: Path, like: Path) -> Iterator[Writer]:
    """Parquet with the columns of the file `like`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    page: list[dict[str, Json]] = []
    schema = pq.read_schema(like)
    with pq.ParquetWriter(path, schema, compression="zstd") as file:

        def flush() -> None:
            file.write_table(pa.Table.from_pylist(page, schema=schema))
            page.clear()

        def write(value: dict[str, Json]) -> None:
            page.append(value)
            if len(page) >= PAGE_SIZE:
                flush()

        yield write
        flush()
