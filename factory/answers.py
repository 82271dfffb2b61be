"""Whether an answer is what its schema asked for, and the little that is mended before it is judged.

Mended is what leaves no choice: the one JSON value among words or code fences, and raw line breaks within
its strings. Nothing is ever completed: an answer that was cut off would pass for a whole one, and half an
answer is a wrong sample. Of a schema only what a reader needs is held against the answer (types, what is
required, enums); keys that come too much do no harm. Who asks again, and how often, is the engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from factory.types import Completion, Json, Request, digest

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
    return replace(answer, text=json.dumps(value, ensure_ascii=False), logprobs=None)


def is_answer(answer: Completion, schema: Json) -> bool:
    """Whether the text is JSON with everything that the schema requires, of the types that it names."""
    parsed = _parsed(answer.text)
    return parsed is not None and _fits(parsed[0], schema)


def ask_again(request: Request, answer: Completion, seed: int) -> Request | None:
    """The same question as a request of its own, drawn anew; None where the answer stands.

    It stands where it is what was asked for, and where another would be the same: nothing is left to chance,
    and this is the model's own answer. Text that is no JSON and yet ended by itself may have been broken on
    the way.
    """
    if is_answer(answer, request.schema):
        return None
    sampling, last = request.sampling, request.id
    if sampling.temperature == 0:
        is_own = answer.finish_reason == "length" or _parsed(answer.text) is not None
        return None if is_own else replace(request, instead_of=last)
    drawn = int(digest([seed, request.messages, request.ordinal, last], 8), 16) >> 1
    return replace(request, sampling=replace(sampling, seed=drawn), instead_of=last)


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
