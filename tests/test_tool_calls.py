"""Calls as text and as chat templates take them; what a schema refuses is told with its place."""

from __future__ import annotations

import json

import pytest
from edited import with_answer
from hypothesis import given
from hypothesis import strategies as st
from strategy_kit import domain_of

from factory.errors import RecipeError
from factory.ports import Refiner
from factory.recipe import StepSpec
from factory.registry import create
from factory.tool_calls import chat_of, check_tool, fault_of_calls, read_calls
from factory.types import Completion, Message, Parent, Sample

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a day.",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string", "minLength": 1},
            "day": {"type": "string", "format": "date"},
            "unit": {"enum": ["C", "F"]},
            "hours": {"type": "array", "items": {"type": "integer", "maximum": 23}},
        },
        "required": ["city"],
    },
}
TOOLS = json.dumps([{"type": "function", "function": WEATHER}])


def calls(*each: tuple[str, object]) -> str:
    return json.dumps([{"name": name, "arguments": arguments} for name, arguments in each])


@pytest.mark.parametrize(
    ("text", "reason", "error"),
    [
        (calls(("get_weather", {"city": "Rome"})), None, ""),
        (calls(("get_weather", {"city": "Rome"}), ("get_weather", {"city": "Oslo", "unit": "C"})), None, ""),
        ("Sunny.", "unreadable_calls", "expected"),
        ("[]", "unreadable_calls", "expected"),
        ('{"name": "get_weather", "arguments": {}}', "unreadable_calls", "expected"),
        (calls(("get_weather", '{"city": "Rome"}')), "unreadable_calls", "expected"),
        ('[{"name": "get_weather", "arguments": {"city": NaN}}]', "unreadable_calls", "expected"),
        ('[{"name": "get_weather", "arguments": {"city": 1e400}}]', "unreadable_calls", "expected"),
        ("[" * 100_000, "unreadable_calls", "expected"),
        (calls(("weather", {"city": "Rome"})), "unknown_tool", "'weather' is not among get_weather"),
        (calls(("get_weather", {})), "invalid_arguments", "get_weather: $: 'city' is a required property"),
        (calls(("get_weather", {"city": 5})), "invalid_arguments", "$.city: 5 is not of type 'string'"),
        (calls(("get_weather", {"city": "Rome", "unit": "K"})), "invalid_arguments", "$.unit: 'K'"),
        (calls(("get_weather", {"city": "Rome", "day": "soon"})), "invalid_arguments", "$.day: 'soon'"),
        (calls(("get_weather", {"city": "Rome", "hours": [1, 99]})), "invalid_arguments", "$.hours[1]: 99"),
        (calls(("get_weather", {"city": "Rome", "mood": "x"})), "invalid_arguments", "'mood' was unexpected"),
    ],
)
def test_calls_are_checked_against_the_tools(text, reason, error):
    fault = fault_of_calls(text, TOOLS)
    assert (fault.reason if fault else None) == reason
    if fault:
        assert error in fault.error and len(fault.error) <= 300


@pytest.mark.parametrize(
    ("parameters", "wrong"),
    [
        ({"type": "object", "properties": {}}, ""),
        (None, "JSON schema of an object"),
        ({"type": "array"}, "JSON schema of an object"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "not a JSON schema"),
        ({"type": "object", "properties": {"a": {"$ref": "https://example.org/a"}}}, "stand in itself"),
        ({"allOf": [{"$ref": "#/nowhere"}]}, "not a JSON schema"),
    ],
)
def test_a_tool_without_a_schema_that_can_be_applied_is_refused(parameters, wrong):
    found = check_tool({"name": "a", "parameters": parameters})
    assert (wrong in found) if wrong else found == ""


def test_a_reference_that_leads_nowhere_is_told_and_nothing_is_fetched():
    for reference in ("#/nowhere", "http://127.0.0.1:9/schema"):
        function = {**WEATHER, "parameters": {"properties": {"city": {"$ref": reference}}}}
        tools = json.dumps([{"type": "function", "function": function}])
        with pytest.raises(RecipeError, match="'get_weather' cannot be applied"):
            fault_of_calls(calls(("get_weather", {"city": "Rome"})), tools)


def test_calls_that_are_read_can_be_written_wherever_they_go():
    tools = TOOLS.replace('"string", "minLength": 1', '"array"')
    assert tools != TOOLS
    for depth, readable in [(61, True), (62, False), (900, False)]:
        text = '[{"name": "get_weather", "arguments": {"city": ' + "[" * depth + "]" * depth + "}}]"
        fault = fault_of_calls(text, tools)
        assert (fault is None) == readable
        assert json.dumps(chat_of([Message("assistant", text)], {"tools": tools}))


def test_a_chat_with_tools_is_as_templates_take_it():
    messages = [Message("user", "Rome?"), Message("assistant", calls(("get_weather", {"city": "Rome"})))]
    assert chat_of(messages, {"tools": TOOLS}) == {
        "messages": [
            {"role": "user", "content": "Rome?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}
                ],
            },
        ],
        "tools": json.loads(TOOLS),
    }
    # Without tools a list of calls is a text like any other, and with tools a text remains one.
    assert chat_of(messages, {})["messages"][1] == {"role": "assistant", "content": messages[1].content}
    said = [Message("user", "Hello"), Message("assistant", "Good day.")]
    assert chat_of(said, {"tools": TOOLS})["messages"][1] == {"role": "assistant", "content": "Good day."}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.lists(st.tuples(st.text(), st.dictionaries(st.text(), json_values)), min_size=1, max_size=3))
def test_calls_survive_being_text(each):
    text = calls(*each)
    found = read_calls(text)
    assert found == [{"name": name, "arguments": arguments} for name, arguments in each]
    turn = chat_of([Message("assistant", text)], {"tools": TOOLS})["messages"][0]
    assert [call["function"] for call in turn["tool_calls"]] == found


@given(st.text() | json_values.map(json.dumps))
def test_any_text_gets_a_reason_and_no_error(text):
    fault = fault_of_calls(text, TOOLS)
    assert fault is not None and fault.reason in {"unreadable_calls", "unknown_tool"}


async def test_form_drops_calls_that_an_edit_has_broken():
    form: Refiner = create("refiners", StepSpec(name="form"), domain_of())
    good = Sample.create(
        [Message("user", "Rome?"), Message("assistant", calls(("get_weather", {"city": "Rome"})))],
        [Parent("call_1", "call")],
        "tool_calls",
        {"tools": TOOLS},
    )
    broken = with_answer(good, calls(("get_weather", {"town": "Rome"})))
    kept, dropped = await form.refine([good, broken], None)
    assert kept.reason == "ok"
    assert (dropped.action, dropped.reason) == ("drop", "invalid_arguments")
    assert "'city' is a required property" in dropped.evidence["error"]


async def test_calls_are_edited_with_the_tools_in_sight():
    """A tool is no section of the domain: what the sample carries stands in for one."""
    edit: Refiner = create("refiners", StepSpec(name="edit"), domain_of())
    parents = [Parent("src_tool", "source"), Parent("call_1", "call")]
    messages = [Message("user", "Rome?"), Message("assistant", calls(("get_weather", {"city": "Oslo"})))]
    wrong = Sample.create(messages, parents, "tool_calls", {"tools": TOOLS, "error": "old"})
    bare = Sample.create(messages, parents, "tool_calls", {})
    prompts = []

    async def ask(messages, **_):
        prompts.append(messages[-1].content)
        ops = [{"op": "replace", "old": "Oslo", "new": "Rome"}]
        reply = {"verdict": "edit", "reason": "wrong_city", "ops": ops, "rewrite": None, "scores": None}
        return Completion(json.dumps(reply), call_id="call_2")

    mended, dropped = await edit.refine([wrong, bare], ask)
    (prompt,) = prompts
    assert "minLength" in prompt and prompt.endswith("\nError: old")
    assert mended.rewrite.answer == calls(("get_weather", {"city": "Rome"}))
    assert mended.rewrite.attributes == {"tools": TOOLS}
    assert Parent("src_tool", "source") in mended.rewrite.parents
    assert (dropped.action, dropped.reason) == ("drop", "no_source")
