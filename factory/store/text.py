"""Text that a column can hold, and back: the one place where strings are changed on their way in.

Models may return NUL and lone surrogates, which UTF-8 columns and JSON cannot carry. Each becomes
U+FFFD and its code in braces, `{0000}`; a U+FFFD that already stands before a brace is marked in
the same way, so that `restore(escape(text)) == text` for every string. All other text is stored
as it is. How text is shown is not here but in factory.printable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]|\ufffd(?=\\{)")
_ESCAPED = re.compile("\ufffd\\{([0-9a-f]{4})\\}")


def escape(text: str) -> str:
    """The text as it is stored."""
    if text.isascii() and "\x00" not in text:
        return text
    return _UNSTORABLE.sub(lambda match: f"\ufffd{{{ord(match[0]):04x}}}", text)


def restore(text: str) -> str:
    """The text that `escape` was given."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


class JsonText(str):
    """Text that is JSON already."""

    __slots__ = ()


def quick_json(value: Any) -> Any:
    """JSON of lists, dictionaries, text and finite numbers at a tenth of the cost; else the value itself.

    Not for numbers that may be NaN, which orjson writes as null.
    """
    try:
        return JsonText(orjson.dumps(value).decode())
    except TypeError:  # lone surrogates, numbers of more than 64 bits
        return value


def to_json(value: Any) -> str:
    """JSON text of a value, its strings and keys escaped; mappings and paths of any kind are accepted.

    Raises TypeError for what JSON cannot say.
    """
    text = value if isinstance(value, JsonText) else _STORED.encode(value)
    if "\\u0000" in text or (not text.isascii() and _UNSTORABLE.search(text)):
        text = _STORED.encode(_escape_within(json.loads(text)))
    return text


def from_json(text: str) -> Any:
    """The value that `to_json` was given, as plain lists and dictionaries."""
    value = json.loads(text)
    return _restore_within(value) if "\ufffd" in text else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "__fspath__") or hasattr(value, "isoformat"):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


_STORED = json.JSONEncoder(ensure_ascii=False, default=_plain)


def _escape_within(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, list):
        return [_escape_within(item) for item in value]
    if isinstance(value, dict):
        return {escape(key): _escape_within(item) for key, item in value.items()}
    return value


def _restore_within(value: Any) -> Any:
    if isinstance(value, str):
        return restore(value)
    if isinstance(value, list):
        return [_restore_within(item) for item in value]
    if isinstance(value, dict):
        return {restore(key): _restore_within(item) for key, item in value.items()}
    return value
