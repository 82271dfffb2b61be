"""ScriptedModel: answers by script, valid under any schema, the same for the same request."""

import json
import time

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.edits import EDIT_SCHEMA
from factory.errors import EndpointError
from factory.models.scripted import SCRIPTS, ScriptedModel, echo
from factory.types import Completion, Message, Request, Sampling


def request(text="one two three four", schema=None, seed=None, ordinal=0) -> Request:
    return Request("scripted", (Message("user", text),), schema, Sampling(seed=seed), ordinal)


async def test_text_completion_exception_and_latency():
    answers = {
        "a": "two words",
        "b": Completion("x", "length", "why", 5, 6),
        "c": EndpointError("no", kind="timeout"),
    }
    model = ScriptedModel(lambda r: answers[r.messages[-1].content], latency_seconds=0.05)
    began = time.monotonic()
    found = await model.complete(request("a"))
    assert time.monotonic() - began >= 0.05
    assert (found.text, found.prompt_tokens, found.completion_tokens) == ("two words", 1, 2)
    assert found.latency_ms >= 50
    found = await model.complete(request("b"))
    assert (found.finish_reason, found.reasoning, found.completion_tokens) == ("length", "why", 6)
    with pytest.raises(EndpointError, match="no"):
        await model.complete(request("c"))
    await model.close()


def test_it_says_what_it_is():
    assert ScriptedModel(echo, "echo").id == "scripted:echo"
    assert "echo" in SCRIPTS


leaves = st.one_of(
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 40)),
    st.builds(lambda n: {"type": "string", "minLength": n}, st.integers(0, 200)),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more}, *[st.integers(0, 9)] * 2
    ),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, st.integers(-5, 9)),
    st.just({"type": "number", "maximum": -3}),
    st.builds(lambda values: {"enum": values}, st.lists(st.text(), min_size=1)),
    st.just({"type": "boolean"}),
    st.just({"type": ["string", "null"]}),
    st.just({"const": 7}),
    st.just({"$ref": "#/$defs/part"}),
)
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda item, n: {"type": "array", "items": item, "minItems": n}, inner, st.integers(0, 3)),
        st.builds(lambda choices: {"anyOf": choices}, st.lists(inner, min_size=1, max_size=2)),
        st.dictionaries(st.text(min_size=1), inner, max_size=3).map(
            lambda parts: {
                "type": "object",
                "properties": parts,
                "required": list(parts),
                "additionalProperties": False,
            }
        ),
    ),
    max_leaves=6,
)


@given(schemas, st.text(), st.none() | st.integers())
def test_echo_fits_any_schema(schema, text, seed):
    whole = {
        "type": "object",
        "properties": {"x": schema},
        "required": ["x"],
        "$defs": {"part": {"type": "string"}},
    }
    jsonschema.validate(json.loads(echo(request(text, whole, seed))), whole)


def test_echo_fits_the_refiners_schema():
    jsonschema.validate(json.loads(echo(request(schema=EDIT_SCHEMA))), EDIT_SCHEMA)


def test_echo_is_made_of_the_prompt_and_differs_where_the_request_does():
    prompt = " ".join(f"w{n}" for n in range(500))
    schema = {"type": "object", "properties": {"q": {"type": "string"}, "a": {"type": "string"}}}
    found = json.loads(echo(request(prompt, schema)))
    assert found["q"] in prompt
    assert found["a"] in prompt
    assert found["q"] != found["a"]
    answers = {echo(request(prompt, schema, seed, n)) for seed in range(5) for n in range(5)}
    assert len(answers) > 20
    assert echo(request(prompt, schema, 3)) == echo(request(prompt, schema, 3))
