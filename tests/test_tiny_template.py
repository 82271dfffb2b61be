"""The tiny base's chat template: as ever without tools, and the same for training and asking with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory.load import load_domain, load_recipe
from factory.tool_calls import chat_of, read_calls
from factory.tool_files import tools_of
from factory.types import Message

ROOT = Path(__file__).parents[1]
BASE = ROOT / "tiny" / "models" / "base"
# What the template was before it knew tools: what base, teacher and refiner were trained on.
WITHOUT_TOOLS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>' }}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CALLS = [
    {"name": "set_light", "arguments": {"room": 2, "on": True}},
    {"name": "set_heat", "arguments": {"heat": 20}},
]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


@pytest.fixture(scope="module")
def tools():
    return tools_of(load_domain(*load_recipe(ROOT / "recipes" / "smart_home", "one_gpu")))


CHATS = [
    [("user", "Why?")],
    [("user", "Why?\n"), ("assistant", " Because. ")],
    [
        ("system", "Be brief."),
        ("user", "é <tools>"),
        ("assistant", "{}"),
        ("user", ""),
        ("assistant", "<|end|>"),
    ],
    [("assistant", "Hello.")],
]


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("asking", [False, True])
def test_a_chat_without_tools_is_written_as_before(tokenizer, chat, asking):
    turns = [{"role": role, "content": content} for role, content in chat]
    how = {"tokenize": False, "add_generation_prompt": asking}
    before = tokenizer.apply_chat_template(turns, chat_template=WITHOUT_TOOLS, **how)
    for none in ({}, {"tools": None}, {"tools": []}):
        assert tokenizer.apply_chat_template(turns, **how, **none) == before


def test_the_committed_template_is_the_tokenizers():
    from tiny.tokenizer import CHAT_TEMPLATE

    assert (BASE / "chat_template.jinja").read_text() == CHAT_TEMPLATE


@pytest.mark.parametrize("num_calls", [1, 2])
def test_calls_are_learned_whole_behind_what_will_be_asked(tokenizer, tools, num_calls):
    from training.tokens import IGNORED, tokenize

    answer = json.dumps(CALLS[:num_calls])
    chat = chat_of([Message("user", "Light!"), Message("assistant", answer)], {"tools": json.dumps(tools)})
    (row,) = tokenize([chat], tokenizer, {tokenizer.eos_token_id}, 512)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Light!"}], tools=tools, add_generation_prompt=True
    )["input_ids"]
    assert row.input_ids[: len(asked)] == asked
    assert row.labels == [IGNORED] * len(asked) + row.input_ids[len(asked) :]
    learned = tokenizer.decode(row.input_ids[len(asked) :])
    written = [
        f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'
        for name, arguments in (call.values() for call in CALLS[:num_calls])
    ]
    assert learned == "\n".join(written) + "<|end|>"
    assert read_calls(answer) == CALLS[:num_calls]


def test_tools_stand_in_the_first_turn_alone(tokenizer, tools):
    turns = [
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
    ]
    described = [*tools, {"type": "function", "function": {**tools[0]["function"], "description": "Heats."}}]
    text = tokenizer.apply_chat_template(turns, tools=described, tokenize=False)
    assert text.startswith('<|user|><tools>\n{"name": "set_heat", "parameters": {')
    assert text.endswith("</tools>\n\nA<|end|><|assistant|>B<|end|><|user|>C<|end|>")
    listed = [
        json.loads(line) for line in text[len("<|user|><tools>\n") : text.index("</tools>")].splitlines()
    ]
    assert listed[-1] == {**described[-1]["function"]}
    assert [{"description": "", **each} for each in listed[:-1]] == [tool["function"] for tool in tools]
