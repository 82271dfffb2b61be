"""Identities are a promise: what is stored today is found by the same hash tomorrow."""

from hypothesis import given
from hypothesis import strategies as st

from factory.digests import canonical, canonical_pairs
from factory.types import Message, Parent, Request, Sample, Sampling, digest

SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["question", "answer"],
    "additionalProperties": False,
}
MESSAGES = (
    Message("system", "Sei kurz."),
    Message("user", 'Was gilt nach § 34-9-80? \U0001f600 "x"\n\ud800'),
)
REQUEST = Request("model_1", MESSAGES, SCHEMA, Sampling(0.7, 0.9, 256, 12345), 3)


def test_the_identity_of_a_request_does_not_change_between_versions():
    assert REQUEST.id == "call_d93a0667691d4c5a92c2"


def test_the_identity_of_a_sample_does_not_change_between_versions():
    sample = Sample.create(
        [Message("user", "Wie lange? \u2028"), Message("assistant", "30 Tage (§ 34-9-80). \ud800")],
        [Parent("src_1", "source"), Parent(REQUEST.id, "call")],
        "grounded",
        {"slice": "fees"},
    )
    assert (sample.id, sample.content_hash) == ("smp_dcc6f3ebfa5339461d28", "94f0f5001e15ffd9827e")


def test_digests_do_not_change_between_versions():
    assert digest([0, MESSAGES, 3], 8) == "09bd09cf"
    assert digest({"b": 1.0, "a": [None, True, 1e-9]}) == "cad53a23c893f575e618"


@given(st.lists(st.text()), st.lists(st.text()), st.text())
def test_a_sample_is_the_hash_of_content_parents_and_operation(contents, parents, operation):
    messages = [Message("user", content) for content in contents]
    sample = Sample.create(messages, [Parent(each, "call") for each in parents], operation, {})
    content = [["user", each] for each in contents]
    assert sample.content_hash == digest(content)
    assert sample.id == "smp_" + digest([content, [[each, "call"] for each in parents], operation])


@given(st.lists(st.tuples(st.text(), st.text())))
def test_pairs_are_the_same_text_by_the_shorter_way(pairs):
    assert canonical_pairs(pairs) == canonical(pairs)


@given(st.lists(st.text()), st.text(), st.floats(0, 2), st.lists(st.dictionaries(st.text(), st.floats())))
def test_a_request_is_the_hash_of_everything_that_is_sent(contents, model, temperature, tools):
    messages = tuple(Message("user", content) for content in contents)
    request = Request(model, messages, SCHEMA, Sampling(temperature, 1.0, 9), 2, "", tuple(tools), "hermes")
    further = [{"tools": tools, "parser": "hermes"}] if tools else []
    what = [model, messages, SCHEMA, [temperature, 1.0, 9, None], 2, *further]
    assert request.id == "call_" + digest(what)
