"""The views answer what docs/schema.md says they answer, on a run small enough to count by hand."""

from __future__ import annotations

import re

import pytest
from example_store import Example, call, fill

from factory.store.store import Store

VIEWS = [
    "outcomes",
    *("funnel", "lineage", "accepted", "rejected", "spend", "spend_per_sample", "failures", "edits"),
    *("slice_progress", "figures", "model_history", "agreement", "standing_verdicts"),
    "latest_run",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory):
    with Store.open(tmp_path_factory.mktemp("run")) as store:
        yield store, fill(store)


def rows(store: Store, sql: str) -> list[tuple]:
    return [tuple(row.values()) for row in store.select(sql)]


def test_funnel_counts_add_up(run):
    store, _ = run
    assert rows(
        store, "SELECT step, refiner, action, reason, num_samples, num_final FROM funnel ORDER BY 1, 3, 4"
    ) == [
        (0, "form", "drop", "not_json", 1, 1),
        (0, "form", "keep", "ok", 2, 0),
        (1, "edit", "rewrite", "wrong_quantity", 1, 1),
        (2, "citation", "keep", "ok", 1, 1),
    ]
    assert rows(store, "SELECT sum(num_samples), sum(num_final) FROM funnel WHERE run_id = 'run_a'") == [
        (5, 3)
    ]
    assert rows(store, "SELECT DISTINCT round, strategy, slice FROM funnel") == [(1, "grounded", "notice")]


def test_lineage_reaches_the_source_through_the_rewritten_sample(run):
    store, made = run
    found = rows(
        store,
        "SELECT ancestor, kind, child, depth FROM lineage "
        f"WHERE sample_id = '{made.better.id}' ORDER BY depth, kind",
    )
    assert found == [
        ("call_3", "call", made.better.id, 1),
        (made.good.id, "sample", made.better.id, 1),
        ("call_1", "call", made.good.id, 2),
        (made.seed.id, "seed", made.good.id, 2),
        (made.source.id, "source", made.good.id, 2),
    ]


def test_lineage_ends_even_if_edges_were_written_in_a_circle(tmp_path):
    with Store.open(tmp_path) as store:
        circle = [("smp_1", "smp_2"), ("smp_2", "smp_1")]
        store.append("edges", [{"child": c, "parent": p, "relation": "rewrite_of"} for c, p in circle])
        assert rows(store, "SELECT max(depth) FROM lineage") == [(64,)]


def test_accepted_and_rejected_part_the_samples(run):
    store, made = run
    assert rows(store, "SELECT run_id, round, sample_id, answer FROM accepted") == [
        ("run_a", 1, made.better.id, "Within 30 days.")
    ]
    assert rows(
        store, "SELECT sample_id, fate, refiner, reason, superseded_by FROM rejected ORDER BY fate"
    ) == [
        (made.bad.id, "dropped", "form", "not_json", None),
        (made.good.id, "superseded", "edit", "wrong_quantity", made.better.id),
    ]


def test_spend_counts_failures_tokens_and_seconds(run):
    store, _ = run
    assert rows(store, "SELECT * FROM spend ORDER BY stage") == [
        ("run_a", 1, "generate", "teacher", "mdl_teacher", 3, 1, 5, 30, 10, 1.5, 0.75),
        ("run_a", 1, "refine", "refiner", "mdl_refiner", 1, 0, 1, 10, 5, 0.5, 0.25),
    ]


def test_slice_progress_averages_items(run):
    store, _ = run
    assert rows(
        store, "SELECT run_id, round, split, slice, accuracy, num_items FROM slice_progress ORDER BY slice"
    ) == [("run_a", 1, "dev", "benefits", 1.0, 2), ("run_a", 1, "dev", "notice", 0.5, 2)]


def test_model_history_joins_dataset_evaluation_and_gate(run):
    store, _ = run
    assert rows(
        store,
        "SELECT round, model_id, dataset_id, num_samples, mean, compared_with, gain, p_value, promote, "
        "reason FROM model_history WHERE run_id = 'run_a'",
    ) == [(1, "mdl_student", "dat_1", 1, 0.75, "mdl_base", 0.5, 0.03, True, "gain")]
    assert rows(store, "SELECT run_id, split FROM model_history WHERE role = 'teacher'") == [(None, None)]


def test_funnel_counts_decisions_whose_sample_is_missing(tmp_path):
    row = {"run_id": "r", "round": 1, "sample_id": "smp_gone", "step": 0, "refiner": "form", "action": "keep"}
    with Store.open(tmp_path) as store:
        store.append("decisions", [row | {"reason": "ok", "evidence": {}, "final": True}])
        assert rows(store, "SELECT strategy, slice, num_samples FROM funnel") == [(None, None, 1)]


def test_views_are_made_anew_at_each_opening(tmp_path):
    with Store.open(tmp_path) as store:
        store.execute_insert("CREATE OR REPLACE VIEW spend AS SELECT 1 AS old")
    with Store.open(tmp_path) as store:
        store.append("calls", [call("call_1")])
        assert rows(store, "SELECT num_calls FROM spend") == [(1,)]


@pytest.mark.parametrize("view", VIEWS)
def test_no_view_compares_every_row_with_every_other(run, view):
    store, _ = run
    assert quadratic(store, "SELECT * FROM edges a, edges b") == {"Cross Product"}
    assert quadratic(store, "SELECT * FROM edges a JOIN edges b ON a.child || b.child = 'x'")
    assert not quadratic(store, f"SELECT * FROM {view}")


def quadratic(store: Store, sql: str) -> set[str]:
    plan = store.select(f"EXPLAIN {sql}")[0]["explain_value"]
    return set(re.findall("Cross Product|Nested Loop|Nl Join|Piecewise Merge", plan))


def test_every_ancestor_of_the_accepted_is_a_seed_source_call_or_sample(run):
    store, made = run
    assert isinstance(made, Example)
    roots = rows(
        store,
        "SELECT DISTINCT kind FROM accepted JOIN lineage USING (sample_id) ORDER BY kind",
    )
    assert roots == [("call",), ("sample",), ("seed",), ("source",)]


def test_no_view_is_missing_here(run):
    store, _ = run
    found = {name for (name,) in rows(store, "SELECT view_name FROM duckdb_views() WHERE NOT internal")}
    assert found == set(VIEWS)


def test_what_an_accepted_sample_took(run):
    store, _ = run
    assert rows(store, "SELECT * FROM spend_per_sample ORDER BY stage") == [
        ("run_a", "generate", "teacher", "mdl_teacher", 3, 40, 1.5, 1, 3.0, 40.0, 1.5),
        ("run_a", "refine", "refiner", "mdl_refiner", 1, 15, 0.5, 1, 1.0, 15.0, 0.5),
    ]


def test_a_run_without_an_accepted_sample_has_no_price_for_one(tmp_path):
    with Store.open(tmp_path) as store:
        store.append("calls", [call("call_1")])
        found = rows(store, "SELECT num_calls, num_accepted, tokens_per_sample FROM spend_per_sample")
    assert found == [(1, 0, None)]


def test_an_edit_without_operations_is_a_whole_answer(run):
    store, _ = run
    assert rows(store, "SELECT * FROM edits") == [
        ("run_a", 1, "edit", "wrong_quantity", "whole answer", 1, 0, 1, 0)
    ]


def test_figures_are_the_counts_of_the_other_views(run):
    store, _ = run
    found = {tuple(row[:2]): row[2] for row in rows(store, "SELECT kind, name, value FROM figures")}
    assert found["samples", "dropped"] == found["dropped by", "form: not_json"] == 1
    assert found["accuracy", "dev, all"] == 0.75 and found["accuracy", "dev, notice"] == 0.5
    assert found["dollars", "generate, teacher"] == 1.5
    assert ("samples", "generated") not in found  # the plan of its rounds is not in this store
