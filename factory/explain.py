"""Turns pydantic's findings into what a person needs: which key, what is wrong, what to do.

Of many findings one is told: a misspelt key comes before a wrong value, and that before a missing
key, since a misspelling often causes the other two. Where the value was written (file, line) is not
known here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from factory.strict import KeyedError

Loc = tuple[str | int, ...]
MAX_KNOWN = 24  # more would not be read
QUOTE = "put it in quotes"
HINTS = {
    "string_type": QUOTE,
    "int_type": "write it without quotes and without a fraction",
    "float_type": "write it without quotes",
    "bool_type": "write true or false",
    "list_type": "write a list: [one, two], or a line for each with a dash",
    "dict_type": "write a mapping: indented lines of `key: value`",
    "model_type": "write a mapping: indented lines of `key: value`",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: the place of the key, what is wrong with it, what to do."""

    loc: Loc
    kind: str
    what: str
    hint: str


def explain(error: ValidationError, model: type[BaseModel]) -> Finding:
    """The finding of `error` that is worth telling first; `model` is what was validated."""
    return min((_with_its_key(item, _finding(item, model)) for item in error.errors()), key=_urgency)


def dotted(loc: Loc) -> str:
    """A place as people write it: `refiners[2].threshold`."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def undotted(text: str) -> Loc:
    """The place that `dotted` wrote, of keys without dots and brackets."""
    parts = re.findall(r"[^.\[\]]+", text)
    return tuple(int(part) if f"[{part}]" in text else part for part in parts)


def did_you_mean(word: str, known: Sequence[str], otherwise: str = "nothing is expected here") -> str:
    """A hint that names the nearest known word, or all where none is near and they are not many."""
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known here: {', '.join(known)}" if 0 < len(known) <= MAX_KNOWN else otherwise


def _urgency(finding: Finding) -> int:
    return {"unknown": 0, "missing": 2}.get(finding.kind, 1)


def _with_its_key(item: Mapping[str, Any], finding: Finding) -> Finding:
    """A finding with the key and the hint that a validator gave, where it did."""
    raised = item.get("ctx", {}).get("error")
    if not isinstance(raised, KeyedError):
        return finding
    return Finding((*finding.loc, *raised.loc), finding.kind, str(raised), raised.hint)


def _finding(item: Mapping[str, Any], model: type[BaseModel]) -> Finding:
    kind, raw = item["type"], item["loc"]
    of_key = bool(raw) and raw[-1] == "[key]"
    loc, _ = _place(model, raw[:-1] if of_key else raw)
    last = str(loc[-1]) if loc else ""
    if kind == "extra_forbidden" or (of_key and kind == "literal_error"):
        _, parent = _place(model, raw[:-1] if not of_key else raw[:-2])
        known = list(parent.get("properties", {})) or list(parent.get("propertyNames", {}).get("enum", []))
        return Finding(loc, "unknown", f"unknown key '{last}'", did_you_mean(last, known))
    if of_key:
        return Finding(loc, kind, f"'{last}' is no name", "use lower-case letters, digits, - and _")
    if kind == "missing":
        return Finding(loc, kind, f"'{last}' is missing", _expected(model, raw))
    if kind == "union_tag_not_found":
        return Finding((*loc, "kind"), "missing", "'kind' is missing", "one of: " + _tags(model, raw))
    if kind == "union_tag_invalid":
        tag = str(item["ctx"]["tag"])
        return Finding((*loc, "kind"), kind, f"unknown kind '{tag}'", "one of: " + _tags(model, raw))
    message = str(item["msg"]).removeprefix("Value error, ")
    message = message.replace("Input should have", "must have").replace("Input should", "must")
    found = "" if kind == "value_error" else f", found {_show(item['input'])}"
    return Finding(loc, kind, message[:1].lower() + message[1:] + found, HINTS.get(kind, ""))


def _tags(model: type[BaseModel], raw: Loc) -> str:
    _, node = _place(model, raw)
    return ", ".join(node.get("discriminator", {}).get("mapping", {}))


def _expected(model: type[BaseModel], raw: Loc) -> str:
    """What to write for a missing key, by its description."""
    _, parent = _place(model, raw[:-1])
    text = str(parent.get("properties", {}).get(raw[-1], {}).get("description", ""))
    return f"add it: {text[:1].lower()}{text[1:].rstrip('.')}" if text else "add it"


def _show(value: object) -> str:
    text = " ".join(repr(value).split())
    kind = {dict: "a mapping", list: "a list", type(None): "nothing"}.get(type(value))
    return kind or (text if len(text) <= 40 else text[:37] + "...")


def _place(model: type[BaseModel], raw: Loc) -> tuple[Loc, dict[str, Any]]:
    """The place in the user's file for one of pydantic's, which also names the kinds of unions, and
    the JSON Schema of what belongs there (empty where the schema does not know it).
    """
    schema = model.model_json_schema()
    node, loc = schema, []
    for part in raw:
        if "discriminator" in node and part in node["discriminator"]["mapping"]:
            node = follow(schema, {"$ref": node["discriminator"]["mapping"][part]})
            continue
        if "anyOf" in node and isinstance(part, str):
            kinds = [each for each in node["anyOf"] if each.get("$ref", "").endswith(f"/{part}")]
            node = follow(schema, kinds[0] if kinds else {})
            continue
        loc.append(part)
        if isinstance(part, int):
            node = follow(schema, node.get("items", {}))
        else:
            node = follow(schema, node.get("properties", {}).get(part, values_of(node)))
    return tuple(loc), node


def follow(schema: dict[str, Any], node: Any) -> dict[str, Any]:
    """A node of a JSON Schema with its reference resolved, and `X or null` taken for X."""
    if not isinstance(node, dict):
        return {}
    options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
    if len(options) == 1:
        return follow(schema, options[0])
    if "$ref" in node:
        return follow(schema, schema["$defs"][node["$ref"].rsplit("/", 1)[1]])
    return node


def values_of(node: dict[str, Any]) -> dict[str, Any]:
    """What belongs under any key of a mapping, in JSON Schema; empty where the keys are known."""
    inner = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties"))
    return inner if isinstance(inner, dict) else {}
