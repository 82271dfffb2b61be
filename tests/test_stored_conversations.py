"""Conversations and derived samples in the store: followed, exported, traced and accounted for."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from example_store import call

from factory.evaluations import TOKENS
from factory.export import export
from factory.findings import collect
from factory.store.rows import decision_rows, sample_rows, source_row
from factory.store.store import Store
from factory.store.trace import trace
from factory.types import Decision, Message, Parent, Sample, Source

SOURCE = Source.create("34-9-80", "handbook.md", "§ 34-9-80", "Notice", "Within 30 days.", "notice")
ATTRIBUTES = {"slice": "notice", "strategy": "dialogue"}
TURNS = [
    Message("system", "Be brief."),
    Message("user", "When?"),
    Message("assistant", "Within 21 days."),
    Message("user", "To whom?"),
    Message("assistant", "To the employer."),
]


def dialogue() -> Sample:
    parents = [Parent(SOURCE.id, "source"), Parent("call_1", "call")]
    return Sample.create(TURNS, parents, "dialogue", ATTRIBUTES)


def derived(original: Sample) -> Sample:
    messages = [Message("user", f"So {m.content}") if m.role == "user" else m for m in original.messages]
    parents = [Parent(original.id, "derived_from"), Parent("call_2", "call")]
    return Sample.create(messages, parents, "paraphrase", ATTRIBUTES)


def mended(sample: Sample) -> Sample:
    messages = [Message("assistant", "Within 30 days.") if "21" in m.content else m for m in sample.messages]
    parents = [Parent(sample.id, "rewrite_of"), Parent("call_3", "call"), Parent("call_4", "call")]
    return Sample.create(messages, parents, "edit", ATTRIBUTES)


@pytest.fixture
def store(tmp_path: Path):
    """A dialogue that was rewritten, its paraphrase that was kept after a call for each answer."""
    first = dialogue()
    better, second = mended(first), derived(first)
    run = {"recipe": "r", "digest": "d", "config": {}, "version": "0", "started_at": datetime.now(UTC)}
    decisions = [
        Decision(first.id, "edit", "rewrite", "unit", better, (), {"calls": ["call_3", "call_4"]}),
        Decision(better.id, "edit", "keep", "ok"),
        Decision(second.id, "edit", "keep", "ok", None, (), {"calls": ["call_5", "call_6"]}),
    ]
    refine = {"stage": "refine", "role": "refiner"}
    with Store.open(tmp_path / "workspace") as store:
        store.append("runs", [{"id": "run_a", **run}])
        store.append("sources", [source_row(SOURCE)])
        store.append("calls", [call("call_1"), call("call_2")])
        store.append("calls", [call(f"call_{n}", **refine) for n in (3, 4, 5, 6, 7)])
        rows, edges = sample_rows([first, better, second], "run_a", 1)
        store.append("samples", rows)
        store.append("edges", edges)
        places = [(0, first.id), (1, second.id)]
        place = {"run_id": "run_a", "round": 1}
        store.append("round_samples", [{**place, "position": at, "sample_id": each} for at, each in places])
        rows, _ = decision_rows(decisions, "run_a", 1, 0, [first.id, better.id, second.id])
        store.append("decisions", rows)
        store.append("datasets", [{"id": "dat_1", **place, "num_samples": 2, "guards": {}}])
        members = [{"dataset_id": "dat_1", "sample_id": each.id} for each in (better, second)]
        store.append("dataset_samples", [{**each, "position": at} for at, each in enumerate(members)])
        frozen = {"stage": "freeze", "status": "done", "detail": {"dataset": "dat_1"}}
        store.append("stages", [{**place, **frozen}])
        store.flush()
        yield store


def test_an_export_has_every_turn_and_the_source_of_what_was_derived(store: Store, tmp_path: Path) -> None:
    export(store, tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out/data/train.jsonl").read_text().splitlines()]
    contents = [[message["content"] for message in line["messages"]] for line in lines]
    assert contents == [
        ["Be brief.", "When?", "Within 30 days.", "To whom?", "To the employer."],
        ["Be brief.", "So When?", "Within 21 days.", "So To whom?", "To the employer."],
    ]
    assert [line["messages"][0]["role"] for line in lines] == ["system", "system"]
    assert [(line["source_key"], line["source_citation"]) for line in lines] == [("34-9-80", "§ 34-9-80")] * 2
    assert [(line["question"], line["answer"]) for line in lines] == [
        ("To whom?", "To the employer."),
        ("So To whom?", "To the employer."),
    ]


def test_lineage_reaches_the_source_through_the_original(store: Store) -> None:
    first, second = dialogue(), derived(dialogue())
    rows = store.select(
        "SELECT ancestor, kind, relation, depth FROM lineage WHERE sample_id = ? ORDER BY depth, ancestor",
        (second.id,),
    )
    assert [tuple(row.values()) for row in rows] == [
        ("call_2", "call", "call", 1),
        (first.id, "sample", "derived_from", 1),
        ("call_1", "call", "call", 2),
        (SOURCE.id, "source", "source", 2),
    ]


def test_a_trace_goes_through_the_original_both_ways(store: Store) -> None:
    first, second = dialogue(), derived(dialogue())
    up = {node.id: node for node in trace(store, second.id).ancestors.children}
    assert (up[first.id].kind, up[first.id].relation) == ("sample", "derived_from")
    assert SOURCE.id in {node.id for node in up[first.id].children}
    down = {node.id: node for node in trace(store, first.id).descendants.children}
    assert (down[second.id].kind, down[second.id].relation) == ("sample", "derived_from")


def test_every_call_about_a_conversation_is_used(store: Store) -> None:
    spend = {each.role: each for each in collect(store).spend}
    assert (spend["teacher"].num_calls, spend["teacher"].num_unused) == (2, 0)
    assert (spend["refiner"].num_calls, spend["refiner"].num_unused) == (5, 1)  # call_7


def test_the_tokens_of_a_slice_count_every_call_about_a_conversation(store: Store) -> None:
    assert store.select(TOKENS, ("run_a", 1)) == [{"slice": "notice", "tokens": 6 * 15}]


def test_the_report_shows_the_answer_that_was_mended(store: Store) -> None:
    (reason,) = collect(store).reasons
    (example,) = reason.examples
    assert (example.question, example.answer) == ("When?", "Within 21 days.")
    assert example.became == "Within 30 days."
