"""Whether an answer is what its schema asked for, and the little that is mended before it is judged.

Mended is what leaves no choice: the one JSON value among words or code fences, and raw line breaks within
its strings. Nothing is ever completed: an answer that was cut off would pass for a whole one, and half an
answer is a wrong sample. Of a schema only what a reader needs is held against the answer (types, what is
required, enums); keys that come too much do no harm. What follows from a bad answer is the engine's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from factory.types import Completion, Json

_LENIENT: Final = json.JSONDecoder(strict=False)  # takes line breaks and tabs within strings
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def mended(answer: Completion, schema: Json) -> Completion:
    """The answer with nothing but its JSON as text, where it holds exactly one value of the schema's kind.

    Otherwise, and where it ran into its limit of tokens, the answer as it is.
    """
    if answer.finish_reason == "length" or _parsed(answer.text) is not None:
        return answer
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    start = answer.text.find("[" if kind == "array" else "{")
    if start < 0:
        return answer
    try:
        value, end = _LENIENT.raw_decode(answer.text, start)
    except (ValueError, RecursionError):
        return answer
    if answer.text[start] in answer.text[end:]:  # perhaps a second value: which one is meant?
        return answer
    return replace(answer, text=json.dumps(value, ensure_ascii=False))


def is_answer(answer: Completion, schema: Json) -> bool:
    """Whether the text is JSON with everything that the schema requires, of the types that it names."""
    parsed = _parsed(answer.text)
    return parsed is not None and _fits(parsed[0], schema)


def is_json(answer: Completion) -> bool:
    """Whether the text is JSON, whatever it says."""
    return _parsed(answer.text) is not None


def _parsed(text: str) -> tuple[Json] | None:
    try:
        return (json.loads(text),)
    except (ValueError, RecursionError):
        return None


def _fits(value: Json, schema: Json) -> bool:
    if not isinstance(schema, Mapping):
        return True
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    kinds = schema.get("type", ())
    if kinds and not any(_is(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if isinstance(value, dict):
        parts = schema.get("properties", {})
        return all(key in value for key in schema.get("required", ())) and all(
            _fits(value[key], part) for key, part in parts.items() if key in value
        )
    return not isinstance(value, list) or all(_fits(item, schema.get("items")) for item in value)


def _is(value: Json, kind: str) -> bool:
    if isinstance(value, bool) and kind != "boolean":  # to Python a bool is a number
        return False
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, _TYPES.get(kind, object))
