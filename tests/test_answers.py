"""What counts as an answer to a schema, what is mended on the way, and what is never guessed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.answers import is_answer, mended
from factory.edits import EDIT_SCHEMA
from factory.models.scripted import ScriptedModel, echo
from factory.types import Completion, Message, Request, Sampling

PAIR = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["question", "answer"],
    "additionalProperties": False,
}
GOOD = '{"question": "Q?", "answer": "A."}'


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}```",
        f"Sure, here it is:\n\n{GOOD}\n\nI hope that helps.",
        f"\ufeff {GOOD}",
    ],
)
def test_the_one_value_of_a_text_is_found(text):
    answer = mended(Completion(text), PAIR)
    assert json.loads(answer.text) == json.loads(GOOD)
    assert is_answer(answer, PAIR)


def test_a_line_break_within_a_string_is_what_it_says():
    answer = mended(Completion('{"question": "Q?", "answer": "a\nb\tc"}'), PAIR)
    assert answer.json()["answer"] == "a\nb\tc"


@pytest.mark.parametrize(
    "text",
    [
        '{"question": "Q?", "answer": "The term is thirty da',  # closing it would make half an answer whole
        '{"question": "Q?", "answer": "A."',
        '{"question": "Say "yes", or "no": which?", "answer": "A."}',
        "{'question': 'Q?', 'answer': 'A.'}",
        f"{GOOD}\n{GOOD}",
        f"The set {{a, b}}: {GOOD}",
        "",
        "I cannot help with that.",
        "<html>",
        "[" * 100_000,
        "{" * 100_000,
        '{"question": "Q?", "answer": ' + "1" * 5000 + "}",
    ],
)
def test_what_would_have_to_be_guessed_is_left_as_it_is(text):
    answer = mended(Completion(text), PAIR)
    assert answer.text == text
    assert not is_answer(answer, PAIR)


def test_nothing_is_mended_in_an_answer_that_was_cut_off():
    cut = Completion(f"```json\n{GOOD}\nAnd because", finish_reason="length")
    assert mended(cut, PAIR) is cut


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        ({"question": "", "answer": ""}, PAIR, True),
        ({"question": "", "answer": "", "more": 1}, PAIR, True),  # harmless: who reads takes what it knows
        ({"question": ""}, PAIR, False),
        ({"question": "", "answer": 3}, PAIR, False),
        ({"question": "", "answer": None}, PAIR, False),
        ([], PAIR, False),
        ("text", PAIR, False),
        ({"a": ["x", 1]}, {"properties": {"a": {"type": "array", "items": {"type": "string"}}}}, False),
        ({"a": ["x"]}, {"properties": {"a": {"type": "array", "items": {"type": "string"}}}}, True),
        ({}, {"properties": {"a": {"type": "string"}}}, True),
        ({"a": True}, {"properties": {"a": {"type": "integer"}}}, False),
        ({"a": 1.0}, {"properties": {"a": {"type": "integer"}}}, True),
        ({"a": 1}, {"properties": {"a": {"type": "number"}}}, True),
        ({"a": None}, {"properties": {"a": {"type": ["string", "null"]}}}, True),
        ({"a": "no"}, {"properties": {"a": {"enum": ["yes"]}}}, False),
        ({"a": "no"}, {"properties": {"a": {"const": "no"}}}, True),
        ({"a": 1}, {"properties": {"a": {"$ref": "#/$defs/x"}}}, True),  # not looked into
        ({"a": 1}, {"properties": {"a": True}}, True),
        (5, {}, True),
        (5, True, True),
    ],
)
def test_what_a_schema_requires(value, schema, fits):
    assert is_answer(Completion(json.dumps(value)), schema) is fits


async def test_the_scripted_model_answers_the_refiners_schema():
    request = Request("m", (Message("user", "a b c"),), EDIT_SCHEMA, Sampling())
    assert is_answer(await ScriptedModel(echo).complete(request), EDIT_SCHEMA)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), values), st.text(alphabet=st.characters(exclude_characters="{")))
def test_any_object_is_found_among_any_words(value, words):
    text = f"{words}\n{json.dumps(value, ensure_ascii=False)}\n{words}"
    assert mended(Completion(text), {"type": "object"}).json() == value


@given(st.text(), values)
def test_no_answer_and_no_schema_raises(text, schema):
    is_answer(mended(Completion(text), schema), schema)
    is_answer(Completion(json.dumps(schema)), schema)
