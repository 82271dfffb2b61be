"""Pairs stand beside the samples of an export, and both datasets and TRL take them."""

from __future__ import annotations

import json

import pytest
import yaml
from frozen_dataset import freeze
from tiny_llama import make_tiny_llama

from factory.export import export
from factory.store.store import Store
from factory.types import Message, Parent, Sample


def sample(number: int, rejected: str | None = None, system: str = "", **attributes: str) -> Sample:
    messages = [Message("system", system)] if system else []
    messages += [Message("user", f"Q{number}"), Message("assistant", f"A{number}")]
    known = {"slice": "s", "strategy": "preference", **attributes}
    if rejected is not None:
        known["rejected"] = rejected
    return Sample.create(messages, [Parent(f"call_{number}", "call")], "preference", known)


SAMPLES = [
    sample(0),
    sample(1, "bad \ud800 \x00"),
    sample(2, "A2"),  # edited into the rejected one
    sample(3, "worse", "Be brief."),
]
PAIRS = [
    {
        "prompt": [{"role": "user", "content": "Q1"}],
        "chosen": [{"role": "assistant", "content": "A1"}],
        "rejected": [{"role": "assistant", "content": "bad ? \x00"}],
    },
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q3"}],
        "chosen": [{"role": "assistant", "content": "A3"}],
        "rejected": [{"role": "assistant", "content": "worse"}],
    },
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    with Store.open(folder / "workspace") as store:
        freeze(store, SAMPLES)
        result = export(store, folder / "out")
    assert [name for name in result["files"] if name.startswith("preference")] == [
        "preference/train.jsonl",
        "preference/train.parquet",
    ]
    return folder / "out"


def test_samples_are_all_there_with_the_chosen_answer(exported):
    lines = [json.loads(line) for line in (exported / "data/train.jsonl").read_text("utf-8").splitlines()]
    assert [line["answer"] for line in lines] == ["A0", "A1", "A2", "A3"]
    assert "rejected" not in lines[0] and "tools" not in lines[0]


def test_the_datasets_library_reads_pairs_by_name_and_from_both_files(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    ids = [{"sample_id": each.id, "slice": "s", "strategy": "preference"} for each in SAMPLES]
    expected = [{**pair, **ids[number]} for pair, number in zip(PAIRS, (1, 3), strict=True)]
    cache = str(tmp_path)
    assert list(load_dataset(str(exported), "preference", cache_dir=cache)["train"]) == expected
    lines = load_dataset("json", data_files=str(exported / "preference/train.jsonl"), cache_dir=cache)
    assert list(lines["train"]) == expected
    assert load_dataset(str(exported), cache_dir=cache)["train"].num_rows == 4


@pytest.mark.train
def test_trl_takes_them(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    base = make_tiny_llama(tmp_path / "base")
    pairs = load_dataset(str(exported), "preference", split="train", cache_dir=str(tmp_path))
    args = DPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, use_cpu=True, bf16=False, report_to="none",
        per_device_train_batch_size=2, disable_tqdm=True, save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    trainer = DPOTrainer(str(base), args=args, train_dataset=pairs, processing_class=tokenizer)
    for row, pair in zip(trainer.train_dataset, PAIRS, strict=True):
        for name in ("chosen", "rejected"):
            whole = tokenizer.apply_chat_template(pair["prompt"] + pair[name], tokenize=False)
            assert tokenizer.decode(row["prompt_ids"] + row[f"{name}_ids"]) == whole
    loss = trainer.train().training_loss
    assert loss == pytest.approx(0.693, abs=0.01)  # log 2: policy and reference are one model yet


def test_the_card_names_both(exported):
    _, front, text = (exported / "README.md").read_text("utf-8").split("---\n", 2)
    names = {each["config_name"]: each["data_files"][0]["path"] for each in yaml.safe_load(front)["configs"]}
    assert names == {"default": "data/train.parquet", "preference": "preference/train.parquet"}
    assert "2 of them have a worse answer" in text and '"preference", split="train"' in text


def test_an_export_without_pairs_has_no_such_folder(tmp_path):
    with Store.open(tmp_path / "workspace") as store:
        freeze(store, [SAMPLES[0], SAMPLES[2]])
        export(store, tmp_path / "out")
    assert not (tmp_path / "out" / "preference").exists()
    assert "worse answer" not in (tmp_path / "out" / "README.md").read_text("utf-8")
