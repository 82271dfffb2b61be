"""The shape of an answer in parts: the JSON schema that is asked for, and the reading of what came.

Schemas say no more than that the parts are strings and must be there: every constrained decoder
takes that. An answer that does not hold to it is not thrown away here; it is named malformed, and the
`form` refiner drops the sample that keeps its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from factory.types import Completion, Json


class Fields(NamedTuple):
    """The strings found, and how the answer is malformed: not_json, truncated, missing_key or ''."""

    values: dict[str, str]
    malformed: str = ""


def schema_of(names: Sequence[str]) -> Json:
    """A JSON schema of an object with these strings, in this order, and nothing else.

    The same object for the same names, by which it is known where it becomes bytes: not to be changed.
    """
    return _schema(tuple(names))


@cache
def _schema(names: tuple[str, ...]) -> Json:
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }


def read_fields(completion: Completion, names: Sequence[str]) -> Fields:
    """The named strings of an answer, without white space around them."""
    try:
        parsed = completion.json()
    except (ValueError, RecursionError):
        return Fields({}, "truncated" if completion.finish_reason == "length" else "not_json")
    found = parsed if isinstance(parsed, dict) else {}
    values = {name: found[name].strip() for name in names if isinstance(found.get(name), str)}
    return Fields(values, "" if len(values) == len(names) else "missing_key")
