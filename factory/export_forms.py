"""Forms in which other trainers read samples, one function a form, from a chat as templates take it.

`sharegpt` and `alpaca` are as LLaMA-Factory's data/README.md has them; Axolotl reads the first too, and of
the second what has one question and no system message. `prompt_completion` is TRL's. LLaMA-Factory passes
over a chat whose turns do not alternate without an error, so such a chat is refused here. What their own
loaders make of the files, benchmarks/loaders.py shows. Where the lines go is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from factory.errors import InputError
from factory.types import Json

Chat = Mapping[str, Any]  # {"messages": […]}, and {"tools": […] or None} in a dataset that has some
RANKING: Final = "preference.jsonl"  # beside train.jsonl of the form sharegpt
CALLERS: Final = {"user": "human", "assistant": "gpt", "tool": "observation"}


def sharegpt(chat: Chat) -> dict[str, Json]:
    """{"conversations": [{"from", "value"}]}, and in a dataset with tools "tools", these as JSON text.

    A system message is the first turn: of an empty `system` beside them Axolotl makes an empty turn. An
    answer that calls tools is `function_call`, a list of calls as JSON text.
    """
    system, turns = _split(chat)
    first: list[dict[str, Json]] = [{"from": "system", "value": system}] if system else []
    made: dict[str, Json] = {"conversations": [*first, *map(_said, turns)]}
    return made | ({"tools": _as_text(chat["tools"] or [])} if "tools" in chat else {})


def ranking(pair: Chat) -> dict[str, Json]:
    """A pair as factory.preference has it in the form `sharegpt`: {"conversations", "chosen", "rejected"}."""
    *before, chosen = sharegpt({"messages": [*pair["prompt"], *pair["chosen"]]})["conversations"]
    rejected = {**chosen, "value": pair["rejected"][0]["content"]}
    return {"conversations": before, "chosen": chosen, "rejected": rejected}


def alpaca(chat: Chat) -> dict[str, Json]:
    """{"instruction", "input", "output", "system", "history"}; history: pairs of what was said before.

    Raises InputError for a chat with tools, which the form has no place for.
    """
    if chat.get("tools"):
        raise InputError(
            "the form 'alpaca' has no place for tools", hint="take sharegpt or prompt_completion"
        )
    system, turns = _split(chat)
    texts = [turn["content"] for turn in turns]
    pairs = [list(pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
    question, answer = pairs.pop()
    return {"instruction": question, "input": "", "output": answer, "system": system, "history": pairs}


def prompt_completion(chat: Chat) -> dict[str, Json]:
    """{"prompt": […], "completion": [the last answer]}, and `tools` where the chat offers some."""
    *prompt, answer = chat["messages"]
    tools = {"tools": chat["tools"]} if chat.get("tools") else {}
    return {"prompt": prompt, "completion": [answer], **tools}


FORMS: Final[Mapping[str, Callable[[Chat], dict[str, Json]]]] = {
    "sharegpt": sharegpt,
    "alpaca": alpaca,
    "prompt_completion": prompt_completion,
}

# What LLaMA-Factory is told of a file; `chat` is the export's own data/train.jsonl.
COLUMNS: Final[Mapping[str, dict[str, Json]]] = {
    "chat": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
    "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
    "alpaca": {
        "columns": {
            "prompt": "instruction",
            "query": "input",
            "response": "output",
            "system": "system",
            "history": "history",
        }
    },
}


def dataset_info(forms: Iterable[str], has_tools: bool, has_pairs: bool) -> dict[str, Json]:
    """LLaMA-Factory's dataset_info.json of an export with these forms; chats with tools only as sharegpt."""
    of_chat = {} if has_tools else {"chat": {"file_name": "data/train.jsonl", **COLUMNS["chat"]}}
    there = {name: {"file_name": f"{name}/train.jsonl", **COLUMNS[name]} for name in forms if name in COLUMNS}
    if "sharegpt" not in there:
        return of_chat | there
    columns = {"messages": "conversations"} | ({"tools": "tools"} if has_tools else {})
    there["sharegpt"] = {**there["sharegpt"], "columns": columns}
    if has_pairs:
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
        of_pairs = {"formatting": "sharegpt", "ranking": True, "columns": columns}
        there["preference"] = {"file_name": f"sharegpt/{RANKING}", **of_pairs}
    return of_chat | there


def _split(chat: Chat) -> tuple[str, list[Mapping[str, Json]]]:
    """The system message or "", and the turns; raises InputError unless they alternate."""
    turns = list(chat["messages"])
    system = turns.pop(0)["content"] if turns and turns[0]["role"] == "system" else ""
    roles = [turn["role"] for turn in turns]
    alternate = all((role == "assistant") == bool(at % 2) for at, role in enumerate(roles))
    if not alternate or len(roles) % 2 or not set(roles) <= set(CALLERS):
        what = f"turns of {', '.join(roles) or 'nobody'} cannot be written in this form"
        raise InputError(what, hint="question and answer must alternate; data/train.jsonl holds any chat")
    return system, turns


def _said(turn: Mapping[str, Json]) -> dict[str, Json]:
    if calls := turn.get("tool_calls"):
        return {"from": "function_call", "value": _as_text([call["function"] for call in calls])}
    return {"from": CALLERS[turn["role"]], "value": turn["content"]}


def _as_text(values: list[Json]) -> str:
    return json.dumps(values, ensure_ascii=False)
