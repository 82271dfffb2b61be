"""Values survive the way into the tables and back."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.store.rows import decision_rows, sample_from_row, sample_rows, seed_row, source_row
from factory.store.store import Store
from factory.types import Decision, Message, Parent, Sample, Score, Seed, Source

text = st.text(st.characters(exclude_categories=()), max_size=30)
messages = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), text), min_size=1, max_size=4
)
identities = st.text("abc", min_size=1, max_size=3)
relations = st.sampled_from(["seed", "source", "call", "rewrite_of", "derived_from"])
parents = st.lists(st.builds(Parent, identities, relations), max_size=3, unique=True)
samples = st.builds(Sample.create, messages, parents, text, st.dictionaries(text, text, max_size=3))

READ = """
    SELECT s.*, p.parents FROM samples s LEFT JOIN (
        SELECT child, list({'id': parent, 'relation': relation} ORDER BY rowid) AS parents
        FROM edges GROUP BY child
    ) p ON p.child = s.id WHERE s.id = ?"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory):
    with Store.open(tmp_path_factory.mktemp("shared")) as store:
        yield store


@settings(max_examples=25, deadline=None)
@given(samples)
def test_a_sample_comes_back_from_its_row(shared, sample):
    rows, edges = sample_rows([sample], "run_a", 2)
    shared.append("samples", rows)
    shared.append("edges", edges)
    (row,) = shared.select(READ, (sample.id,))
    # The id is the hash of all but the attributes, so an earlier example may be there already.
    if row["attributes"] == rows[0]["attributes"]:
        assert sample_from_row(row) == sample
    found = sample_from_row(row)
    assert (found.id, found.messages, found.operation) == (sample.id, sample.messages, sample.operation)
    assert found.content_hash == sample.content_hash and set(found.parents) == set(sample.parents)


def test_a_sample_row_carries_slice_strategy_question_and_answer():
    sample = Sample.create(
        [Message("user", "q"), Message("assistant", "a")],
        [Parent("src_1", "source"), Parent("call_1", "call")],
        "grounded",
        {"slice": "notice", "strategy": "grounded"},
    )
    (row,), edges = sample_rows([sample], "run_a", 3)
    assert {"slice": "notice", "strategy": "grounded", "question": "q", "answer": "a"}.items() <= row.items()
    assert (row["run_id"], row["round"], row["operation"]) == ("run_a", 3, "grounded")
    assert edges == [
        {"child": sample.id, "parent": "src_1", "relation": "source"},
        {"child": sample.id, "parent": "call_1", "relation": "call"},
    ]


def test_sample_from_row_takes_the_id_of_a_view():
    row = {"sample_id": "smp_1", "operation": "o", "messages": "[]", "attributes": "{}", "content_hash": "h"}
    assert sample_from_row(row) == Sample("smp_1", (), (), "o", {}, "h")


def test_sources_and_seeds_fit_their_tables(shared):
    source = Source.create("k", "p.md", "§ 1", "title", "text\x00", "notice")
    source = replace(source, start_char=7, end_char=12)
    seed = Seed.create("k", "prompt", "notice")
    shared.append("sources", [source_row(source)])
    shared.append("seeds", [seed_row(seed)])
    assert shared.select("SELECT * EXCLUDE (text) FROM sources") == [
        {"id": source.id, "key": "k", "path": "p.md", "citation": "§ 1", "title": "title", "slice": "notice"}
        | {"start_char": 7, "end_char": 12, "page": None}
    ]
    assert shared.select("SELECT * FROM seeds") == [seed_row(seed)]


def test_decisions_carry_scores_rewrites_and_which_are_final(shared):
    child = Sample.create([Message("assistant", "better")], [Parent("smp_1", "rewrite_of")], "edit", {})
    scores = (Score("smp_1", "style", 0.5, "edit", "mdl"), Score("smp_1", "truth", None, "edit"))
    decisions = [
        Decision("smp_1", "edit", "rewrite", "quantity", child, scores, {"old": ["60"], "bad": math.nan}),
        Decision("smp_2", "edit", "keep", "ok"),
    ]
    rows, score_rows = decision_rows(decisions, "run_a", 1, 4, {"smp_1"})
    shared.append("decisions", rows)
    shared.append("scores", score_rows)
    found = shared.select(
        "SELECT sample_id, step, action, rewrite_id, final FROM decisions ORDER BY sample_id"
    )
    assert [tuple(row.values()) for row in found] == [
        ("smp_1", 4, "rewrite", child.id, True),
        ("smp_2", 4, "keep", None, False),
    ]
    found = shared.select("SELECT metric, value, model_id FROM scores ORDER BY metric")
    assert [tuple(row.values()) for row in found] == [("style", 0.5, "mdl"), ("truth", None, None)]
    assert shared.select("SELECT evidence ->> '$.old[0]' AS old FROM decisions WHERE final") == [
        {"old": "60"}
    ]
