"""Lists of short texts from the teacher: subtopics, personas. Asked for once and shared by many tasks.

The schema names an array of strings and no length, since not every constrained decoder takes one: the
prompt says how many, and what comes too much is cut. Who asks decides what a list without entries means.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from factory.nearest import words
from factory.types import Completion, Json


class Entries(NamedTuple):
    """The texts found, and how the answer is malformed: not_json, truncated, missing_key or ''."""

    texts: list[str]
    malformed: str = ""


def list_schema(name: str) -> Json:
    """A JSON schema of an object with one list of strings."""
    return {
        "type": "object",
        "properties": {name: {"type": "array", "items": {"type": "string"}}},
        "required": [name],
        "additionalProperties": False,
    }


def read_list(completion: Completion, name: str, most: int, besides: Collection[str] = ()) -> Entries:
    """The first `most` texts of the list, each once; texts `besides` and those without a word are left out.

    Two texts are the same where they differ in case and punctuation only.
    """
    try:
        parsed = completion.json()
    except (ValueError, RecursionError):
        return Entries([], "truncated" if completion.finish_reason == "length" else "not_json")
    found = parsed.get(name) if isinstance(parsed, dict) else None
    if not isinstance(found, list):
        return Entries([], "missing_key")
    known, texts = {_key(text) for text in besides} | {()}, []
    for text in found:
        if isinstance(text, str) and _key(text) not in known:
            known.add(_key(text))
            texts.append(" ".join(text.split()))
    return Entries(texts[:most], "" if texts else "missing_key")


def _key(text: str) -> tuple[str, ...]:
    return tuple(words(text))
