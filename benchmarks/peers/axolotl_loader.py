"""Axolotl's loaders over an export's files: `TOKENIZER OUT DATASETS` writes what arrives of each dataset.

DATASETS is a JSON object of names and dataset configurations, as under `datasets` in Axolotl's own file. Each
sample as {"tools": […], "turns": [[who, what], …]}; of pairs, the last two turns are the chosen and the
rejected answer. All are put into tokens, too, since that is where it refuses.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", AXOLOTL_DO_NOT_TRACK="1")


def main() -> None:
    model, out, configurations = sys.argv[1:]
    from axolotl.utils.data.shared import load_dataset_with_config
    from axolotl.utils.dict import DictDefault
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    found: dict[str, Any] = {}
    for name, given in json.loads(configurations).items():
        each = DictDefault({"ds_type": "json", **given})
        whole = DictDefault(
            {
                "datasets": [each],
                "chat_template": "tokenizer_default",
                "sequence_len": 4096,
                "eot_tokens": None,
            }
        )
        rows = load_dataset_with_config(each, False)
        read = pairs if each.type == "chat_template.default" else samples
        try:
            found[name] = read(rows, tokenizer, whole, each)
        except Exception as error:  # noqa: BLE001 - what it refuses is a finding
            found[name] = f"{type(error).__name__}: {error}"
    Path(out).write_text(json.dumps(found), encoding="utf-8")


def samples(rows: Any, tokenizer: Any, whole: Any, each: Any) -> list[dict[str, Any]]:
    """Of chats or instructions, by the strategy of their type."""
    from axolotl.prompt_strategies import load
    from axolotl.prompt_tokenizers import AlpacaPromptTokenizingStrategy
    from axolotl.prompters import AlpacaPrompter

    if each.type == "alpaca":  # as its own handler of the type makes it
        strategy = AlpacaPromptTokenizingStrategy(AlpacaPrompter(None), tokenizer, False, whole.sequence_len)
    else:
        strategy = load(each.type, tokenizer, whole, each)
    found = []
    for row in rows:
        if each.type == "alpaca":
            instruction, more, output = strategy.parse_instruction_fields(row)
            asked = "\n".join(filter(None, (instruction, more)))
            made = {"tools": [], "turns": [["user", asked], ["assistant", output]]}
        else:
            tools = strategy._get_tools(row) or []
            thread = strategy.get_conversation_thread(row)
            made = {"tools": [tool.get("function", tool) for tool in tools], "turns": [*map(said, thread)]}
        strategy.tokenize_prompt(row)
        found.append(made)
    return found


def said(turn: dict[str, Any]) -> list[str]:
    """Who, and what: calls of tools as JSON."""
    calls = [call["function"] for call in turn.get("tool_calls") or ()]
    return [turn["role"], json.dumps(calls, ensure_ascii=False) if calls else turn["content"]]


def pairs(rows: Any, tokenizer: Any, whole: Any, each: Any) -> list[dict[str, Any]]:
    """Of pairs: they come as text, of which the turns are read off again."""
    from axolotl.prompt_strategies.dpo import load

    transform, _ = load(each.type, whole, dataset_idx=0)
    found = []
    for row in rows:
        made = transform(row, tokenizer=tokenizer)
        found.append({name: made[name] for name in ("prompt", "chosen", "rejected")})
    return found


if __name__ == "__main__":
    main()
