"""Samples with tools leave the store as chat templates take them: for training, and in exported files."""

from __future__ import annotations

import json

import pytest
from frozen_dataset import freeze
from tiny_llama import make_tiny_llama

from factory.errors import TrainingError
from factory.examples import student_examples, write_jsonl
from factory.export import export
from factory.store.store import Store
from factory.types import Message, Parent, Sample


def tool(name: str, **properties: object) -> dict:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


ALARM = tool("set_alarm", at={"type": "string"}, days={"type": "array"})
LIGHT = tool("dim_light", percent={"type": "integer"}, room={"enum": ["hall", "attic"]})


def sample(question: str, answer: object, *tools: dict, number: int = 1) -> Sample:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    attributes = {"slice": "s", "strategy": "tool_calls"}
    if tools:
        attributes["tools"] = json.dumps(tools)
    messages = [Message("user", question), Message("assistant", text)]
    return Sample.create(messages, [Parent(f"call_{number}", "call")], "tool_calls", attributes)


SAMPLES = [
    sample("What is 2 + 2?", "4"),
    sample("Wake me", [{"name": "set_alarm", "arguments": {"at": "7:00", "days": [1, 2]}}], ALARM, LIGHT),
    sample("Darker!", [{"name": "dim_light", "arguments": {"percent": 5, "room": None}}], LIGHT),
    sample("Odd \ud800", '[{"name": "set_alarm", "arguments": {"at": "\\ud800"}}]', ALARM),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    with Store.open(folder / "workspace") as store:
        freeze(store, SAMPLES)
        export(store, folder / "out")
    return folder / "out"


@pytest.mark.parametrize("kind", ["parquet", "json"])
def test_the_datasets_library_gives_mappings_from_both_files(exported, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    name = {"parquet": "train.parquet", "json": "train.jsonl"}[kind]
    files = str(exported / "data" / name)
    rows = list(load_dataset(kind, data_files=files, cache_dir=str(tmp_path))["train"])
    assert [row["tools"] for row in rows[:3]] == [None, [ALARM, LIGHT], [LIGHT]]
    plain, alarm, light, odd = (row["messages"][1] for row in rows)
    assert plain == {"role": "assistant", "content": "4", "tool_calls": None}
    call = {"name": "set_alarm", "arguments": {"at": "7:00", "days": [1, 2]}}
    assert alarm == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call}],
    }
    assert light["tool_calls"][0]["function"]["arguments"] == {"percent": 5, "room": None}
    assert odd["tool_calls"][0]["function"]["arguments"] == {"at": "?"}
    assert rows[3]["messages"][0]["content"] == "Odd ?"
    assert rows[1]["answer"] == SAMPLES[1].answer  # as it is stored


def test_a_whole_export_loads_by_its_folder(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    rows = load_dataset(str(exported), cache_dir=str(tmp_path))["train"]
    assert rows.num_rows == 4 and rows[1]["tools"] == [ALARM, LIGHT]


def test_training_reads_the_same_form(tmp_path):
    path = tmp_path / "train.jsonl"
    assert write_jsonl(student_examples(SAMPLES), path) == 4
    plain, alarm, *_ = map(json.loads, path.read_text("utf-8").splitlines())
    assert plain.keys() == {"messages"} and "tool_calls" not in plain["messages"][1]
    assert alarm["tools"] == [ALARM, LIGHT]
    assert alarm["messages"][1]["tool_calls"][0]["function"]["name"] == "set_alarm"


TEMPLATE = (
    "{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}"
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}{{ call['function'] | tojson }}{% endfor %}"
    "<|end|>{% endgeneration %}{% else %}{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tiny_llama(tmp_path_factory.mktemp("base")))


@pytest.mark.train
def test_calls_are_learned_behind_the_tools(tokenizer, tmp_path):
    from training.chats import read_chats
    from training.tokens import spans, tokenize

    write_jsonl(student_examples(SAMPLES[:3]), tmp_path / "train.jsonl")
    tokenizer.chat_template = TEMPLATE
    rows = tokenize(read_chats(tmp_path / "train.jsonl"), tokenizer, {tokenizer.eos_token_id}, 500)
    learned = [[tokenizer.decode(row.labels[a:b]) for a, b in spans(row.labels)] for row in rows]
    assert learned[0] == ["4<|end|>"]
    assert json.loads(learned[1][0].removesuffix("<|end|>")) == json.loads(SAMPLES[1].answer)[0]
    assert tokenizer.decode(rows[1].input_ids).startswith("<|system|>")
    assert "dim_light" in tokenizer.decode(rows[1].input_ids)  # offered and not called


NO_TOOLS = TEMPLATE.replace("{{ tools | tojson }}", "")
NO_CALLS = TEMPLATE.replace("{{ call['function'] | tojson }}", "")
ONE_CALL = TEMPLATE.replace("message['tool_calls'] or []", "(message['tool_calls'] or [])[:1]")


@pytest.mark.train
@pytest.mark.parametrize(
    ("template", "missing"),
    [
        (NO_TOOLS, "the tool 'dim_light'"),
        (NO_CALLS, "every call of 'set_alarm'"),  # though the tool is offered by that name
        (ONE_CALL, "every call of 'set_alarm'"),
    ],
)
def test_a_template_that_passes_over_tools_is_refused(tokenizer, template, missing):
    from training.tokens import tokenize

    tokenizer.chat_template = template
    call = {"name": "set_alarm", "arguments": {"at": "7:00"}}
    chats = student_examples([sample("Wake me twice", [call, call], LIGHT, ALARM)])
    with pytest.raises(TrainingError, match=f"does not write {missing}"):
        tokenize(chats, tokenizer, {tokenizer.eos_token_id}, 500)
