"""The committed tiny models are what `tiny/` says that they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tiny import rules

BASE = Path(__file__).parents[1] / "tiny" / "models" / "base"


def test_every_keyword_of_the_handbook_is_one_token() -> None:
    tokenizer = Tokenizer.from_file(str(BASE / "tokenizer.json"))
    shards = {
        word: tokens
        for rule in rules.read()
        for keyword in rule.keywords
        for word in keyword.split()
        if len(tokens := tokenizer.encode(f" {word}", add_special_tokens=False).tokens) > 1
    }
    assert shards == {}


def test_what_the_base_reads_has_nothing_of_georgias_chapter() -> None:
    from tiny import tasks

    cites = [section.citation for state in tasks.make_states(0) for section in state]
    assert cites and not [cite for cite in cites if cite.startswith("§ 34-9-")]


@pytest.mark.train
def test_four_bits_change_nothing_in_the_base() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tiny.pretrain import round_to_nf4

    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.bfloat16)
    before = {name: p.detach().float().clone() for name, p in model.named_parameters()}
    after = dict(round_to_nf4(model).named_parameters())
    moved = {name: float((after[name].detach().float() - p).norm() / p.norm()) for name, p in before.items()}
    assert max(moved.values()) < 0.005
