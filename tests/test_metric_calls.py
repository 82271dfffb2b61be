"""The metric `calls`: what a student is asked with, what its gold must be, and what a recipe needs for it."""

from __future__ import annotations

import json

import pytest
import yaml

from factory.errors import RecipeError
from factory.load import load
from factory.tool_files import tools_of
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
    assert [item.detail for item in found.items] == ["", "missing: stop; too many: ring"]
    offered = [
        {"type": "function", "function": {"name": "ring", "description": "", **TOOLS[0]}},
        {"type": "function", "function": TOOLS[1]["function"]},
    ]
    assert [tools for _, tools in asked] == [offered] * 2
    # The order of keys is what a chat template writes, so it must be what vLLM hands on.
    assert all(list(tool["function"]) == ["name", "description", "parameters"] for tool in asked[0][1])


def also_paraphrased(file: str) -> list[object]:
    """The strategies of the recipe, and one that wraps the tools of another file."""
    return [*RECIPE["strategies"], {"name": "paraphrase", "of": {"name": "tool_calls", "tools": file}}]


@pytest.mark.parametrize("path", ["tools.json", "./tools.json", "{}/tools.json", "wrapped.json"])
def test_a_function_that_stands_in_several_files_is_offered_once(tmp_path, path):
    (tmp_path / "wrapped.json").write_text(json.dumps([{"type": "function", "function": TOOLS[0]}]))
    write(tmp_path, strategies=also_paraphrased(path.format(tmp_path)))
    assert [tool["function"]["name"] for tool in tools_of(load(tmp_path))] == ["ring", "stop"]


def test_two_functions_of_one_name_are_refused(tmp_path):
    (tmp_path / "more.json").write_text(json.dumps([{"name": "stop", "parameters": {"properties": {}}}]))
    write(tmp_path, strategies=also_paraphrased("more.json"))
    with pytest.raises(RecipeError, match=r"more\.json: two functions are called 'stop'.* tools\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Ring twice.", ["unreadable_calls", "expected"]),
        (calls(("rings", {})), ["unknown_tool", "'rings'"]),
        (calls(("stop", {}), ("ring", {"times": 10})), ["invalid_arguments", "10 is greater"]),
    ],
)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_gold_that_cannot_be_right_is_told_with_its_line(tmp_path, split, answer, words):
    write(tmp_path, **{split: answer})
    with pytest.raises(RecipeError, match=rf"{tmp_path / split}\.jsonl:1 answer: the answer") as caught:
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
    write(tmp_path, servers={"main": served["main"] | {"tool_call_parser": "llama3_json.v2-x"}})
    load(tmp_path)
    write(tmp_path, servers=served, models={"teacher": {"server": "main"}})  # nobody is asked with tools
    load(tmp_path)


@pytest.mark.parametrize("name", ["", "  ", "--x", "-x", "her mes", "hermes\n", "a/b"])
def test_the_name_of_a_parser_must_be_one(tmp_path, name):
    write(tmp_path, servers={"main": {"kind": "vllm", "model": "m", "tool_call_parser": name}})
    with pytest.raises(RecipeError, match=r"recipe.yaml:\d+ servers\.main\.tool_call_parser"):
        load(tmp_path)
