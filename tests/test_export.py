"""An export is whole or absent, and the datasets library reads both of its formats."""

import json
import os
import re

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import HOSTILE, RUN, fill

import factory.export_files
from factory.card import markdown
from factory.errors import FactoryError, GuardTripped, InputError, WorkspaceError
from factory.export import export
from factory.store.store import Store

COLUMNS = {
    "messages",
    "question",
    "answer",
    "slice",
    "strategy",
    "sample_id",
    "source_citation",
    "source_key",
    "round",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("workspace")) as store:
        fill(store)
        yield store


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    directory = tmp_path_factory.mktemp("out") / "dataset"
    original, factory.export_files.PAGE_SIZE = factory.export_files.PAGE_SIZE, 5
    try:
        result = export(store, directory)
    finally:
        factory.export_files.PAGE_SIZE = original
    assert result["files"] == ["README.md", "croissant.json", "data/train.jsonl", "data/train.parquet"]
    assert (result["dataset"], result["num_samples"]) == (f"dat_{RUN}_2", 24)
    return directory


def test_both_files_hold_the_dataset_in_order(store, exported):
    lines = [json.loads(line) for line in (exported / "data/train.jsonl").read_text("utf-8").splitlines()]
    assert pq.read_table(exported / "data/train.parquet").to_pylist() == lines
    expected = store.select(
        "SELECT sample_id FROM dataset_samples WHERE dataset_id = ? ORDER BY position", (f"dat_{RUN}_2",)
    )
    assert [line["sample_id"] for line in lines] == [row["sample_id"] for row in expected]
    assert {frozenset(line) for line in lines} == {frozenset(COLUMNS)}


def test_rewritten_samples_carry_the_source_of_their_ancestor(exported):
    lines = [json.loads(line) for line in (exported / "data/train.jsonl").read_text("utf-8").splitlines()]
    rewritten = [line for line in lines if line["answer"].startswith("30 days")]
    assert len(rewritten) == 8
    assert {(line["source_key"], line["source_citation"]) for line in rewritten} == {
        ("key-death_benefits", "§ 34-9-0"),
        ("key-fees", "§ 34-9-1"),
        ("key-income_benefits", "§ 34-9-2"),
        ("key-medical", "§ 34-9-3"),
    }
    assert any(HOSTILE in line["question"] for line in lines)
    assert all([m["role"] for m in line["messages"]] == ["user", "assistant"] for line in lines)
    assert all(line["messages"][1]["content"] == line["answer"] for line in lines)


def test_datasets_library_loads_both_formats_offline(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    cache = str(tmp_path)
    parquet = load_dataset(str(exported), cache_dir=cache)
    assert list(parquet) == ["train"]
    jsonl = load_dataset("json", data_files=str(exported / "data/train.jsonl"), cache_dir=cache)
    assert parquet["train"].num_rows == jsonl["train"].num_rows == 24
    assert set(parquet["train"].column_names) == COLUMNS
    assert parquet["train"][0] == jsonl["train"][0]


def test_card_counts_what_the_files_hold(exported):
    card = (exported / "README.md").read_text("utf-8")
    _, front, text = card.split("---\n", 2)
    meta = yaml.safe_load(front)
    assert meta["license"] == "other"
    assert meta["configs"][0]["data_files"] == [{"split": "train", "path": "data/train.parquet"}]
    assert meta["pretty_name"] == "Georgia <b>law</b>"
    assert "# Georgia &lt;b>law" in text
    assert "| death\\_benefits | 6 |" in text
    assert "| grounded | 24 |" in text
    assert "| 1 | 12 |" in text
    assert "| form | 40 | 36 | 0 | 4 |" in text
    assert "| teacher | big with adapter teacher | mdl\\_teacher | 32 |" in text
    assert "| refiner | – | mdl\\_refiner | 8 |" in text
    assert "d1g" in text


def test_lineage_query_of_the_card_runs(store, exported):
    (sql,) = re.findall(r"```sql\n(.*?)```", (exported / "README.md").read_text("utf-8"), re.DOTALL)
    relations = {row["relation"] for row in store.select(sql)}
    assert {"itself", "source", "call"} <= relations


def test_a_control_can_be_named(store, tmp_path):
    result = export(store, tmp_path / "raw", run_id=f"{RUN}_raw")
    assert (result["dataset"], result["num_samples"]) == (f"dat_{RUN}_raw_1", 16)
    assert "| teacher | big with adapter teacher | mdl\\_teacher | 16 |" in (
        tmp_path / "raw/README.md"
    ).read_text("utf-8")
    assert export(store, tmp_path / "one", dataset_id=f"dat_{RUN}_1")["num_samples"] == 12


def test_folder_with_something_in_it_is_left_alone(store, tmp_path):
    (tmp_path / "kept").write_text("mine")
    with pytest.raises(InputError, match="something already"):
        export(store, tmp_path)
    with pytest.raises(InputError, match="something already"):
        export(store, tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    (tmp_path / "empty").mkdir()
    assert export(store, tmp_path / "empty")["num_samples"] == 24


def test_unknown_run_or_dataset_is_refused(store, tmp_path):
    with pytest.raises(InputError, match="no run 'x'"):
        export(store, tmp_path / "out", run_id="x")
    with pytest.raises(InputError, match="no dataset 'x'"):
        export(store, tmp_path / "out", dataset_id="x")
    assert not list(tmp_path.iterdir())


def test_failed_export_leaves_nothing(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        export(store, tmp_path / "file" / "below")
    row = {"id": "dat_short", "run_id": "other", "round": 1, "num_samples": 3, "guards": {}}
    event = {"run_id": "other", "round": 1, "stage": "freeze", "status": "done"}
    store.append("datasets", [row])
    store.append("stages", [{**event, "detail": {"dataset": "dat_short"}}])
    with pytest.raises(FactoryError, match="3 samples but 0 were found"):
        export(store, tmp_path / "out", dataset_id="dat_short")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_dataset_that_no_guard_has_passed_is_refused(store, tmp_path):
    row = {"id": "dat_cut", "run_id": "cut", "round": 1, "num_samples": 3, "guards": {}}
    event = {"run_id": "cut", "round": 1, "stage": "freeze", "detail": {}}
    store.append("datasets", [row])
    store.append("stages", [{**event, "status": "started"}])
    with pytest.raises(GuardTripped, match="cut off"):
        export(store, tmp_path / "out", dataset_id="dat_cut")
    evidence = {"dataset": "dat_cut", "error": "GuardTripped: guard.min_samples: only 3 accepted samples"}
    store.append("stages", [{**event, "status": "failed", "detail": evidence}])
    with pytest.raises(GuardTripped, match=r"stopped this dataset: guard\.min_samples: only 3") as caught:
        export(store, tmp_path / "out", dataset_id="dat_cut")
    assert caught.value.exit_code == 1 and caught.value.hint
    assert not list(tmp_path.iterdir())


@given(st.text())
def test_markdown_is_one_line_without_markup(text):
    line = markdown(text)
    assert "\n" not in line
    assert "<" not in line
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`\[]", line)
