"""Benchmark files that a step keeps its samples apart from: JSONL with a question and an answer a line.

Other keys are ignored, since public benchmarks have many. Items of a file are named by their
`id`, else their line. A change of what the files say makes another run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from factory.errors import RecipeError
from factory.explain import dotted, explain
from factory.gold import AnyText, Text
from factory.layers import read_text
from factory.types import GoldItem


class BenchmarkLine(BaseModel):
    """A line of a benchmark file; more keys may stand there."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    question: Text
    answer: AnyText
    id: str | int | None = None


def read_benchmarks(folder: Path, names: Sequence[str]) -> list[tuple[str, GoldItem]]:
    """(file as the recipe names it, item) of each line, in order; paths start at `folder`.

    Raises RecipeError naming file and line.
    """
    return [(name, item) for name in names for item in _read(folder / Path(name).expanduser())]


def _read(path: Path) -> Iterator[GoldItem]:
    if not path.is_file():
        hint = "paths start at the recipe's folder; beside a FILE at the current one"
        raise RecipeError(f"there is no file '{path}'", where="benchmarks", hint=hint)
    num_items = 0
    for number, text in enumerate(read_text(path).split("\n"), 1):
        if not text.strip():
            continue
        line = _parse(text, f"{path}:{number}")
        num_items += 1
        yield GoldItem(str(number if line.id is None else line.id), line.question, line.answer, "")
    if not num_items:
        raise RecipeError("the benchmark is empty", where=str(path))


def _parse(text: str, place: str) -> BenchmarkLine:
    try:
        return BenchmarkLine.model_validate(json.loads(text))
    except (json.JSONDecodeError, RecursionError) as error:
        raise RecipeError(f"not JSON: {error}", where=place, hint="one object a line") from error
    except ValidationError as error:
        finding = explain(error, BenchmarkLine)
        hint = finding.hint or "keys: question, answer, id (may be left out)"
        raise RecipeError(finding.what, where=f"{place} {dotted(finding.loc)}", hint=hint) from error
