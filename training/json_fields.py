"""Answers that are JSON objects, compared field by field with the reference's.

A field is a path of keys to a value that is no object: `{"a": {"b": 1}}` has the field `a.b`. A list is one
value, compared as a whole. Text around the object, a key that stands twice, NaN: such an answer is no JSON
object, since what reads it will not take it either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from factory.types import Json
from training.metrics import MAX_TOLD, Scored, difference

Fields = Mapping[str, str]  # path -> the value as JSON, in which true is not 1 and 1.0 is 1


def compare_fields(expected: str, answer: str, names: Sequence[str] = ()) -> Scored:
    """Right fields as a share of those that the reference or the answer has.

    So a field too many counts as a wrong one. `names` are the paths that count, with what lies below them;
    none: all. 0.0 for an answer that is no JSON object. Raises ValueError for such a reference.
    """
    right = read_fields(expected, names)
    try:
        given = read_fields(answer, names)
    except ValueError as error:
        return Scored(0.0, str(error)[:MAX_TOLD])
    wrong = [path for path, value in right.items() if path in given and given[path] != value]
    missing, extra = ([*one.keys() - other.keys()] for one, other in ((right, given), (given, right)))
    num_right = len(right) - len(wrong) - len(missing)
    told = difference(sorted(missing), sorted(extra), wrong)
    return Scored(num_right / max(1, len(right) + len(extra)), told)


def read_fields(text: str, names: Sequence[str] = ()) -> Fields:
    """The fields of a JSON object, or those that `names` lead to; raises ValueError for anything else."""
    try:
        found = json.loads(
            text, object_pairs_hook=_without_twice, parse_float=_number, parse_constant=_no_number
        )
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        fields = {path: json.dumps(value, sort_keys=True) for path, value in _leaves(found)}
    except RecursionError as error:
        raise ValueError("no JSON object: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"no JSON object: {error}") from error
    return {path: value for path, value in fields.items() if not names or _is_below(path, names)}


def _leaves(found: Mapping[str, Json]) -> list[tuple[str, Json]]:
    leaves: list[tuple[str, Json]] = []
    waiting: list[tuple[str, Json]] = list(found.items())[::-1]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting += [(f"{path}.{key}", part) for key, part in value.items()][::-1]
        else:
            leaves.append((path, value))
    return leaves


def _is_below(path: str, names: Sequence[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in names)


def _without_twice(pairs: list[tuple[str, Json]]) -> Json:
    found: dict[str, Json] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key '{key}' stands there twice")
        found[key] = value
    return found


def _number(text: str) -> float | int:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large")
    return int(value) if value.is_integer() else value


def _no_number(name: str) -> Json:
    raise ValueError(f"{name} is no number in JSON")
