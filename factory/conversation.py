"""The turn of a conversation that is worth showing where there is room for one.

Works on messages as they lie in the store, so that escaped text stays escaped. Samples themselves are in
factory.types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Stored = Sequence[Mapping[str, str]]  # {"role": …, "content": …} each


class Shown(NamedTuple):
    """A question, its answer, and what became of that: '' where nothing did."""

    question: str
    answer: str
    became: str


def shown_turn(messages: Stored, rewritten: Stored = ()) -> Shown:
    """The first turn whose answer was rewritten, or the last one."""
    answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    if len(rewritten) != len(messages):
        rewritten = ()
    changed = [at for at in answers if rewritten and rewritten[at] != messages[at]]
    at = (changed or answers[-1:] or [len(messages)])[0]
    asked = [message["content"] for message in messages[:at] if message["role"] == "user"]
    question = asked[-1] if asked else ""
    answer = messages[at]["content"] if at < len(messages) else ""
    return Shown(question, answer, rewritten[at]["content"] if changed else "")
