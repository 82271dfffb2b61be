"""The lines of a training's dataset: chats, and answers that somebody judged.

A chat is a line's `messages` and `tools`, with `where` it stands, so that whatever refuses it later can name
file and line. Which of them can be learned is for `training.tokens` and `training.judged_answers` to say.
Nothing here loads torch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from factory.errors import TrainingRefused
from factory.layers import read_text
from training.tokens import Chat, Turn

ROLES = ("system", "user", "assistant", "tool")


def read_lines(dataset: Path) -> Iterator[tuple[int, str, str]]:
    """The number of each line, from 1, its place and its text; raises RecipeError unless it is UTF-8."""
    for number, line in enumerate(io.StringIO(read_text(dataset)), 1):
        yield number, place(dataset, number), line


def read_chats(dataset: Path) -> Iterator[Chat]:
    """The chats of a JSONL file, which also holds judged answers; raises TrainingRefused where it has none.

    And for any line that is neither.
    """
    num_chats, num_judged = 0, 0
    for _, where, line in read_lines(dataset):
        try:
            found = json.loads(line)
        except ValueError as error:
            raise TrainingRefused(_no_chat(None), where=where) from error
        if is_judged(found):
            num_judged += 1
            continue
        if not isinstance(found, dict) or not are_turns(found.get("messages")):
            raise TrainingRefused(_no_chat(found), where=where)
        check_roles(found["messages"], where)
        num_chats += 1
        yield {"messages": found["messages"], "tools": found.get("tools"), "where": where}
    if not num_chats:
        hint = "training needs at least one chat"
        what = "the dataset holds judged answers alone" if num_judged else "the dataset is empty"
        raise TrainingRefused(what, where=str(dataset), hint=hint)


def check_roles(turns: Sequence[Turn], where: str) -> None:
    """Raises TrainingRefused for a role that chat templates would pass over or write as they like."""
    for turn in turns:
        if turn["role"] not in ROLES:
            role, known = turn["role"], f"{', '.join(ROLES[:-1])} and {ROLES[-1]}"
            hint = f"the known ones are {known}"
            raise TrainingRefused(f"the role {role!r} is not known", where=where, hint=hint)


def _no_chat(found: Any) -> str:
    what = 'not a line like {"messages": [{"role": "user", "content": "…"}, …]}'
    if isinstance(found, dict) and "messages" not in found:
        what += f", found the keys {', '.join(found) or '(none)'}"
    return what


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
