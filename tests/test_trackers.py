"""A learning curve for TensorBoard and Trackio: its files, what stays on this machine, a missing package."""

from __future__ import annotations

import json
import os
import sqlite3

import pytest
from test_qlora import base, facts_dataset, no_progress, trainer  # noqa: F401 (a fixture)
from trained_here import Here

from factory.errors import RecipeError
from training import trackers
from training.adapters import differences
from training.qlora import TrainingJob


def losses_of(folder):
    record = json.loads((folder / "training.json").read_text())
    return {point["step"]: point["loss"] for point in record["curve"]}


def test_a_tracker_that_is_not_installed_is_named_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    for name in ("tensorboard", "trackio"):
        with pytest.raises(RecipeError, match=f"package {name} is not installed") as caught:
            trainer(tmp_path, tracker=name)
        assert f"dataset-factory[{name}]" in caught.value.hint
    trainer(tmp_path)


def test_a_tracker_makes_no_other_adapter(tmp_path, monkeypatch, base):  # noqa: F811
    monkeypatch.setattr(trackers, "find_spec", lambda package: True)
    job = TrainingJob(facts_dataset(tmp_path), str(base), tmp_path / "out")
    plain, tracked = trainer(tmp_path)._describe(job), trainer(tmp_path, tracker="trackio")._describe(job)
    assert plain["identity"] == tracked["identity"]
    assert differences(plain, tracked) == ["configuration"]  # so nothing is named


def test_what_would_send_a_curve_elsewhere_is_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/space")
    monkeypatch.setenv("TRACKIO_WEBHOOK_URL", "https://example.org")
    monkeypatch.setenv("TRACKIO_DIR", "/elsewhere")
    trackers.keep_here(tmp_path / "student")
    left = {name: value for name, value in os.environ.items() if name.startswith("TRACKIO_")}
    assert left == {"TRACKIO_DIR": str(tmp_path / "trackio")}


@pytest.mark.train
def test_tensorboard_has_the_losses_of_the_curve(tmp_path, base):  # noqa: F811
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train = trainer(tmp_path, Here, max_steps=10, tracker="tensorboard").train
    out = tmp_path / "out"
    train(facts_dataset(tmp_path), str(base), out, no_progress)
    events = accumulator.EventAccumulator(str(out / "tensorboard" / "sft"))
    events.Reload()
    found = {each.step: each.value for each in events.Scalars("train/loss")}
    assert found == pytest.approx(losses_of(out), rel=1e-6) and set(found) == {5, 10}


@pytest.mark.train
def test_trackio_has_the_losses_of_the_curve(tmp_path, base):  # noqa: F811
    pytest.importorskip("trackio")
    train = trainer(tmp_path, max_steps=10, tracker="trackio").train
    out = tmp_path / "out"
    train(facts_dataset(tmp_path), str(base), out, no_progress)
    with sqlite3.connect(tmp_path / "trackio" / "dataset-factory.db") as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
    logged = [json.loads(metrics) for _, metrics in rows]
    found = {each["train/global_step"]: each["train/loss"] for each in logged if "train/loss" in each}
    assert {name for name, _ in rows} == {"out-sft"} and found == pytest.approx(losses_of(out))
