"""A training that is cut off goes on where its last checkpoint stands, and only the very same training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_qlora import base, facts_dataset, no_progress, trainer  # noqa: F401 (a fixture)
from trained_here import Here

from factory.errors import TrainingError
from training.qlora import QLoRA
from training.resume import newest_checkpoint

OPTIONS = {"batch_size": 2, "dropout": 0.1, "max_steps": 40, "gradient_accumulation": 2}


class Cut(Exception):
    """What ends a training in the middle."""


def checkpointing(folder: Path, kind=QLoRA, **options):
    worker = trainer(folder, kind, **{**OPTIONS, **options})
    worker.CHECKPOINT_SECONDS = 0.0
    return worker


def cut_after(step: int):
    def on_progress(done, total, detail=""):
        if done >= step:
            raise Cut

    return on_progress


@pytest.mark.train
def test_a_training_that_is_killed_goes_on_and_ends_as_it_would_have(tmp_path, base):  # noqa: F811
    dataset = facts_dataset(tmp_path)
    whole = trainer(tmp_path, Here, **OPTIONS).train(dataset, str(base), tmp_path / "whole", no_progress)
    with pytest.raises(Cut):
        checkpointing(tmp_path).train(dataset, str(base), tmp_path / "out", cut_after(18))
    partial = tmp_path / ".out.partial"
    left = newest_checkpoint(partial)
    assert left is not None and 10 <= int(left.name.rpartition("-")[2]) < 40
    (partial / "checkpoints" / "checkpoint-39").mkdir()  # one that was not written to its end

    with pytest.raises(
        TrainingError, match=r"of another learning_rate \(0.005, here 0.001\) and rank \(32, here 8\)"
    ):
        checkpointing(tmp_path, learning_rate=0.001, rank=8).train(
            dataset, str(base), tmp_path / "out", no_progress
        )
    seen = []
    again = checkpointing(tmp_path).train(
        dataset, str(base), tmp_path / "out", lambda done, *_: seen.append(done)
    )
    assert next(step for step in seen if step) == int(left.name.rpartition("-")[2]) + 1
    assert (again.digest, again.num_steps, again.loss) == (whole.digest, 40, whole.loss)
    curves = [
        json.loads((tmp_path / each / "training.json").read_text())["curve"] for each in ("whole", "out")
    ]
    assert curves[0] == curves[1] and [point["step"] for point in curves[0]] == list(range(5, 41, 5))
    tokens = [point["num_tokens"] for point in curves[0]]
    assert tokens == sorted(set(tokens)) and tokens[0] > 0
    assert {"phase", "step", "epoch", "loss", "learning_rate", "grad_norm", "num_tokens"} == curves[0][
        0
    ].keys()
    assert again.curve == whole.curve == tuple(curves[0])
    assert not partial.exists() and not (tmp_path / "out" / "checkpoints").exists()
    assert not (tmp_path / "out" / "plan.json").exists()


@pytest.mark.train
def test_a_loss_that_is_no_number_stops_at_once_and_keeps_what_was_good(tmp_path, base):  # noqa: F811
    import torch

    dataset = facts_dataset(tmp_path)
    with pytest.raises(Cut):
        checkpointing(tmp_path, Here).train(dataset, str(base), tmp_path / "out", cut_after(12))
    left = newest_checkpoint(tmp_path / ".out.partial")
    optimizer = torch.load(left / "optimizer.pt", weights_only=True)
    for state in optimizer["state"].values():
        state["exp_avg"].fill_(float("inf"))
    torch.save(optimizer, left / "optimizer.pt")
    seen = []
    with pytest.raises(TrainingError, match=r"the loss became nan at step \d+") as caught:
        checkpointing(tmp_path, Here).train(
            dataset, str(base), tmp_path / "out", lambda done, *_: seen.append(done)
        )
    assert "lower learning_rate" in caught.value.hint and left.name in caught.value.hint
    assert max(seen) < 40 and newest_checkpoint(tmp_path / ".out.partial") == left
    assert not (tmp_path / "out").exists()
