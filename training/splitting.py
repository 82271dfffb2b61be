"""Long conversations cut into parts that fit, each a conversation of its own, where a recipe chooses so.

A part begins at a turn of the user and has the system message and the tools of the whole; what was said in
the parts before is not repeated. An exchange is never cut, so one that is too long by itself stays so, and is
refused by `training.tokens` like everything that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from training.tokens import Chat, Turn, length_of


def fitting(chats: Iterable[Chat], tokenizer: Any, options: Mapping[str, Any]) -> Iterable[Chat]:
    """The chats, long ones in parts where the options (`QLoRAOptions`) say so."""
    return split_long(chats, tokenizer, options["max_length"]) if options.get("split_long") else chats


def split_long(chats: Iterable[Chat], tokenizer: Any, max_length: int) -> Iterator[Chat]:
    """The chats in order; one of more than `max_length` tokens as the fewest parts that hold no more."""
    for chat in chats:
        if not chat["messages"] or length_of(chat, tokenizer) <= max_length:
            yield chat
        else:
            yield from _parts(chat, tokenizer, max_length)


def _parts(chat: Chat, tokenizer: Any, max_length: int) -> Iterator[Chat]:
    opening, exchanges = _exchanges(chat["messages"])
    part: list[Turn] = []
    for exchange in exchanges:
        longer = {**chat, "messages": [*opening, *part, *exchange]}
        if part and length_of(longer, tokenizer) > max_length:
            yield {**chat, "messages": [*opening, *part]}
            part = []
        part += exchange
    yield {**chat, "messages": [*opening, *part]}


def _exchanges(turns: Sequence[Turn]) -> tuple[list[Turn], list[list[Turn]]]:
    """The system message, and what follows from a turn of the user up to the next that is after an answer."""
    opening = [turn for turn in turns[:1] if turn["role"] == "system"]
    exchanges: list[list[Turn]] = []
    for turn in turns[len(opening) :]:
        if not exchanges or (turn["role"] == "user" and exchanges[-1][-1]["role"] != "user"):
            exchanges.append([])
        exchanges[-1].append(turn)
    return opening, exchanges
