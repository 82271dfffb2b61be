"""Preference training on top of supervised training: the same adapter, answers that somebody judged.

DPO (arXiv 2305.18290) learns pairs, KTO (arXiv 2402.01306) single answers with a label, as TRL has them.
The reference is the adapter as supervised training left it, which TRL copies beside it and freezes; it is
gone when this returns. What the dataset holds of them is read by
`training.judged_answers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from factory.errors import TrainingError
from training import ranks
from training.curves import curve_of
from training.judged_answers import Judged
from training.launch import samples_per_step
from training.trackers import named_run, trackers

MOST_DESIRED = 4 / 3  # what good answers may weigh together, where the bad ones weigh 1


def num_steps(num_judged: int, options: dict[str, Any]) -> int:
    """Steps over so many pairs or labelled answers."""
    if not num_judged:
        return 0
    batch = samples_per_step({**options, "batch_size": min(options["batch_size"], num_judged)})
    num_epochs: float = options["preference"]["num_epochs"]
    return math.ceil(num_epochs * math.ceil(num_judged / batch))


def weights(num_good: int, num_bad: int) -> tuple[float, float]:
    """What a good and a bad answer weigh: 1, but more for the rarer, as little as section 4.2 of KTO asks.

    All good ones together weigh between 1 and 4/3 times as much as all bad ones.
    """
    ratio = num_good / num_bad
    return max(1.0, 1 / ratio), max(1.0, ratio / MOST_DESIRED)


def prefer(
    model: Any, judged: list[Judged], tokenizer: Any, job: dict[str, Any], on_step: TrainerCallback
) -> dict[str, Any]:
    """Trains the model's adapter in place; returns what to record: counts, last loss, curve.

    Raises TrainingError where the loss is no number.
    """
    options, on_gpu = job["options"], torch.cuda.is_available()
    config = {
        "output_dir": job["partial"],
        "max_steps": num_steps(len(judged), options),
        "per_device_train_batch_size": min(options["batch_size"], len(judged)),
        "gradient_accumulation_steps": options["gradient_accumulation"],
        "learning_rate": options["preference"]["learning_rate"],
        "beta": options["preference"]["beta"],
        "max_length": None,
        "gradient_checkpointing": options["gradient_checkpointing"],
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "ddp_find_unused_parameters": False,
        "seed": job["seed"],
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **named_run(job, options["preference"]["method"]),
    }
    as_trained = {name: value.data for name, value in model.named_parameters() if value.requires_grad}
    given = {
        "processing_class": tokenizer,
        "callbacks": [on_step, *trackers(job, options["preference"]["method"])],
    }
    record: dict[str, Any] = {"num_pairs": len(judged)}
    if options["preference"]["method"] == "kto":
        record = _count(judged)
        balance = {name: record[name] for name in ("desirable_weight", "undesirable_weight")}
        rows = Dataset.from_list(list(_whole_batches(judged, config)))
        trainer = KTOTrainer(model, args=KTOConfig(**config, **balance), train_dataset=rows, **given)
    else:
        rows = Dataset.from_list(judged)
        trainer = DPOTrainer(model, args=DPOConfig(**config), train_dataset=rows, **given)
    # TRL rounds the adapter of a quantised base to bfloat16, where small updates vanish.
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = as_trained[name].float()
    trainer.train()
    model.delete_adapter("ref")
    loss = float([log for log in trainer.state.log_history if "loss" in log][-1]["loss"])
    if not math.isfinite(loss):
        what = f"the loss over judged answers became {loss}"
        raise TrainingError(what, hint="lower preference.learning_rate")
    curve = curve_of(trainer.state.log_history, options["preference"]["method"])
    return {**record, "preference_loss": loss, "curve": curve}


def _count(labelled: Sequence[Judged]) -> dict[str, Any]:
    """How many answers are good and bad, and what each weighs."""
    num_good = sum(each["label"] for each in labelled)
    num_bad = len(labelled) - num_good
    desirable, undesirable = weights(num_good, num_bad)
    return {
        "num_desirable": num_good,
        "num_undesirable": num_bad,
        "desirable_weight": desirable,
        "undesirable_weight": undesirable,
    }


def _whole_batches(labelled: Sequence[Judged], config: dict[str, Any]) -> Iterator[Judged]:
    """The answers of all steps, in a new order for each pass, for TRL takes KTO's as they come.

    It measures how far the model moved by the answers of a batch to each other's questions, so a last batch
    of one answer would measure that answer itself.
    """
    wanted = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"]
    wanted *= config["max_steps"] * ranks.count()
    random = Random(config["seed"])  # noqa: S311 (an order)
    while wanted > 0:
        yield from random.sample(labelled, min(wanted, len(labelled)))
        wanted -= len(labelled)
