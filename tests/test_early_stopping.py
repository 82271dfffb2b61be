"""Early stopping: what is kept, that looking changes nothing, and that a cut training ends as a whole one."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from test_qlora import FACTS, base, facts_dataset, no_progress, trainer  # noqa: F401 (a fixture)
from test_train_command import TINY, folder, refused  # noqa: F401 (a fixture)
from test_training_resume import Cut, cut_after
from trained_here import Here

from factory.errors import RecipeError, TrainingError
from factory.types import GoldItem
from training.adapters import differences
from training.qlora import QLoRA, QLoRAOptions, TrainingJob
from training.resume import newest_checkpoint

# Other answers to the same questions: how an answer looks is learned first, and then the wrong one for dev.
DEV = tuple(
    GoldItem(key, f"{key}?", answer, "all")
    for key, answer in zip(FACTS, reversed(FACTS.values()), strict=True)
)
OPTIONS = {"batch_size": 4, "dropout": 0.1, "lr_scheduler": "constant", "warmup_share": 0.0}
EARLY = {"patience": 2, "every_steps": 4, "min_gain": 0.0}


def watching(tmp_path, dev=DEV, early=EARLY, kind=QLoRA, **options):
    worker = trainer(tmp_path, kind, **{**OPTIONS, "max_steps": 200, "early_stopping": early, **options})
    worker.domain = SimpleNamespace(**vars(worker.domain), dev=dev, evaluator=SimpleNamespace())
    return worker


def record_of(adapter):
    return json.loads((adapter.path / "training.json").read_text())


@pytest.mark.train
def test_the_best_adapter_is_kept_as_it_was_and_a_cut_training_ends_the_same(tmp_path, base):  # noqa: F811
    dataset = facts_dataset(tmp_path)
    told = []
    whole = watching(tmp_path, kind=Here).train(
        dataset, str(base), tmp_path / "whole", lambda *a: told.append(a)
    )
    record = record_of(whole)
    looks = {point["step"]: point["dev_loss"] for point in record["curve"] if "dev_loss" in point}
    best, last = record["best_step"], record["num_steps"]
    assert 0 < best < last < 200 and last == best + 2 * 4 and list(looks) == list(range(0, last + 1, 4))
    assert looks[best] == record["best_dev_loss"] == min(list(looks.values())[1:]) < looks[0]

    assert told[-1] == (last, last, f"stopped early, of 200 planned: dev was best at step {best}")

    plain = trainer(
        tmp_path, Here, **OPTIONS, max_steps=best
    )  # nobody looks, and it ends where that was best
    assert plain.train(dataset, str(base), tmp_path / "plain", no_progress).digest == whole.digest

    cut = watching(tmp_path)
    cut.CHECKPOINT_SECONDS = 0.0
    with pytest.raises(Cut):
        cut.train(dataset, str(base), tmp_path / "cut", cut_after(last - 1))
    left = newest_checkpoint(tmp_path / ".cut.partial")
    assert left is not None and (left / "early_stopping.pt").is_file()
    again = watching(tmp_path, kind=Here).train(dataset, str(base), tmp_path / "cut", no_progress)
    assert again.digest == whole.digest and again.curve == whole.curve
    assert {name: record_of(again)[name] for name in ("best_step", "best_dev_loss", "num_steps")} == {
        "best_step": best,
        "best_dev_loss": record["best_dev_loss"],
        "num_steps": last,
    }


@pytest.mark.train
def test_of_several_processes_the_first_decides_and_writes(tmp_path, monkeypatch):
    """Two GPUs may sum a loss in another order, and one that stopped a step later would wait for ever."""
    import torch

    from training import early_stopping, ranks

    monkeypatch.setattr(ranks, "of_first", {0.5: 0.4}.get)
    monkeypatch.setattr(ranks, "is_first", lambda: False)
    monkeypatch.setattr(early_stopping, "mean_loss", lambda trainer, rows: 0.5)
    second = early_stopping.EarlyStopping(EARLY, [], tmp_path)
    logs, state = [], SimpleNamespace(global_step=4, max_steps=8)
    second.trainer = SimpleNamespace(model=torch.nn.Linear(1, 1), log=logs.append)
    second.on_step_end(None, state, SimpleNamespace(should_log=False))
    assert logs == [{"eval_loss": 0.4}] and second.finish() == {"best_step": 4, "best_dev_loss": 0.4}
    (tmp_path / "checkpoints/checkpoint-4").mkdir(parents=True)
    second.on_save(None, state, None)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.train
def test_an_item_of_dev_that_is_too_long_is_refused(tmp_path, base):  # noqa: F811
    from training import sft

    dev = (*DEV, GoldItem("long", "long? " * 80, "no", "all"))
    job = watching(tmp_path, dev)._describe(TrainingJob(facts_dataset(tmp_path), str(base), tmp_path / "out"))
    with pytest.raises(TrainingError, match="of dev, 1 of 9 samples are longer than max_length=64"):
        sft.prepare(job)


def test_dev_belongs_to_what_an_adapter_is_where_it_is_looked_at(tmp_path):
    wanted = TrainingJob(facts_dataset(tmp_path), str(TINY), tmp_path / "out")
    one, fewer = watching(tmp_path)._describe(wanted), watching(tmp_path, DEV[1:])._describe(wanted)
    assert one["identity"] != fewer["identity"] and differences(one, fewer) == ["dev (its items changed)"]
    assert one["dev"][0] == {
        "messages": [
            {"role": "user", "content": "notice?"},
            {"role": "assistant", "content": "20 days"},
        ]
    }
    unseen = [watching(tmp_path, dev, early=None)._describe(wanted) for dev in (DEV, ())]
    assert unseen[0] == unseen[1] and "early_stopping" not in unseen[0]["options"]
    assert differences(unseen[0], one)[0] == "early_stopping.every_steps (null, here 4)"
    with pytest.raises(RecipeError, match="dev, which is empty"):
        watching(tmp_path, ())._describe(wanted)


def test_dev_is_asked_as_the_evaluation_asks_it():
    from training.evaluate import Answers

    asked = SimpleNamespace(
        tools=[{"type": "function", "function": {"name": "fee", "parameters": {"type": "object"}}}],
        messages=lambda item: item.before,
    )
    call = json.dumps([{"name": "fee", "arguments": {"of": "claim"}}])
    item = GoldItem("k", "q", call, "all", None, ())
    chat = Answers.chat(SimpleNamespace(_task=asked), item)
    (turn,) = chat["messages"]
    assert chat["tools"] == asked.tools and turn["content"] == ""
    assert turn["tool_calls"][0]["function"] == {"name": "fee", "arguments": {"of": "claim"}}


def test_a_refiner_has_no_dev_to_look_at(folder, capsys):  # noqa: F811
    profile = folder / "profiles/tiny.yaml"
    text = profile.read_text().replace("student", "refiner").replace("max_steps: 2", "max_steps: 2, MORE")
    (folder / "drafts.jsonl").write_text("")
    profile.write_text(
        text.replace("MORE", "early_stopping: {patience: 2}") + "gold: {refiner: drafts.jsonl}\n"
    )
    line = refused(["check", str(folder), "--profile", "tiny"], 2, capsys)
    assert "training.refiner.early_stopping: dev holds questions for the student" in line


def test_options_are_checked():
    assert QLoRAOptions(early_stopping={}).early_stopping.patience == 3
    for wrong in ({"patience": 0}, {"every_steps": 0}, {"min_gain": -1}, {"metric": "loss"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            QLoRAOptions(early_stopping=wrong)
