"""A student that calls tools is asked with them: the request, its identity, and calls read back as text."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fake_endpoint import FakeEndpoint, Status, answer
from hypothesis import given
from hypothesis import strategies as st

from factory.budget import Budget, bound_prompt_tokens
from factory.engine import Engine
from factory.models.batch_lines import read_bounds, request_line
from factory.models.chat import ChatRequests, completion_of
from factory.models.client import EndpointModel
from factory.models.vllm_command import build_batch_command, build_command, build_worker_command
from factory.recipe import BudgetSpec, ModelSpec, Recipe
from factory.servers import VllmServer
from factory.store.store import Store
from factory.tool_calls import difference_of_calls, read_calls, text_of_calls
from factory.types import Message, Request, Sampling

RING = {
    "type": "function",
    "function": {
        "name": "ring",
        "description": "é\nrings",
        "parameters": {"properties": {"who": {"type": "string"}}},
    },
}
ASKED = Request("m", (Message("user", "Ring Ann"),), None, Sampling())


def call(name: object, arguments: object) -> dict:
    return {"id": "1", "type": "function", "function": {"name": name, "arguments": arguments}}


def body(**message: object) -> dict:
    return {"choices": [{"message": {"role": "assistant", **message}, "finish_reason": "tool_calls"}]}


def test_tools_are_part_of_a_requests_identity_where_there_are_some():
    assert ASKED.id == "call_890beda35ddbb92c987b"  # as before requests could have tools
    with_tools = replace(ASKED, tools=(RING,), tool_call_parser="hermes")
    others = [replace(with_tools, tool_call_parser="llama3_json"), replace(with_tools, tools=(RING, RING))]
    assert len({each.id for each in (ASKED, with_tools, *others)}) == 4
    assert replace(ASKED, tool_call_parser="hermes").id == ASKED.id  # it reads nothing there


def test_tools_go_along_in_the_body_on_one_line():
    requests = ChatRequests("m")
    sent = requests.encode(replace(ASKED, tools=(RING,)))
    assert json.loads(sent)["tools"] == [RING] and b"\n" not in sent
    assert "tools" not in json.loads(requests.encode(ASKED))


def test_tools_count_in_what_a_call_may_cost():
    messages = ASKED.messages
    grown = bound_prompt_tokens(messages, [RING]) - bound_prompt_tokens(messages)
    assert grown >= len(json.dumps(RING, ensure_ascii=False).encode())
    line = request_line("call_1", ChatRequests("m").encode(replace(ASKED, tools=(RING,))))
    assert list(read_bounds([line])) == [("call_1", bound_prompt_tokens(messages, [RING]), 256)]


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        (
            {"content": None, "tool_calls": [call("ring", '{"who": "Ann"}')]},
            '[{"name": "ring", "arguments": {"who": "Ann"}}]',
            "",
        ),
        (
            {"content": "At once.", "tool_calls": [call("ring", {"who": "é"}), call("ring", "{}")]},
            '[{"name": "ring", "arguments": {"who": "é"}}, {"name": "ring", "arguments": {}}]',
            "At once.",
        ),
        (
            {"content": "<think>who?</think>Yes.", "tool_calls": [call("ring", "{}")]},
            '[{"name": "ring", "arguments": {}}]',
            "who?\nYes.",
        ),
        ({"content": "No.", "tool_calls": []}, "No.", ""),
        ({"content": "No.", "tool_calls": None}, "No.", ""),
    ],
)
def test_calls_become_the_answer(message, text, reasoning):
    found = completion_of(body(**message))
    assert (found.text, found.reasoning) == (text, reasoning)


@pytest.mark.parametrize(
    "arguments", ['{"who": ', "[1]", "null", "", 5, '{"a": ' + "[" * 500 + "]" * 500 + "}"]
)
def test_arguments_that_cannot_be_read_stay_text_and_score_nothing(arguments):
    text = completion_of(body(content=None, tool_calls=[call("ring", arguments)])).text
    assert json.loads(text) == [{"name": "ring", "arguments": arguments}]
    assert read_calls(text) is None and difference_of_calls(text, text) == "no list of calls"


@pytest.mark.parametrize("calls", [[{}], "ring", [{"function": {"name": "ring"}}], [call(5, "{}")], [None]])
def test_what_is_no_call_is_no_chat_completion(calls):
    with pytest.raises(ValueError, match="not a chat completion"):
        completion_of(body(content=None, tool_calls=calls))


async def test_an_endpoint_is_asked_with_tools_and_its_calls_are_stored(tmp_path):
    said = answer("", tool_calls=[call("ring", '{"who":"Ann"}')])
    async with FakeEndpoint([said, Status(500)]) as endpoint:
        model = EndpointModel(endpoint.base_url, "m", "id")
        with Store.open(tmp_path) as store:
            engine = Engine(store, Budget(BudgetSpec()), "run_1")
            ask = engine.ask("student", model, ModelSpec(server="s", max_retries=0), "evaluate", 1, "hermes")
            first = await ask(ASKED.messages, tools=[RING])
            again = await ask(ASKED.messages, tools=[RING])
            store.flush()
            (row,) = store.select("SELECT id, request ->> '$.tools[0].function.name' AS tool FROM calls")
        await model.close()
    assert first.text == again.text == '[{"name": "ring", "arguments": {"who": "Ann"}}]'
    assert endpoint.requests[0]["tools"] == [RING] and len(endpoint.requests) == 1
    asked = Request("id", ASKED.messages, None, Sampling(), tools=(RING,), tool_call_parser="hermes")
    assert (row["id"], row["tool"]) == (asked.id, "ring")


def calls(*each: tuple[str, object]) -> str:
    return json.dumps([{"name": name, "arguments": arguments} for name, arguments in each])


A, B = ("ring", {"who": "Ann", "times": 1}), ("stop", {})


@pytest.mark.parametrize(
    ("answer", "difference"),
    [
        (calls(A, B), ""),
        (calls(B, A), ""),
        (calls(("ring", {"times": 1.0, "who": "Ann"}), B), ""),
        (calls(A), "missing: stop"),
        (calls(A, B, B), "too many: stop"),
        (calls(A, A), "missing: stop; too many: ring"),
        (calls(("ring", {"who": "ann", "times": 1}), B), "other arguments of ring: who"),
        (calls(("ring", {"who": "Ann", "times": "1"}), B), "other arguments of ring: times"),
        (calls(("ring", {"who": "Ann", "times": True}), B), "other arguments of ring: times"),
        (calls(("ring", {"who": "Ann"}), B), "other arguments of ring: times"),
        (calls(("ring", {"who": "Ben", "at": 5}), B), "other arguments of ring: at, times, who"),
        (calls(("rings", {"who": "Ann", "times": 1}), B), "missing: ring; too many: rings"),
        ("ring Ann", "no list of calls"),
        ("", "no list of calls"),
    ],
)
def test_calls_are_compared_as_a_multiset_of_json(answer, difference):
    assert difference_of_calls(calls(A, B), answer) == difference
    assert bool(difference_of_calls(answer, calls(A, B))) is bool(difference)


def test_parallel_calls_of_one_function_are_told_by_the_nearest():
    here = calls(("set", {"room": 1, "on": True, "level": 3}), ("set", {"room": 2, "on": True, "level": 9}))
    there = calls(("set", {"room": 2, "on": False, "level": 8}), ("set", {"room": 1, "on": True, "level": 4}))
    assert difference_of_calls(here, there) == "other arguments of set: level"


numbers = st.integers(-(10**6), 10**6)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.dictionaries(st.text(max_size=2), numbers)), min_size=1))
def test_the_same_calls_in_another_order_and_with_other_numbers_of_the_same_value(each):
    other = [(name, {key: float(value) for key, value in reversed(args.items())}) for name, args in each]
    assert not difference_of_calls(calls(*each), calls(*reversed(other)))
    assert difference_of_calls(calls(*each), calls(*each, each[0])) == f"too many: {each[0][0]}"
    as_sent = [{"name": name, "arguments": json.dumps(args)} for name, args in each]
    assert not difference_of_calls(calls(*each), text_of_calls(as_sent))


@pytest.mark.parametrize("build", [build_command, build_worker_command, build_batch_command])
def test_every_way_to_run_vllm_is_told_how_calls_are_read(build, tmp_path):
    further = {
        build_command: (8000,),
        build_worker_command: (),
        build_batch_command: ((tmp_path, tmp_path), None),
    }
    plain = build(VllmServer(model="m"), "m", "cuda", *further[build])
    told = build(VllmServer(model="m", tool_call_parser="hermes"), "m", "cuda", *further[build])
    assert "--tool-call-parser" not in plain and "--enable-auto-tool-choice" not in plain
    assert told[told.index("--tool-call-parser") + 1] == "hermes" and "--enable-auto-tool-choice" in told


def named(**server: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small",
            "domain": {"title": "t"},
            "gold": {"dev": "d.jsonl", "test": "t.jsonl"},
            "servers": {"main": {"kind": "vllm", "model": "m", **server}},
            "models": {"teacher": {"server": "main"}},
            "strategies": [{"name": "grounded"}],
        }
    )


def test_a_parser_makes_another_run_and_runs_without_one_keep_their_name():
    assert named().run_digest() == "4d272b4a3d5c427ed287"  # as before there was such a key
    assert named(tool_call_parser="hermes").run_digest() != named().run_digest()
