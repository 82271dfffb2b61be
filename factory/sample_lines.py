"""One line of anybody's dataset and the sample that it is: read, and written back where it was rewritten.

A line is a conversation, {"messages": [...]}, or a pair under the usual names: a prompt, question or
instruction with a response, answer, output or completion. All else in it is carried along untouched, but
for texts that repeat what was rewritten. Files are read in `factory.sample_files`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from factory.tool_calls import read_calls, text_of_calls
from factory.types import Json, Message, Parent, Sample, Seed

Row = Mapping[str, Json]
PROMPTS: Final = ("prompt", "question", "instruction")
ANSWERS: Final = ("response", "answer", "output", "completion")
ROLES: Final = ("system", "user", "assistant")
# Keys that steps know as attributes of a sample: of datasets that the factory exported, above all.
ATTRIBUTES: Final = ("slice", "strategy", "source_key", "answerable", "original", "rejected")
STRATEGY: Final = "file"  # of a line that names none
EXPECTED: Final = '{"messages": [...]} or {"prompt": ..., "response": ...}'


def seed_of(row: Row, key: str) -> Seed:
    """The line itself as what its sample goes back to; `key` is file and number. Raises ValueError."""
    messages, attributes = _read(row)
    question = next((message.content for message in messages if message.role == "user"), "")
    return Seed.create(key, question, attributes.get("slice", ""))


def sample_of(row: Row, seed: Seed) -> Sample:
    """The sample that a line is; lines that say the same are different samples.

    Raises ValueError, with what is wrong, for a line that is none.
    """
    messages, attributes = _read(row)
    attributes.setdefault("strategy", STRATEGY)
    return Sample.create(messages, [Parent(seed.id, "seed")], "file", attributes)


def rewritten(row: Row, messages: Sequence[Message], attributes: Mapping[str, str]) -> dict[str, Json]:
    """The line with other messages in place of its own, as many; its form and its other keys stay."""
    before, _ = _read(row)
    new = dict(row)
    pairs = zip(before, messages, strict=True)
    changes = {old.content: now.content for old, now in pairs if old.content and old != now}
    for key, value in row.items():
        if isinstance(value, str) and value in changes:
            new[key] = changes[value]
        elif key in ATTRIBUTES and isinstance(value, str) and key in attributes:
            new[key] = attributes[key]
    if "messages" in row:
        turns = zip(row["messages"], messages, strict=True)
        new["messages"] = [_turn(turn, message.content) for turn, message in turns]
    else:
        _fill(new, row, messages)
    if attributes.get("tools") and "tools" in row:
        new["tools"] = _in_form_of(row["tools"], json.loads(attributes["tools"]))
    return new


def _fill(new: dict[str, Json], row: Row, messages: Sequence[Message]) -> None:
    """Puts the texts of a pair back; an instruction that had an `input` holds both in the end."""
    texts = {message.role: message.content for message in messages}
    prompt, answer = _key(row, PROMPTS), _key(row, ANSWERS)
    if row.get("input") and texts["user"] == _prompt(row, prompt):
        new[prompt], new["input"] = row[prompt], row["input"]  # even where they read as what was rewritten
    else:
        new[prompt] = texts["user"]
        if row.get("input"):
            new["input"] = ""
    new[answer] = texts["assistant"]
    if row.get("system"):
        new["system"] = texts["system"]


def _read(row: Row) -> tuple[list[Message], dict[str, str]]:
    attributes = {name: row[name] for name in ATTRIBUTES if isinstance(row.get(name), str)}
    if row.get("tools"):
        attributes["tools"] = json.dumps(_parsed(row["tools"]), ensure_ascii=False)
    if "messages" in row:
        return _conversation(row["messages"]), attributes
    prompt, answer = _key(row, PROMPTS), _key(row, ANSWERS)
    messages = [Message("user", _prompt(row, prompt)), Message("assistant", _text(row, answer))]
    if row.get("system"):
        messages.insert(0, Message("system", _text(row, "system")))
    return messages, attributes


def _key(row: Row, names: Sequence[str]) -> str:
    """The one of some names that a line has; raises ValueError."""
    there = [name for name in names if name in row]
    if len(there) == 1:
        return there[0]
    what = f"both '{there[0]}' and '{there[1]}' are there" if there else f"there is no {' or '.join(names)}"
    raise ValueError(f"{what}; a sample is {EXPECTED}")


def _text(row: Row, key: str) -> str:
    if isinstance(row[key], str):
        return str(row[key])
    raise ValueError(f"'{key}' is no text")


def _prompt(row: Row, key: str) -> str:
    given = _text(row, "input") if row.get("input") else ""
    return "\n\n".join(filter(None, [_text(row, key), given]))


def _conversation(turns: Json) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise ValueError("'messages' is no list of messages")
    return [_message(turn, number) for number, turn in enumerate(turns)]


def _message(turn: Json, number: int) -> Message:
    if not isinstance(turn, dict) or turn.get("role") not in ROLES:
        raise ValueError(f"messages[{number}] has no role of {', '.join(ROLES)}")
    content = turn.get("content")
    if turn.get("tool_calls") and not content:
        try:
            content = text_of_calls([_parsed(call)["function"] for call in turn["tool_calls"]])
        except (LookupError, TypeError) as error:
            raise ValueError(f"messages[{number}].tool_calls cannot be read: {error}") from error
    if not isinstance(content, str):
        raise ValueError(f"messages[{number}].content is no text")
    return Message(turn["role"], content)


def _turn(turn: Mapping[str, Json], content: str) -> dict[str, Json]:
    """A message of the line with another content; calls stay calls where they can be read as such."""
    if not turn.get("tool_calls") or turn.get("content"):
        return {**turn, "content": content}
    calls = read_calls(content)
    if calls is None:
        return {**turn, "content": content, "tool_calls": None}
    named = [{**_parsed(old), "function": new} for old, new in zip(turn["tool_calls"], calls, strict=False)]
    return {**turn, "tool_calls": _in_form_of(turn["tool_calls"], named)}


def _parsed(value: Json) -> Json:
    """JSON that may stand as text, as Parquet keeps it; lists item by item. Raises ValueError."""
    if isinstance(value, list):
        return [_parsed(item) for item in value]
    return json.loads(value) if isinstance(value, str) else value


def _in_form_of(old: Json, new: Json) -> Json:
    """JSON as text where it was text before."""
    if isinstance(old, str):
        return json.dumps(new, ensure_ascii=False)
    if isinstance(old, list) and isinstance(new, list):
        return [_in_form_of(each, now) for each, now in zip(old, new, strict=False)]
    return new
