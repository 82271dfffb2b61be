"""The lines of a training's dataset: chats, and answers that somebody judged.

A chat is a line's `messages` and `tools`, with `where` it stands, so that whatever refuses it later can name
file and line. Which of them can be learned is for `training.tokens` and `training.preference` to say. Nothing
here loads torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.errors import TrainingRefused
from training.tokens import Chat


def read_chats(dataset: Path) -> Iterator[Chat]:
    """The chats of a JSONL file, which also holds judged answers; any other is refused."""
    with dataset.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                found = json.loads(line)
                if is_judged(found):
                    continue
                chat = {"messages": found["messages"], "tools": found.get("tools")}
                if not are_turns(chat["messages"]):
                    raise TypeError("no list of turns")
            except (ValueError, KeyError, TypeError) as error:
                what = 'not a line like {"messages": [{"role": "user", "content": "…"}, …]}'
                raise TrainingRefused(what, where=place(dataset, number)) from error
            yield {**chat, "where": place(dataset, number)}


def is_judged(line: Any) -> bool:
    """Whether a line of a dataset is a pair or a labelled answer."""
    return isinstance(line, dict) and ("chosen" in line or {"completion", "label"} <= line.keys())


def are_turns(found: Any) -> bool:
    """Whether it is a list of turns, one at least, of which each has a role and a content."""
    return (
        isinstance(found, list)
        and bool(found)
        and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in found)
    )


def place(dataset: Path, number: int) -> str:
    """A line of a file, counted from 1, as errors name it."""
    return f"{dataset}:{number}"
