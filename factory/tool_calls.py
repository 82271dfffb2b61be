"""Calls of tools: text within a sample, `tool_calls` where it leaves the store.

A tool is a function with a JSON schema of its parameters, written as chat templates take it. A sample with
the attribute `tools` (JSON: the tools it offers) answers with calls, as the JSON text
`[{"name": …, "arguments": {…}}]`, so that what measures, compares, edits and shows answers need know nothing
of calls. A schema is never fetched from anywhere, and nothing is called here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from factory.digests import canonical
from factory.errors import RecipeError
from factory.types import Json, Message

COMPOSED: Final = frozenset({"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties"})
MAX_ERROR_CHARS: Final = 300
MAX_DEPTH: Final = 64  # of a list of calls; what is nested by the hundred can be read and not written again


class Fault(NamedTuple):
    """Why calls cannot be made: a slug, and what the check said."""

    reason: str
    error: str


def read_calls(text: str) -> list[dict[str, Json]] | None:
    """The calls that an answer consists of; None where it is no list of calls."""
    try:
        found = json.loads(text)
        json.dumps(found, allow_nan=False)  # Python reads NaN and 1e400, which no file could hold
    except (ValueError, RecursionError):
        return None
    well_formed = isinstance(found, list) and all(
        isinstance(call, dict)
        and call.keys() == {"name", "arguments"}
        and isinstance(call["name"], str)
        and isinstance(call["arguments"], dict)
        for call in found
    )
    return found if found and well_formed and not _is_deeper(found, MAX_DEPTH) else None


def text_of_calls(functions: Sequence[Mapping[str, Json]]) -> str:
    """Calls as they come from a model, as the text of an answer.

    Arguments are a JSON text there; what cannot be read as an object stays the text that it is, so that the
    answer is seen and is no list of calls. Raises LookupError or TypeError for what is no call.
    """
    calls = [{"name": each["name"], "arguments": _read_arguments(each["arguments"])} for each in functions]
    if not all(isinstance(call["name"], str) for call in calls):
        raise TypeError("a function's name is no text")
    return json.dumps(calls, ensure_ascii=False)


def difference_of_calls(expected: str, answer: str) -> str:
    """In what an answer's calls are not the expected ones, in any order; '' where they are.

    Arguments are compared as JSON: the order of keys does not matter, and 1 is 1.0. Strings must be equal.
    Functions that are missing or too many are told first, else the arguments of one call.
    """
    read = read_calls(expected), read_calls(answer)
    if read[0] is None or read[1] is None:
        return "no list of calls"
    wanted, found = (Counter(map(canonical, map(_normal, calls))) for calls in read if calls)
    lost, extra = _read_each(wanted - found), _read_each(found - wanted)
    if not lost and not extra:
        return ""
    names, others = (Counter(call["name"] for call in calls) for calls in (lost, extra))
    counts = {"missing": names - others, "too many": others - names}
    told = "; ".join(f"{what}: {', '.join(each)}" for what, each in counts.items() if each)
    return (told or _other_arguments(lost[0], extra))[:MAX_ERROR_CHARS]


def fault_of_calls(text: str, tools: str) -> Fault | None:
    """Why `text` is no list of valid calls of `tools` (JSON); None where it is one.

    Reasons: unreadable_calls, unknown_tool, invalid_arguments. Raises RecipeError for a schema that cannot
    be applied.
    """
    calls = read_calls(text)
    if calls is None:
        return Fault("unreadable_calls", 'expected [{"name": …, "arguments": {…}}, …]')
    validators = _validators(tools)
    for call in calls:
        name = call["name"]
        if name not in validators:
            return Fault("unknown_tool", f"'{name}' is not among {', '.join(validators)}"[:MAX_ERROR_CHARS])
        if error := _error_in(call["arguments"], validators[name], name):
            return Fault("invalid_arguments", f"{name}: {error}"[:MAX_ERROR_CHARS])
    return None


def check_tool(function: Mapping[str, Json]) -> str:
    """What is wrong with the schema of a function's parameters, or ''."""
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    parameters = function.get("parameters")
    if not isinstance(parameters, dict) or parameters.get("type", "object") != "object":
        return "'parameters' must be a JSON schema of an object"
    if outside := [ref for ref in _references(parameters) if not ref.startswith("#")]:
        return f"the schema refers to '{outside[0]}': a schema must stand in itself"
    try:
        validator_for(parameters, default=_draft()).check_schema(parameters)
        _error_in({}, _validator(function), str(function["name"]))
    except (SchemaError, RecipeError) as error:
        return f"not a JSON schema: {' '.join(str(error).split(chr(10))[0].split())}"[:MAX_ERROR_CHARS]
    return ""


def chat_of(messages: Sequence[Message], attributes: Mapping[str, str]) -> dict[str, Json]:
    """`messages` as chat templates take them, and `tools` beside them where the sample offers some.

    An answer that consists of calls has no content but `tool_calls`; `arguments` are mappings.
    """
    turns: list[dict[str, Json]] = [message._asdict() for message in messages]
    if "tools" not in attributes:
        return {"messages": turns}
    for turn in turns:
        if turn["role"] == "assistant" and (calls := read_calls(turn["content"])):
            turn["content"] = ""
            turn["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return {"messages": turns, "tools": json.loads(attributes["tools"])}


@lru_cache(maxsize=256)
def _validators(tools: str) -> Mapping[str, Any]:
    functions = [tool["function"] for tool in json.loads(tools)]
    return {function["name"]: _validator(function) for function in functions}


def _validator(function: Mapping[str, Json]) -> Any:
    """A validator that fetches nothing; arguments that the schema does not name are refused by default."""
    from jsonschema.validators import validator_for
    from referencing import Registry

    schema = dict(function["parameters"])
    if not COMPOSED & schema.keys():
        schema.setdefault("additionalProperties", False)
    kind = validator_for(schema, default=_draft())
    return kind(schema, registry=Registry(), format_checker=kind.FORMAT_CHECKER)


def _draft() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator


def _error_in(arguments: Mapping[str, Json], validator: Any, name: str) -> str:
    """What the validator finds most wrong, with its place; '' where all is well."""
    from jsonschema.exceptions import best_match
    from referencing.exceptions import Unresolvable

    try:
        error = best_match(validator.iter_errors(arguments))
    except (Unresolvable, RecursionError) as unresolved:
        what = f"the schema of tool '{name}' cannot be applied: {unresolved}"
        raise RecipeError(what, hint="a '$ref' must lead to a part of the same schema") from unresolved
    return f"{error.json_path}: {error.message}" if error else ""


def _read_each(calls: Counter[str]) -> list[dict[str, Json]]:
    return [json.loads(call) for call in calls.elements()]


def _other_arguments(wanted: Mapping[str, Json], calls: Sequence[Mapping[str, Json]]) -> str:
    """In which arguments the nearest call of the same function is not the wanted one."""
    there = _written(wanted)
    of_each = [_written(call) for call in calls if call["name"] == wanted["name"]]
    differing = [[key for key in there | here if there.get(key) != here.get(key)] for here in of_each]
    fewest = min(differing, key=len)
    return f"other arguments of {wanted['name']}: {', '.join(sorted(fewest))}"


def _written(call: Mapping[str, Json]) -> dict[str, str]:
    """A call's arguments, each as JSON, in which true is not 1."""
    return {key: canonical(value) for key, value in call["arguments"].items()}


def _read_arguments(arguments: Json) -> Json:
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return arguments
    return arguments if not isinstance(found, dict) or _is_deeper(found, MAX_DEPTH) else found


def _normal(value: Json) -> Json:
    """The value with each whole number as such, however it was written."""
    if isinstance(value, dict):
        return {key: _normal(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_normal(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _is_deeper(value: Json, depth: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return parts is not None and (depth == 0 or any(_is_deeper(part, depth - 1) for part in parts))


def _references(schema: Json) -> Iterator[str]:
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    for part in parts:
        yield from _references(part)
    if isinstance(schema, dict):
        found = (schema.get(key) for key in ("$ref", "$dynamicRef"))
        yield from (reference for reference in found if isinstance(reference, str))
