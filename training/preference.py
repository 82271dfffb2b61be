"""Direct preference optimisation on top of supervised training: the same adapter, pairs of answers.

DPO (arXiv 2305.18290) as TRL has it. The reference is the adapter as supervised training left it, which TRL
copies beside it and freezes; it is gone when this returns. Pairs are lines of the dataset with `prompt`,
`chosen` and `rejected`, lists of turns. None is truncated: each side is checked as a chat of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from factory.errors import TrainingError
from training.tokens import tokenize

Pair = dict[str, list[dict[str, Any]]]


def read_pairs(dataset: Path) -> Iterator[Pair]:
    """The lines of a JSONL file that are pairs; what else stands there is passed over."""
    with dataset.open(encoding="utf-8") as lines:
        for line in lines:
            found = json.loads(line)
            if "chosen" in found:
                yield {side: found[side] for side in ("prompt", "chosen", "rejected")}


def check_pairs(pairs: list[Pair], tokenizer: Any, stop_ids: set[int], max_length: int) -> None:
    """Raises TrainingError for a pair of which one side cannot be learned as it is."""
    for side in ("chosen", "rejected"):
        tokenize(
            ({"messages": [*pair["prompt"], *pair[side]]} for pair in pairs), tokenizer, stop_ids, max_length
        )


def num_steps(num_pairs: int, options: dict[str, Any]) -> int:
    """Steps over so many pairs."""
    batch = options["batch_size"] * options["gradient_accumulation"]
    return math.ceil(options["preference"]["num_epochs"] * math.ceil(num_pairs / batch)) if num_pairs else 0


def prefer(
    model: Any, pairs: list[Pair], tokenizer: Any, job: dict[str, Any], on_step: TrainerCallback
) -> float:
    """Trains the model's adapter on pairs, in place; returns the last loss. Raises TrainingError."""
    options, on_gpu = job["options"], torch.cuda.is_available()
    args = DPOConfig(
        output_dir=job["partial"],
        max_steps=num_steps(len(pairs), options),
        per_device_train_batch_size=options["batch_size"],
        gradient_accumulation_steps=options["gradient_accumulation"],
        learning_rate=options["preference"]["learning_rate"],
        beta=options["preference"]["beta"],
        max_length=None,
        gradient_checkpointing=options["gradient_checkpointing"],
        bf16=on_gpu,
        use_cpu=not on_gpu,
        seed=job["seed"],
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = DPOTrainer(
        model,
        args=args,
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        callbacks=[on_step],
    )
    # TRL casts the adapter of a quantised base to bfloat16, where small updates vanish in rounding.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    trainer.train()
    model.delete_adapter("ref")
    loss = float([log for log in trainer.state.log_history if "loss" in log][-1]["loss"])
    if not math.isfinite(loss):
        raise TrainingError(f"the loss over pairs became {loss}", hint="lower preference.learning_rate")
    return loss
