"""The metric `calls`: what a student is asked with, what its gold must be, and what a recipe needs for it."""

from __future__ import annotations

import json

import pytest
import yaml

from factory.errors import RecipeError
from factory.load import load
from factory.types import Completion
from training.evaluate import Answers, AnswersOptions

TOOLS = [
    {"name": "ring", "parameters": {"properties": {"times": {"type": "integer", "maximum": 9}}}},
    {
        "type": "function",
        "function": {"parameters": {"properties": {}}, "name": "stop", "description": "Stops."},
    },
]
RECIPE = {
    "name": "bells",
    "domain": {"title": "Bells"},
    "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
    "strategies": [{"name": "tool_calls", "tools": "tools.json"}],
    "evaluation": {"name": "answers", "metric": "calls"},
    "servers": {"main": {"kind": "scripted"}},
    "models": {"teacher": {"server": "main"}, "student": {"server": "main"}},
}


def calls(*each: tuple[str, object]) -> str:
    return json.dumps([{"name": name, "arguments": arguments} for name, arguments in each])


TWICE, STOP = calls(("ring", {"times": 2})), calls(("stop", {}))


def write(folder, dev=TWICE, test=STOP, **changed) -> None:
    (folder / "tools.json").write_text(json.dumps(TOOLS))
    for split, text in (("dev", dev), ("test", test)):
        line = {"id": f"{split}-1", "question": f"Now {split} it", "answer": text, "slice": "ring"}
        (folder / f"{split}.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | changed))


@pytest.mark.parametrize("wrapped", [False, True])
async def test_every_item_is_asked_with_all_tools_in_the_files_order(tmp_path, wrapped):
    inner = {"name": "tool_calls", "tools": "tools.json", "num_offered": 1}
    write(tmp_path, strategies=[{"name": "paraphrase", "of": inner} if wrapped else inner])
    domain = load(tmp_path)
    asked = []

    async def ask(messages, *, tools=()):
        asked.append((messages[-1].content, tools))
        return Completion(calls(("ring", {"times": 2.0})))

    student = Answers(AnswersOptions(metric="calls"), domain)
    found = await student.evaluate("m", "dev", [*domain.dev, *domain.test], ask, lambda *_: None)
    assert [item.score for item in found.items] == [1.0, 0.0] and found.metric == "calls"
    offered = [
        {"type": "function", "function": {"name": "ring", "description": "", **TOOLS[0]}},
        {"type": "function", "function": TOOLS[1]["function"]},
    ]
    assert [tools for _, tools in asked] == [offered] * 2
    # The order of keys is what a chat template writes, so it must be what vLLM hands on.
    assert all(list(tool["function"]) == ["name", "description", "parameters"] for tool in asked[0][1])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Ring twice.", ["unreadable_calls", "expected"]),
        (calls(("rings", {})), ["unknown_tool", "'rings'"]),
        (calls(("stop", {}), ("ring", {"times": 10})), ["invalid_arguments", "10 is greater"]),
    ],
)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_gold_that_cannot_be_right_is_told_with_its_item(tmp_path, split, answer, words):
    write(tmp_path, **{split: answer})
    with pytest.raises(RecipeError, match=rf"gold\.{split}: .*'{split}-1'") as caught:
        load(tmp_path)
    assert [word for word in words if word not in str(caught.value)] == [] and "\n" not in str(caught.value)


def test_a_recipe_without_tools_is_refused(tmp_path):
    write(tmp_path, strategies=[{"name": "magpie"}])
    with pytest.raises(RecipeError, match=r"evaluation\.metric.*no strategy of the recipe has tools"):
        load(tmp_path)


def test_a_server_of_ours_must_be_told_how_calls_are_read(tmp_path):
    served = {"main": {"kind": "vllm", "model": "m"}}
    write(tmp_path, servers=served)
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+ servers\.main\.tool_call_parser.*hermes"):
        load(tmp_path)
    write(tmp_path, servers={"main": served["main"] | {"tool_call_parser": "hermes"}})
    load(tmp_path)
    write(tmp_path, servers=served, models={"teacher": {"server": "main"}})  # nobody is asked with tools
    load(tmp_path)
