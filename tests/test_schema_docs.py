"""docs/schema.md and the database say the same, and the schema changes only on purpose."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from example_store import fill
from told_history import tell

from factory.store.queries import read
from factory.store.store import Store

ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs/schema.md").read_text()
SNAPSHOT = Path(__file__).with_name("schema_snapshot.txt")
EXAMPLES = re.findall(r"```sql\n(.*?)```", DOCS, re.DOTALL)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory):
    with Store.open(tmp_path_factory.mktemp("empty")) as store:
        yield store


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory):
    """A workspace that has something of everything that the examples ask for."""
    with Store.open(tmp_path_factory.mktemp("filled")) as store:
        tell(store)
        made = fill(store)
        verdict = {"sample_id": made.bad.id, "reviewer": "ann", "action": "keep", "reason": "fine"}
        store.append("verdicts", [verdict])
        batch = {"id": "bat_1", "run_id": "run_a", "model_id": "mdl_teacher", "status": "submitted"}
        store.append("batches", [batch | {"remote_id": "r", "num_requests": 2}])
        measured = {"id": "rev_1", "run_id": "run_a", "model_id": "mdl_refiner", "num_drafts": 1}
        store.append("refiner_evaluations", [measured | {"figures": {"overall": {"f1": 0.5}}}])
        draft = {"evaluation_id": "rev_1", "position": 0, "draft_key": "d1", "kind": "wrong_number"}
        draft |= {"section": "34-9-80", "answer": "In 60 days.", "expected": "In 30 days.", "action": "keep"}
        store.append(
            "refiner_evaluation_items", [draft | {"became": "In 60 days.", "reason": "ok", "call_id": "c"}]
        )
        chosen = {"dataset_id": "dat_s", "sample_id": made.better.id, "chosen": True, "reason": "chosen"}
        left_out = {"dataset_id": "dat_s", "sample_id": made.bad.id, "chosen": False, "reason": "near_chosen"}
        near = {"of": made.better.id, "cosine": 0.99, "score": 1.0}
        store.append("selections", [chosen | {"evidence": {}}, left_out | {"evidence": near}])
        late = {"id": "dat_s", "run_id": "run_a", "round": 1, "num_samples": 1, "guards": {}}
        store.append("datasets", [late])
        row = {"id": "emb_1", "model_id": "mdl_e", "call_id": "call_e", "vector": [0.6, 0.8]}
        store.append("embeddings", [row])
        got_worse = {"id": "evl_w", "run_id": "run_a", "round": 2, "model_id": "mdl_2", "split": "dev"}
        numbers = {"metric": "exact", "num_items": 1, "mean": 0.0, "low": 0.0, "high": 0.9}
        store.append("evaluations", [got_worse | numbers | {"comparison": {"gain": -0.5}}])
        item = {"evaluation_id": "evl_w", "item_key": "i", "slice": "notice", "cluster": "c", "question": "q"}
        store.append(
            "evaluation_items", [item | {"expected": "e", "answer": "a", "score": 0.0, "call_id": "call_w"}]
        )
        store.flush()
        yield store.workspace


def documented() -> dict[str, list[str]]:
    """Column names under each third-level heading, in order."""
    sections = re.split(r"^### ", DOCS, flags=re.MULTILINE)[1:]
    return {
        section.split("\n", 1)[0].strip(): re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        for section in sections
    }


def columns(store: Store) -> dict[str, list[str]]:
    """Each table and view with a line for each column: name, type, and what must hold."""
    keys = store.select(
        "SELECT table_name, constraint_column_names AS names FROM duckdb_constraints() "
        "WHERE constraint_type = 'PRIMARY KEY'"
    )
    keyed = {(key["table_name"], name) for key in keys for name in key["names"]}
    lines: dict[str, list[str]] = {}
    for row in store.select(
        "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() "
        "WHERE NOT internal ORDER BY table_oid, column_index"
    ):
        key = " KEY" if (row["table_name"], row["column_name"]) in keyed else ""
        null = "" if row["is_nullable"] else " NOT NULL"
        line = f"{row['column_name']} {row['data_type']}{key}{null}"
        lines.setdefault(row["table_name"], []).append(line)
    return lines


def snapshot(store: Store) -> str:
    """Tables, views and indexes as one text."""
    lines = []
    for name, found in sorted(columns(store).items()):
        lines += [name, *(f"    {line}" for line in found)]
    for row in store.select("SELECT index_name, table_name, expressions FROM duckdb_indexes() ORDER BY ALL"):
        lines.append(" ".join(map(str, row.values())))
    return "\n".join(lines) + "\n"


def test_every_table_view_and_column_is_documented_and_no_other(store):
    actual = {name: [line.split()[0] for line in lines] for name, lines in columns(store).items()}
    assert documented() == actual


def test_every_section_has_one_example_that_names_it():
    for section in re.split(r"^### ", DOCS, flags=re.MULTILINE)[1:]:
        name = section.split("\n", 1)[0].strip()
        examples = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
        assert len(examples) == 1 and re.search(rf"\b{name}\b", examples[0]), name


@pytest.mark.parametrize("sql", EXAMPLES)
def test_every_example_runs_as_a_user_would_run_it_on_an_empty_workspace(store, sql):
    assert read(store.workspace, sql).columns


@pytest.mark.parametrize("sql", EXAMPLES)
def test_every_example_finds_something_where_there_is_something(filled, sql):
    assert read(filled, sql).rows


def test_the_schema_is_the_one_in_the_snapshot(store):
    """After a change on purpose: write `snapshot(store)` to tests/schema_snapshot.txt."""
    assert snapshot(store) == SNAPSHOT.read_text()
