"""Asks a tiny model many prompts at once, in this process: for measuring, where no server is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


def load(base: Path, adapter: Path | None = None) -> tuple[Any, Any]:
    """Model in float32 and tokenizer; the base's weights are the bf16 ones that vLLM serves."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval(), AutoTokenizer.from_pretrained(base)


@torch.no_grad()
def ask(
    model: Any,
    tok: Any,
    prompts: Sequence[str],
    *,
    temperature: float = 0.0,
    max_tokens: int = 96,
    batch: int = 256,
) -> list[str]:
    """The reply to each prompt, in order."""
    texts = [f"<|user|>{prompt}<|end|><|assistant|>" for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    replies = [""] * len(texts)
    how = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False}
    )
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        inputs = tok([texts[i] for i in chosen], padding=True, padding_side="left", return_tensors="pt")
        inputs.pop("token_type_ids", None)
        out = model.generate(**inputs, max_new_tokens=max_tokens, **how)
        for i, ids in zip(chosen, out[:, inputs["input_ids"].shape[1] :], strict=True):
            replies[i] = tok.decode(ids, skip_special_tokens=True)
    return replies
