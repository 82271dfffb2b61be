"""Tool calls: a request with valid calls becomes a sample; each way to break them has its reason."""

from __future__ import annotations

import json
import re

import pytest
from pydantic import ValidationError
from strategy_kit import Teacher, answer, build, check_page, check_repeats, domain_of, fate, generate

from factory.errors import RecipeError
from factory.types import Completion, Parent

PLACES = {"get_weather": "city", "book_room": "hotel", "find_train": "station", "rate": "shop", "call": "who"}


def function(name: str, key: str) -> dict:
    parameters = {"type": "object", "properties": {key: {"type": "string"}}, "required": [key]}
    return {"name": name, "description": f"Takes a {key}.", "parameters": parameters}


@pytest.fixture
def folder(tmp_path):
    tools = [function(name, key) for name, key in PLACES.items()]
    tools[0] = {"type": "function", "function": tools[0]}
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    return tmp_path


def strategy(folder, **options):
    return build("tool_calls", domain_of(folder), tools="tools.json", **options)


def wanted(prompt: str) -> tuple[str, int]:
    """The tool to call and the number of calls."""
    number, tool = re.search(r"exactly (\w+) calls?.*? of (?:them of )?(\w+)[.;]", prompt).groups()
    return tool, 1 if number == "one" else int(number)


class Caller(Teacher):
    """Writes what was asked for; `calls` and `request` are written instead where they are given."""

    def __init__(self, calls=None, request=None) -> None:
        super().__init__(self.write)
        self.calls, self.said = calls, request

    def write(self, prompt: str) -> str | Completion:
        tool, number = wanted(prompt)
        key = PLACES[tool]
        made = [{"name": tool, "arguments": json.dumps({key: f"No. {n}"})} for n in range(number)]
        said = f"Please see to No. 0 to {number - 1}" if self.said is None else self.said
        return answer(request=said, calls=made if self.calls is None else self.calls)


async def test_calls_become_the_answer_and_tools_go_along(folder):
    made = await generate(folder, strategy(folder), Caller(), dict.fromkeys(PLACES, 2))
    assert len(made) == 10
    for task, (sample,) in made:
        tool, number = task.slice, int(sample.attributes["num_calls"])
        assert json.loads(sample.answer) == [
            {"name": tool, "arguments": {PLACES[tool]: f"No. {n}"}} for n in range(number)
        ]
        offered = [each["function"]["name"] for each in json.loads(sample.attributes["tools"])]
        assert len(set(offered)) == 4 and tool in offered
        assert json.loads(sample.attributes["tools"])[0]["type"] == "function"
        assert sample.question.startswith("Please see to") and await fate(sample) == "ok"
        assert [parent.relation for parent in sample.parents] == ["source", "call"]
        assert sample.parents[0] == Parent(task.source.id, "source")
        assert (sample.operation, sample.slice) == ("tool_calls", tool)
    assert {sample.attributes["num_calls"] for _, (sample,) in made} == {"1", "2"}
    places = [
        [each["function"]["name"] for each in json.loads(sample.attributes["tools"])].index(task.slice)
        for task, (sample,) in made
    ]
    assert len(set(places)) > 1  # the tool to call has no fixed place


async def test_the_teacher_sees_the_offered_tools_and_no_others(folder):
    teacher = Caller()
    await generate(folder, strategy(folder, num_offered=2, max_calls=1), teacher, {"rate": 4})
    for prompt in teacher.prompts:
        seen = [json.loads(line)["name"] for line in prompt.splitlines()[2:]]
        assert len(seen) == 2 and "rate" in seen
        assert "exactly one call, of rate." in prompt
    assert len(set(teacher.prompts)) > 1


async def test_more_may_be_asked_for_than_there_is(folder):
    ((_, (sample,)),) = await generate(folder, strategy(folder, num_offered=99), Caller(), {"call": 1})
    assert len(json.loads(sample.attributes["tools"])) == len(PLACES)


ROME = {"name": "get_weather", "arguments": '{"city": "Rome"}'}


@pytest.mark.parametrize(
    ("calls", "request_", "reason", "error"),
    [
        ([ROME], None, None, ""),
        ([{"name": "get_weather", "arguments": {"city": "Rome"}}], None, None, ""),  # no text but an object
        ([{"name": "get_weather", "arguments": '{"town": "Rome"}'}], None, "invalid_arguments", "'city'"),
        ([{"name": "get_weather", "arguments": "Rome"}], None, "unreadable_calls", "arguments"),
        ([{"name": "get_weather", "arguments": "[1]"}], None, "unreadable_calls", "arguments"),
        ([{"name": "get_weather"}], None, "unreadable_calls", "expected"),
        (["get_weather"], None, "unreadable_calls", "expected"),
        ([], None, "unreadable_calls", "expected"),
        ("none", None, "missing_key", "expected"),
        ([{**ROME, "name": "get_wether"}], None, "unknown_tool", "get_wether"),
        ([{"name": "rate", "arguments": '{"shop": "A"}'}], None, "tool_not_called", "get_weather"),
        ([ROME, {"name": "rate", "arguments": '{"shop": "A"}'}], None, "wrong_num_calls", "1 wanted, 2"),
        ([ROME], "Use get_weather for Rome.", "leaked_name", "get_weather"),
        ([ROME], " ", "empty_question", ""),
    ],
)
async def test_what_is_not_as_asked_is_dropped_with_its_evidence(folder, calls, request_, reason, error):
    strategy_ = strategy(folder, max_calls=1, num_offered=5)
    ((_, (sample,)),) = await generate(folder, strategy_, Caller(calls, request_), {"get_weather": 1})
    assert await fate(sample) == (reason or "ok")
    assert error in sample.attributes.get("error", "")
    if reason == "invalid_arguments":
        assert json.loads(sample.answer)[0]["arguments"] == {"town": "Rome"}  # kept for whoever looks


async def test_the_same_call_twice_is_no_pair_of_calls(folder):
    teacher = Caller([ROME, {**ROME, "arguments": '{ "city":"Rome" }'}])
    made = await generate(folder, strategy(folder), teacher, {"get_weather": 2})
    assert {await fate(sample) for _, (sample,) in made} == {"repeated_call", "wrong_num_calls"}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [("No.", "not_json"), (Completion('{"request": "W', "length"), "truncated"), ("[]", "missing_key")],
)
async def test_an_answer_that_cannot_be_read_is_kept_whole(folder, reply, reason):
    ((_, (sample,)),) = await generate(folder, strategy(folder), Teacher(lambda _: reply), {"rate": 1})
    assert await fate(sample) == reason and sample.question == ""
    assert sample.answer == (reply if isinstance(reply, str) else reply.text)


async def test_a_plain_word_may_stand_in_the_request(folder):
    teacher = Caller(request="What is the best rate?")
    ((_, (sample,)),) = await generate(folder, strategy(folder, max_calls=1), teacher, {"rate": 1})
    assert await fate(sample) == "ok"


async def test_running_again_finds_everything_stored(folder):
    await check_repeats(folder, strategy(folder), Caller(), {"rate": 3, "call": 2})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no", "not JSON"),
        ("{}", "list of tools"),
        ("[]", "list of tools"),
        ("[{}]", r"tool 1.*with a name"),
        ('["a"]', r"tool 1.*with a name"),
        (json.dumps([function("a", "x"), function("a", "y")]), r"tool 2.*'a' is taken"),
        ('[{"name": "a"}]', r"tool 1 'a'.*'parameters' must be"),
        (
            '[{"name": "a", "parameters": {"type": "object", "properties": {"b": {"type": "int"}}}}]',
            "not a JSON schema: 'int'",
        ),
    ],
)
def test_a_file_that_holds_no_tools_is_told_with_its_place(tmp_path, content, message):
    (tmp_path / "tools.json").write_text(content)
    with pytest.raises(RecipeError, match=message) as caught:
        strategy(tmp_path)
    assert "tools.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(RecipeError, match="no such file"):
        strategy(tmp_path)


def test_a_changed_tool_is_other_material(folder):
    before = strategy(folder).material
    assert [source.key for source in before] == [f"tool:{name}" for name in PLACES]
    tools = json.loads((folder / "tools.json").read_text())
    tools[1]["description"] = "Other."
    (folder / "tools.json").write_text(json.dumps(tools))
    after = strategy(folder).material
    assert [tool for tool in before if tool not in after] == [before[1]]


def test_options():
    for wrong in ({"num_offered": 0}, {"max_calls": 0}, {"tool": "x"}):
        with pytest.raises((ValidationError, RecipeError)):
            build("tool_calls", domain_of(), tools="tools.json", **wrong)


def test_the_page_says_what_is_so(tmp_path):
    (made,) = check_page("tool_calls", tmp_path)
    assert set(made.slices) == {"get_weather", "book_room"} and made.options.num_offered == 2
