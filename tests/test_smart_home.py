"""The ready domain of `tool_calls`: its files, and (marked vllm) its teacher and vLLM's ways with tools."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from factory.budget import Budget
from factory.check import check_recipe
from factory.engine import Engine
from factory.load import load
from factory.models.chat import completion_of
from factory.models.pool import ModelPool
from factory.overlap import Texts
from factory.recipe import BudgetSpec
from factory.store.store import Store
from factory.tool_calls import chat_of, difference_of_calls, fault_of_calls, text_of_calls
from factory.tool_files import tools_of
from factory.types import Message

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "smart_home"
ROOM, ANSWER = 512, 96  # tokens of the tiny base, and of its teacher's answers


def test_the_recipe_checks():
    found = check_recipe(RECIPE, "one_gpu")
    assert found["strategies"] == ["tool_calls ×1"]
    assert {row["slice"]: (row["dev"] >= 10, row["test"] >= 20) for row in found["slices"]} == dict.fromkeys(
        ["set_heat", "air_room", "set_light", "all"], (True, True)
    )


def test_gold_is_what_its_script_writes():
    command = [sys.executable, "-m", "tiny.smart_home", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_wording_of_gold_is_the_teachers():
    from tiny import tools_teacher

    domain = load(RECIPE, "one_gpu")
    held_out = Texts(item.question for item in (*domain.dev, *domain.test))
    asked = [json.loads(answer)["request"] for _, answer in tools_teacher.examples()[-600:]]
    assert [text for text in asked if held_out.find(text)] == []


def test_what_the_teacher_learns_fits_the_tiny_context_and_is_mostly_right():
    from transformers import AutoTokenizer

    from tiny import tools_teacher

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "tiny" / "models" / "base")
    tools = json.dumps(tools_of(load(RECIPE, "one_gpu")))
    pairs = tools_teacher.examples()[-600:]
    faults = Counter[str]()
    for prompt, answer in pairs:
        chat = [{"role": "user", "content": prompt}]
        prompt_ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        assert len(prompt_ids) + ANSWER <= ROOM
        assert len(tokenizer(answer)["input_ids"]) < ANSWER
        (call,) = json.loads(answer)["calls"]
        fault = fault_of_calls(text_of_calls([call]), tools)
        faults[fault.reason if fault else "ok"] += 1
    assert 0.7 < faults["ok"] / len(pairs) < 0.9 and {"invalid_arguments", "unknown_tool"} < faults.keys()


@pytest.mark.vllm
@pytest.mark.timeout(300)
async def test_a_student_is_asked_with_the_very_tokens_that_it_is_trained_on(tmp_path):
    """The tiny base, which cannot call, is asked with the tools all the same."""
    server = {"kind": "vllm", "model": str(ROOT / "tiny/models/base"), "device": "cpu", "max_model_len": ROOM}
    models = {role: {"server": "tiny", "sampling": {"max_tokens": 8}} for role in ("teacher", "student")}
    servers = {"tiny": {**server, "tool_call_parser": "hermes"}}
    training = {"student": {"base": server["model"]}}
    profile = {"servers": servers, "models": models, "training": training}
    (tmp_path / "tiny.yaml").write_text(json.dumps(profile))
    domain = load(RECIPE, str(tmp_path / "tiny.yaml"))
    tools, spec = tools_of(domain), domain.recipe.models["student"]
    pool = ModelPool(domain.recipe, domain.folder, tmp_path, print)
    with Store.open(tmp_path) as store:
        engine = Engine(store, Budget(BudgetSpec()), "run_1")
        try:
            ask = engine.ask("student", await pool.model("student"), spec, "evaluate", 0, "hermes")
            said = [await ask([Message("user", item.question)], tools=tools) for item in domain.dev[:2]]
        finally:
            await pool.close()
    asked = [num_tokens(item.question, tools) for item in domain.dev[:2]]
    assert [answer.prompt_tokens for answer in said] == asked


def num_tokens(question: str, tools: list[dict]) -> int:
    """Of the prompt behind which the student is trained to answer the question."""
    from transformers import AutoTokenizer

    chat = chat_of([Message("user", question)], {"tools": json.dumps(tools)})
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "tiny" / "models" / "base")
    return len(tokenizer.apply_chat_template(**renamed(chat), add_generation_prompt=True)["input_ids"])


def renamed(chat: dict) -> dict:
    return {"conversation": chat["messages"], "tools": chat["tools"]}


@pytest.mark.vllm
def test_vllm_hands_tools_to_the_template_as_they_are_learned():
    protocol = pytest.importorskip("vllm.entrypoints.openai.chat_completion.protocol")
    bare = {
        "type": "function",
        "function": {"name": "a", "description": "", "parameters": {"properties": {}}},
    }
    for tool in (*tools_of(load(RECIPE, "one_gpu")), bare):
        handed_on = protocol.ChatCompletionToolsParam.model_validate(tool).model_dump()
        assert json.dumps(handed_on) == json.dumps(tool)


@pytest.mark.vllm
@pytest.mark.parametrize("num_calls", [1, 2])
def test_vllms_parser_reads_what_the_template_writes(num_calls):
    pytest.importorskip("vllm")
    from transformers import AutoTokenizer
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatMessage
    from vllm.tool_parsers import ToolParserManager

    calls = [
        {"name": "set_light", "arguments": {"room": 2, "on": False}},
        {"name": "é", "arguments": {"x": '"'}},
    ]
    answer, tools = json.dumps(calls[:num_calls], ensure_ascii=False), tools_of(load(RECIPE, "one_gpu"))
    chat = chat_of([Message("user", "x"), Message("assistant", answer)], {"tools": json.dumps(tools)})
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "tiny" / "models" / "base")
    text = tokenizer.apply_chat_template(**renamed(chat), tokenize=False)
    text = text.partition("<|assistant|>")[2].removesuffix("<|end|>")
    request = ChatCompletionRequest(messages=[{"role": "user", "content": "x"}], tools=tools)
    found = ToolParserManager.get_tool_parser("hermes")(tokenizer).extract_tool_calls(text, request)
    message = ChatMessage(role="assistant", content=found.content, tool_calls=found.tool_calls).model_dump()
    assert difference_of_calls(answer, completion_of({"choices": [{"message": message}]}).text) == ""
