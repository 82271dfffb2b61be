"""Trains the tiny base from nothing, on fictional law only.

A step takes short samples (recall) and long ones (edit, open book, the teacher's shapes) of nearly equal
length, so that little is padding. Copying fills most of the first steps and is gone by half time: it
makes the circuits that reading needs. The answer counts fully in the loss, the prompt a little.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from random import Random

import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tiny import corpus, stories, tasks, tokenizer

VOCABULARY = 6144
STEP = 16  # lengths are padded to a multiple of this, so that few shapes are compiled
PROMPT_WEIGHT = 0.3
DECISION_WEIGHT = 4.0  # keep, edit or drop is one token among forty
COPYING = 0.15  # the share of steps that do nothing but copy short strings


def make_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    rng = Random(seed)
    texts = (
        f"{s.title}\n{s.text}\n{corpus.question(rng, s.keywords)}"
        for s in (corpus.section(rng) for _ in range(8000))
    )
    kinds = [*corpus.WORDS.values(), *stories.WORDS.values()]
    words = {word for kind in kinds for text in kind for word in text.split(" ")}
    return tokenizer.train(texts, sorted(words), vocab_size=VOCABULARY)


def make_model(tok: PreTrainedTokenizerFast, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # under the compiler twice as fast on CPUs as the fused kernel
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:  # a residual stream in which the token itself is not drowned from the start
            scale = 0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
            std = 0.06 if "embed" in name else scale / math.sqrt(parameter.shape[1])
            torch.nn.init.normal_(parameter, std=std)
    model.generation_config = GenerationConfig(eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id)
    return model


def encode(tok: PreTrainedTokenizerFast, pairs: list[tasks.Pair]) -> list[tuple[list[int], int]]:
    """Token ids of each chat and the length of its prompt."""
    prompts = tok([f"<|user|>{user}<|end|><|assistant|>" for user, _ in pairs])["input_ids"]
    replies = tok([f"{reply}<|end|>" for _, reply in pairs])["input_ids"]
    return [(p + r, len(p)) for p, r in zip(prompts, replies, strict=True)]


def collate(
    rows: list[tuple[list[int], int]], pad: int, decision: int = -1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and loss weights, both (rows, length); the token after `decision` is the refiner's verdict."""
    length = math.ceil(max(len(ids) for ids, _ in rows) / STEP) * STEP
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in rows])
    weights = torch.tensor(
        [[PROMPT_WEIGHT] * n + [1.0] * (len(row) - n) + [0.0] * (length - len(row)) for row, n in rows]
    )
    for index, (row, n) in enumerate(rows):
        if row[n] == decision:
            weights[index, n + 1] = DECISION_WEIGHT
    return ids, weights


def draw(rng: Random, states: list[list[corpus.Section]], progress: float, count: int) -> list[tasks.Pair]:
    """The long samples of a few steps."""
    copying = max(0.0, 0.5 * (1 - 2 * progress))
    pairs = []
    for _ in range(count):
        roll = rng.random()
        if roll < copying:
            pairs.append(tasks.copy(rng))
        elif (rest := rng.random()) < 0.82:
            pairs.append(tasks.edit(rng))
        else:
            pairs.append(tasks.open_book(rng) if rest < 0.88 else tasks.shapes(rng, states))
    return pairs


def make_optimizers(model: LlamaForCausalLM, peak: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW at a smaller rate for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.dim() > 1 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.dim() < 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=peak, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=0.15 * peak, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def train(
    directory: Path,
    *,
    steps: int,
    seed: int = 0,
    peak: float = 0.02,
    batch: int = 64,
    compiled: bool = True,
) -> LlamaForCausalLM:
    """Trains for so many steps and writes model and tokenizer, bf16, to `directory`."""
    rng, tok = Random(seed), make_tokenizer()
    model, worlds = make_model(tok, seed), [tasks.make_states(seed), tasks.make_states(seed + 1)]
    optimizers = make_optimizers(model, peak)

    def losses(ids: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        each = cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
        weight = weights[:, 1:].flatten()
        answer = (weight >= 1).float()
        return (each * weight).sum() / weight.sum(), (each * answer).sum() / answer.sum()

    @torch.no_grad()
    def exact(rows: list[tuple[list[int], int]]) -> float:
        """The share of rows whose every answer token is the likeliest one."""
        ids, weights = collate(rows, tok.pad_token_id)
        with torch.autocast("cpu", torch.bfloat16):
            best = model(input_ids=ids, use_cache=False).logits[:, :-1].argmax(-1)
        return float(((best == ids[:, 1:]) | (weights[:, 1:] < 1)).all(1).float().mean())

    held_out = Random(seed + 1)
    probes = {
        name: encode(tok, [task(held_out) for _ in range(batch)])
        for name, task in (("copy", tasks.copy), ("edit", tasks.edit), ("open", tasks.open_book))
    }
    forward = torch.compile(losses, dynamic=True) if compiled else losses
    decision = tok('{"verdict": "k')["input_ids"][0]
    pool: list[list[tuple[list[int], int]]] = []
    start, shown = time.monotonic(), [0.0, 0.0]
    for step in range(steps):
        progress = (step / steps - COPYING) / (1 - COPYING)
        states = worlds[
            progress >= 0.5
        ]  # new law at half time: what serves is to learn rules, not these rules
        if progress < 0:
            batches = [encode(tok, [tasks.copy(rng, most=5) for _ in range(batch)])]
        else:
            if not pool:
                drawn = encode(tok, draw(rng, states, progress, 6 * batch))
                long = sorted(drawn, key=lambda row: len(row[0]))
                pool = [long[i : i + batch] for i in range(0, len(long), batch)]
                rng.shuffle(pool)
            batches = [pool.pop(), encode(tok, [tasks.recall(rng, states) for _ in range(batch)])]
        rate = min(1.0, (step + 1) / 40, 0.02 + 1.3 * (1 - step / steps))
        for index, rows in enumerate(batches):
            ids, weights = collate(rows, tok.pad_token_id, decision)
            with torch.autocast("cpu", torch.bfloat16):
                loss, answer = forward(ids, weights)
            (loss * (0.7, 0.3)[index]).backward()
            shown[index] += float(answer.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, top in zip(optimizers, (peak, 0.15 * peak), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = top * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 25 == 0:
            seconds = time.monotonic() - start
            seen = "  ".join(f"{name} {exact(rows):.2f}" for name, rows in probes.items())
            long_loss, recall_loss = (total / 25 for total in shown)
            print(f"{seconds:6.0f} s  step {step + 1:5}  loss: long {long_loss:.3f}", end="  ")
            print(f"recall {recall_loss:.3f}  exact: {seen}", flush=True)
            shown = [0.0, 0.0]
    save(model, tok, directory)
    return model


def save(model: LlamaForCausalLM, tok: PreTrainedTokenizerFast, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    round_to_nf4(model.to(torch.bfloat16)).save_pretrained(directory)
    tok.save_pretrained(directory)


def round_to_nf4(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The model with its linear weights at values that NF4 can hold.

    An adapter is trained on the base in 4 bit and served on it in 16: so both see the same base. Rounding
    moves the weights of so small a model by 9 %, and the answers of what was trained with it.
    """
    import bitsandbytes.functional as bnb

    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "embed" not in name:
            packed, state = bnb.quantize_4bit(
                parameter.data.float(), blocksize=64, quant_type="nf4", compress_statistics=True
            )
            parameter.data = bnb.dequantize_4bit(packed, state).to(parameter.dtype)
    return model
