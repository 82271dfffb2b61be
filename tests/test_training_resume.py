"""A training that is cut off goes on where its last checkpoint stands, and only the very same training."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from test_qlora import base, facts_dataset, no_progress, trainer  # noqa: F401 (a fixture)
from trained_here import Here

from factory.errors import TrainingError
from training.qlora import QLoRA, TrainingJob
from training.resume import newest_checkpoint, step_of

OPTIONS = {"batch_size": 2, "dropout": 0.1, "max_steps": 40, "gradient_accumulation": 2}


class Cut(Exception):
    """What ends a training in the middle."""


def checkpointing(folder: Path, kind=QLoRA, **options):
    worker = trainer(folder, kind, **{**OPTIONS, **options})
    worker.CHECKPOINT_SECONDS = 0.0
    return worker


def cut_after(step: int):
    def on_progress(done, total, detail="", **_):
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
        dataset, str(base), tmp_path / "out", lambda done, *_, **__: seen.append(done)
    )
    assert [step for step in seen if step][:2] == [
        step_of_left := int(left.name.rpartition("-")[2]),
        step_of_left + 1,
    ]
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
            dataset, str(base), tmp_path / "out", lambda done, *_, **__: seen.append(done)
        )
    assert "lower learning_rate" in caught.value.hint and left.name in caught.value.hint
    assert max(seen) < 40 and newest_checkpoint(tmp_path / ".out.partial") == left
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_a_training_that_is_asked_to_stop_saves_where_it_stands(tmp_path, base, monkeypatch):  # noqa: F811
    """And goes on to the same bits; CHECKPOINT_SECONDS is far from over."""
    from training.stopping import WISH, Stopped

    dataset = facts_dataset(tmp_path)
    whole = trainer(tmp_path, Here, **OPTIONS).train(dataset, str(base), tmp_path / "whole", no_progress)
    wished = []

    def stop(done, total, detail=""):
        assert WISH.can_save or not done
        wished.append(done)
        monkeypatch.setattr(WISH, "is_there", done >= 12)

    with pytest.raises(Stopped):
        trainer(tmp_path, Here, **OPTIONS).train(dataset, str(base), tmp_path / "out", stop)
    monkeypatch.undo()
    assert wished[-1] == step_of(tmp_path / ".out.partial") == 15  # losses are logged every five steps
    again = trainer(tmp_path, Here, **OPTIONS).train(dataset, str(base), tmp_path / "out", no_progress)
    assert (again.digest, again.curve) == (whole.digest, whole.curve) and not WISH.can_save


@pytest.mark.train
def test_ctrl_c_keeps_what_was_learned_and_says_where_it_goes_on(tmp_path, base):  # noqa: F811
    dataset, told = facts_dataset(tmp_path), []

    def interrupt(done, total, detail="", **_):
        told.append((done, detail))
        if done == 12 and "loss" in detail:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, **OPTIONS).train(dataset, str(base), tmp_path / "out", interrupt)
    assert told[0] == (0, "loads libraries")
    assert (12, "stops at the next checkpoint; Ctrl-C again ends it at once") in told
    step = step_of(tmp_path / ".out.partial")
    assert 15 <= step < 40 and told[-1] == (step, f"goes on at step {step}")
    del told[:]
    worker = trainer(tmp_path, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        worker.train(dataset, str(base), tmp_path / "out", interrupt_twice(told, step + 1))
    assert (step, f"goes on at step {step}") in told
    assert told[-2][1].startswith("stops at") and told[-1][1] == f"goes on at step {step}"
    assert worker._process.returncode == -9


def interrupt_twice(told, step):
    """Ctrl-C at this step, and once more when the first is answered."""

    def on_progress(done, total, detail="", **_):
        told.append((done, detail))
        if (done == step and "loss" in detail) or detail.startswith("stops at"):
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.train
def test_a_training_that_is_stopped_before_it_begins_says_that_nothing_is_kept(tmp_path, base):  # noqa: F811
    told = []

    def interrupt(done, total, detail="", **_):
        told.append(detail)
        if detail == "the base loads":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, **OPTIONS).train(facts_dataset(tmp_path), str(base), tmp_path / "out", interrupt)
    assert told[-1] == "no checkpoint yet: starts again" and step_of(tmp_path / ".out.partial") == 0


def test_a_sweep_writes_no_checkpoint_for_its_folder_is_gone_afterwards(tmp_path, base):  # noqa: F811
    jobs = [
        TrainingJob(facts_dataset(tmp_path), str(base), tmp_path / "out", held_out) for held_out in ((), (1,))
    ]
    found = [trainer(tmp_path)._describe(job)["checkpoint_seconds"] for job in jobs]
    assert found == [120.0, math.inf]
