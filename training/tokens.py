"""Turns chats into token ids and labels, and refuses every sample that would teach something else.

The loss falls on the assistant's turns alone, each with the token that ends it: the model's chat
template marks them with {% generation %}. Where a known family's template lacks the marks, TRL's
marked copy takes its place, and every sample must come out token for token as from the model's own.
Where a chat offers tools, the template must write them and the calls. Nothing is truncated here or later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from factory.errors import TrainingRefused

NUM_NAMED = 5  # of the samples that are too long
IGNORED = -100  # what torch's cross entropy passes over
Turn = Mapping[str, Any]  # role and content, and `tool_calls` where an answer consists of them
# {"messages": […]}, {"tools": […]} where there are some, and "where" it stands if that is known
Chat = Mapping[str, Any]


class Row(NamedTuple):
    """One chat in tokens; `labels` equals `input_ids` where the assistant speaks, else `IGNORED`."""

    input_ids: list[int]
    labels: list[int]


def tokenize(
    chats: Iterable[Chat], tokenizer: Any, stop_ids: set[int], max_length: int, *, split: bool = False
) -> list[Row]:
    """One row a chat, in order; raises TrainingRefused for the first that cannot be learned as it is.

    Chats longer than `max_length` tokens are counted to the end, then refused together (`too_long`); `split`
    are those that were cut already where they could be.
    """
    template = marked_template(tokenizer)
    rows, places = [], []
    for number, chat in enumerate(chats, 1):
        places.append(chat.get("where", ""))
        rows.append(
            _row(chat, places[-1] or f"sample {number} of the dataset", tokenizer, template, stop_ids)
        )
    if error := too_long(rows, places, max_length, split=split):
        raise error
    return rows


def too_long(
    rows: Sequence[Row], places: Sequence[str], max_length: int, *, split: bool
) -> TrainingRefused | None:
    """What training says of rows longer than `max_length` tokens, by the places of the longest.

    None where there are none. Places are lines of one file, or empty where they are not known; of a line that
    was cut into parts the longest counts.
    """
    lengths = [len(row.input_ids) for row in rows]
    num_long = sum(length > max_length for length in lengths)
    if not num_long:
        return None
    longest: dict[str, int] = {}
    for length, place in sorted(zip(lengths, places, strict=True), key=lambda each: -each[0])[:num_long]:
        longest.setdefault(place, length)
    first, *others = list(longest)[:NUM_NAMED]
    *sizes, last = [f"{longest[place]:,}" for place in (first, *others)]
    have = f"have {', '.join(sizes)} and {last}" if sizes else f"has {last}"
    instead = (
        "raise max_length or drop them, for split_long cuts between exchanges alone"
        if split
        else "raise max_length, drop them, or cut between exchanges with split_long"
    )
    return TrainingRefused(
        f"{num_long} of {len(rows)} samples are longer than max_length={max_length} tokens",
        where=", ".join([first, *(place.rpartition(":")[2] for place in others)]),
        hint=f"the longest {have} tokens; {instead}; nothing is truncated",
    )


def length_of(chat: Chat, tokenizer: Any) -> int:
    """Tokens of a chat as it is learned; raises TrainingRefused where the template refuses it."""
    written = _apply(
        chat["messages"], tokenizer=tokenizer, where=chat.get("where", "a sample"), tools=chat.get("tools")
    )
    return len(written["input_ids"])


def marked_template(tokenizer: Any) -> str:
    """A chat template with {% generation %}: the tokenizer's own, or TRL's copy of a known one."""
    from trl.chat_template_utils import get_training_chat_template, has_generation_markers

    own = tokenizer.chat_template
    if not isinstance(own, str):
        raise TrainingRefused("the base has no chat template", where=tokenizer.name_or_path)
    if has_generation_markers(own):
        return own
    try:
        return str(get_training_chat_template(tokenizer) or own)
    except ValueError as error:
        raise TrainingRefused(
            "the base's chat template has no {% generation %} block",
            where=tokenizer.name_or_path,
            hint="mark the assistant's text and its end-of-turn token with {% generation %}",
        ) from error


def stop_ids_of(base: str, tokenizer: Any) -> set[int]:
    """The tokens at which generation stops: the tokenizer's and those of generation_config.json."""
    from transformers import GenerationConfig

    try:
        configured = GenerationConfig.from_pretrained(base).eos_token_id
    except OSError:
        configured = None
    ids = configured if isinstance(configured, list) else [configured]
    return {id for id in (*ids, tokenizer.eos_token_id) if id is not None}


def spans(labels: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Start and end of every unbroken stretch of labels that count."""
    start = None
    for position, label in enumerate([*labels, IGNORED]):
        if label != IGNORED and start is None:
            start = position
        elif label == IGNORED and start is not None:
            yield start, position
            start = None


def ends_every_turn(labels: Sequence[int], stop_ids: set[int], tokenizer: Any) -> bool:
    """Whether each learned turn ends with a stop token (blanks after it are allowed)."""
    turns = [list(labels[start:end]) for start, end in spans(labels)]
    for turn in turns:
        while turn and turn[-1] not in stop_ids and not tokenizer.decode(turn[-1:]).strip():
            turn.pop()
    return bool(turns) and all(turn and turn[-1] in stop_ids for turn in turns)


def _row(chat: Chat, where: str, tokenizer: Any, template: str, stop_ids: set[int]) -> Row:
    turns, tools = chat["messages"], chat.get("tools")
    if not turns or turns[-1]["role"] != "assistant" or not _says_something(turns[-1]):
        raise TrainingRefused("a chat must end with an answer", where=where)
    answers = [at for at, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not all(_says_something(turns[at]) for at in answers):
        raise TrainingRefused("a chat holds an empty answer, which would be learned", where=where)
    write = partial(_apply, tokenizer=tokenizer, where=where, tools=tools)
    marked = write(turns, chat_template=template, return_assistant_tokens_mask=True)
    ids = list(marked["input_ids"])
    labels = [id if counts else IGNORED for id, counts in zip(ids, marked["assistant_masks"], strict=True)]
    if not ends_every_turn(labels, stop_ids, tokenizer):
        raise TrainingRefused(
            "the end of the assistant's turn is not learned",
            where=where,
            hint="the chat template's {% generation %} block must hold the end-of-turn token",
        )
    num_learned = sum(1 for _ in spans(labels))
    if num_learned != len(answers):
        raise TrainingRefused(
            f"the chat template learns {num_learned} of {len(answers)} answers",
            where=where,
            hint="its {% generation %} block must stand around every turn of the assistant",
        )
    # Each answer must be learned behind the very tokens after which the model will be asked for it.
    asked = [write(turns[:at], add_generation_prompt=True)["input_ids"] for at in answers]
    own = write(turns)["input_ids"]
    if list(own) != ids or any(ids[: len(prompt)] != list(prompt) for prompt in asked):
        raise TrainingRefused(
            "the chat template writes this chat differently when it is learned and when it is asked",
            where=where,
            hint=f"compare the templates' output for the chat in {Path(tokenizer.name_or_path).name}",
        )
    learned = tokenizer.decode([label for label in labels if label != IGNORED])
    _check_tools(chat, tokenizer.decode(ids), learned, where)
    return Row(ids, labels)


def _says_something(turn: Turn) -> bool:
    return bool(turn["content"] or turn.get("tool_calls"))


def _check_tools(chat: Chat, written: str, learned: str, where: str) -> None:
    """Raises TrainingRefused where a template passes over tools or calls, as one that knows none does."""
    tools = [tool["function"]["name"] for tool in chat.get("tools") or ()]
    calls = Counter(
        call["function"]["name"] for turn in chat["messages"] for call in turn.get("tool_calls") or ()
    )
    missing = [f"the tool '{name}'" for name in tools if name not in written]
    missing += [f"every call of '{name}'" for name, num in calls.items() if learned.count(name) < num]
    if missing:
        what = f"the base's chat template does not write {missing[0]}"
        raise TrainingRefused(what, where=where, hint="take a base whose template knows tools")


def _apply(turns: Sequence[Turn], *, tokenizer: Any, where: str, **options: Any) -> Any:
    """The turns in tokens; raises TrainingRefused where the template will not write it."""
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(list(turns), return_dict=True, **options)
    except TemplateError as error:
        what = f"the base's chat template refuses this chat: {error}"
        hint = "some take no system message, or only turns that alternate"
        raise TrainingRefused(what, where=where, hint=hint) from error
