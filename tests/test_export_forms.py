"""Exports in other trainers' forms: read as their documentation says, and by TRL itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from frozen_dataset import freeze
from test_export_pairs import SAMPLES as PAIRS
from test_export_tools import ALARM, LIGHT, sample
from test_qlora import MARKED_TEMPLATE, set_template
from tiny_llama import make_tiny_llama

from factory import cli
from factory.commands.look import Form
from factory.errors import InputError
from factory.export import export
from factory.export_forms import FORMS, alpaca, prompt_completion, sharegpt
from factory.store.store import Store
from factory.types import Message, Parent, Sample

CALLS = [{"name": "set_alarm", "arguments": {"at": "7:00"}}]
ROLES = {
    "system": "system",
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}


def talk(*texts: str, system: str = "") -> Sample:
    turns = [Message(("user", "assistant")[at % 2], text) for at, text in enumerate(texts)]
    first = [Message("system", system)] if system else []
    attributes = {"slice": "s", "strategy": "dialogue"}
    return Sample.create([*first, *turns], [Parent("call_9", "call")], "dialogue", attributes)


PLAIN = [talk("Q1", "A1"), talk("Q2", "A2", "Q3 \ud800", "A3", system="Be brief.")]


def exported(folder, samples, *forms):
    with Store.open(folder / "workspace") as store:
        freeze(store, samples)
        export(store, folder / "out", forms=forms)
    return folder / "out"


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def llama_factory(line, info):
    """System, tools and turns, as LLaMA-Factory's converters read a line by its dataset_info.json.

    benchmarks/loaders.py asks these themselves.
    """
    columns = info["columns"]
    if info.get("formatting", "alpaca") == "alpaca":
        before = [text for pair in line[columns["history"]] for text in pair]
        asked = "\n".join(part for part in (line[columns["prompt"]], line[columns["query"]]) if part)
        turns = [*before, asked, line[columns["response"]]]
        return line[columns["system"]], "", turns
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    tags |= {"observation_tag": "observation", "function_tag": "function_call"} | info.get("tags", {})
    said = list(line[columns["messages"]])
    system = line[columns["system"]] if "system" in columns else ""
    if said[0][tags["role_tag"]] == tags.get("system_tag", "system"):
        system = said.pop(0)[tags["content_tag"]]
    odd = (tags["user_tag"], tags["observation_tag"])
    even = (tags["assistant_tag"], tags["function_tag"])
    assert all(turn[tags["role_tag"]] in (odd, even)[at % 2] for at, turn in enumerate(said))
    assert len(said) % 2 == 0
    tools = line[columns["tools"]] if "tools" in columns else ""
    return system, tools, [turn[tags["content_tag"]] for turn in said]


def test_llama_factory_reads_the_same_from_every_form(tmp_path):
    out = exported(tmp_path, PLAIN, "sharegpt", "alpaca", "prompt_completion")
    info = json.loads((out / "dataset_info.json").read_text())
    assert sorted(info) == ["alpaca", "chat", "sharegpt"]
    for name, entry in info.items():
        found = [llama_factory(line, entry) for line in lines(out / entry["file_name"])]
        assert found == [
            ("", "", ["Q1", "A1"]),
            ("Be brief.", "", ["Q2", "A2", "Q3 ?", "A3"]),
        ], name


def test_axolotl_reads_what_its_documentation_asks_for(tmp_path):
    """`type: chat_template` with `role: from, content: value`, and `type: alpaca`.

    Of a `system` or a `tools` beside the turns it would make an empty turn, or fail, where they are empty.
    """
    out = exported(tmp_path, PLAIN, "sharegpt", "alpaca")
    for line in lines(out / "sharegpt/train.jsonl"):
        assert line.keys() == {"conversations", "sample_id"}
        assert all(turn.keys() == {"from", "value"} for turn in line["conversations"])
    roles = [
        [ROLES[turn["from"]] for turn in line["conversations"]]
        for line in lines(out / "sharegpt/train.jsonl")
    ]
    assert roles == [["user", "assistant"], ["system", *["user", "assistant"] * 2]]
    for line in lines(out / "alpaca/train.jsonl"):
        assert all(isinstance(line[key], str) for key in ("instruction", "input", "output"))


def test_tools_are_texts_in_sharegpt_and_mappings_in_prompt_and_completion(tmp_path):
    samples = [sample("Wake me", CALLS, ALARM, LIGHT), sample("2 + 2?", "4", number=2)]
    out = exported(tmp_path, samples, "sharegpt", "prompt_completion")
    info = json.loads((out / "dataset_info.json").read_text())
    assert list(info) == ["sharegpt"]
    line, without = lines(out / "sharegpt/train.jsonl")
    assert without["tools"] == "[]"
    _, tools, turns = llama_factory(line, info["sharegpt"])
    assert json.loads(tools) == [ALARM, LIGHT]
    assert turns[0] == "Wake me" and json.loads(turns[1]) == CALLS
    assert [turn["from"] for turn in line["conversations"]] == ["human", "function_call"]
    line, without = lines(out / "prompt_completion/train.jsonl")
    assert "tools" not in without
    assert line["tools"] == [ALARM, LIGHT]
    assert line["completion"][0]["tool_calls"][0]["function"] == CALLS[0]


def test_pairs_stand_in_the_form_of_the_others_too(tmp_path):
    out = exported(tmp_path, PAIRS, "sharegpt")
    info = json.loads((out / "dataset_info.json").read_text())["preference"]
    assert info["ranking"] and info["columns"]["chosen"] == "chosen"
    first, second = lines(out / info["file_name"])
    assert first["conversations"] == [{"from": "human", "value": "Q1"}]
    assert first["chosen"] == {"from": "gpt", "value": "A1"}
    assert first["rejected"] == {"from": "gpt", "value": "bad ? \x00"}
    assert [turn["from"] for turn in second["conversations"]] == ["system", "human"]
    assert len(lines(out / "sharegpt/train.jsonl")) == len(PAIRS)
    assert not (exported(tmp_path / "without", PLAIN, "sharegpt") / "sharegpt/preference.jsonl").exists()


def test_trl_makes_the_same_text_of_both_of_its_forms(tmp_path):
    from transformers import AutoTokenizer
    from trl.data_utils import is_conversational, maybe_apply_chat_template

    tokenizer = AutoTokenizer.from_pretrained(make_tiny_llama(tmp_path / "model"))
    out = exported(tmp_path, PLAIN, "prompt_completion")
    chats, pairs = lines(out / "data/train.jsonl"), lines(out / "prompt_completion/train.jsonl")
    assert all(is_conversational(line) for line in (*chats, *pairs))
    for chat, pair in zip(chats, pairs, strict=True):
        whole = maybe_apply_chat_template({"messages": chat["messages"]}, tokenizer)["text"]
        made = maybe_apply_chat_template({key: pair[key] for key in ("prompt", "completion")}, tokenizer)
        assert made["prompt"] + made["completion"] == whole
        assert made["completion"] == f"{chat['answer']}<|end|>"
        assert pair["sample_id"] == chat["sample_id"]


@pytest.mark.train
@pytest.mark.parametrize(
    ("file", "is_chat"), [("data/train.parquet", True), ("prompt_completion/train.jsonl", False)]
)
def test_trl_prepares_what_it_trains_on_from_the_files(tmp_path, monkeypatch, file, is_chat):
    """What its own trainer makes of a file: the template's tokens, and of these the answers to learn."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    base = make_tiny_llama(tmp_path / "model")
    set_template(base, MARKED_TEMPLATE)
    out = exported(tmp_path, PLAIN, "prompt_completion")
    kind = {".parquet": "parquet", ".jsonl": "json"}[Path(file).suffix]
    rows = load_dataset(kind, data_files=str(out / file), split="train", cache_dir=str(tmp_path / "cache"))
    args = SFTConfig(
        output_dir=str(tmp_path / "trained"), use_cpu=True, bf16=False, report_to="none", max_length=None,
        assistant_only_loss=is_chat,
    )  # fmt: skip
    trainer = SFTTrainer(str(base), args=args, train_dataset=rows)
    tokenizer = AutoTokenizer.from_pretrained(base)
    learned = []
    for row, line in zip(trainer.train_dataset, lines(out / "data/train.jsonl"), strict=True):
        whole = tokenizer.apply_chat_template(line["messages"], tokenize=False)
        assert tokenizer.decode(row["input_ids"]) == whole
        learned.append(tokenizer.decode([label for label in row["labels"] if label != -100]))
    assert learned == ["A1<|end|>", "A2<|end|>A3<|end|>" if is_chat else "A3<|end|>"]


def test_what_does_not_fit_a_form_is_refused_by_name_and_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="no place for tools") as caught:
        exported(tmp_path, [sample("Wake me", CALLS, ALARM)], "alpaca")
    assert caught.value.where.startswith("smp_")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    twice = {"messages": [{"role": role, "content": "x"} for role in ("user", "user", "assistant")]}
    for form in (sharegpt, alpaca):
        with pytest.raises(InputError, match="user, user, assistant"):
            form(twice)
    assert len(prompt_completion(twice)["prompt"]) == 2


def test_the_command_knows_every_form(tmp_path, capsys):
    assert {form.value for form in Form} == set(FORMS)
    with Store.open(tmp_path / "workspace") as store:
        freeze(store, PLAIN)
    words = ["export", str(tmp_path / "out"), "-w", str(tmp_path / "workspace"), "--json"]
    assert cli.main([*words, "--format", "alpaca", "--format", "alpaca"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files[:2] == ["README.md", "alpaca/train.jsonl"] and "dataset_info.json" in files
