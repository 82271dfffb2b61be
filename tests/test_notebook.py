"""`factory.open`: SQL in, Arrow, pandas or polars out, beside a run, without holding the file."""

from __future__ import annotations

import subprocess
import sys

import pytest
from example_store import fill

import factory
from factory import notebook
from factory.errors import InputError, WorkspaceError
from factory.store.store import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store)
        yield store


def test_importing_factory_is_instant():
    script = "import sys, factory; factory.open\n"
    script += "assert not {'duckdb', 'pyarrow', 'pandas', 'polars', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_same_answer_beside_a_run_and_after_it(store, tmp_path):
    workspace = factory.open(str(tmp_path))
    sql = "SELECT id, question FROM samples ORDER BY id"
    held = workspace.sql(sql).arrow()
    store.close()
    assert workspace.sql(sql).arrow() == held and held.num_rows == 3


def test_a_workspace_that_is_open_in_a_notebook_keeps_no_run_out(store, tmp_path):
    store.close()
    workspace = factory.open(tmp_path)
    workspace.sql("SELECT 1")
    with Store.open(tmp_path) as again:
        again.append("seeds", [{"id": "seed_2", "key": "k", "prompt": "p", "slice": "s"}])
        again.flush()
        assert len(workspace.sql("FROM seeds")) == 2


def test_within_a_block_the_file_is_opened_once(store, tmp_path, monkeypatch):
    store.close()
    opened = []
    reader = notebook.Reader
    monkeypatch.setattr(notebook, "Reader", lambda folder: opened.append(folder) or reader(folder))
    with factory.open(tmp_path) as workspace:
        assert len(workspace.sql("FROM samples")) == 3
        assert len(workspace.sql("FROM samples WHERE id = ?", ["x"])) == 0
    assert len(opened) == 1
    assert len(workspace.sql("FROM samples")) == 3


def test_a_ready_question_takes_its_parameters_by_name(store, tmp_path):
    workspace = factory.open(tmp_path)
    assert sum(workspace.sql("funnel", {"run": "run_a"}).arrow()["num_final"].to_pylist()) == 3
    assert len(workspace.sql("funnel", {"run": "run_b"})) == 0
    with pytest.raises(InputError, match="by name"):
        workspace.sql("funnel", ["run_a"])
    with pytest.raises(InputError, match="needs before, after"):
        workspace.sql("between-rounds")


def test_sums_are_numbers_in_pandas_and_text_is_text(store, tmp_path):
    pytest.importorskip("pandas")
    answer = factory.open(tmp_path).sql(
        "SELECT sum(num_samples) AS total, 1.25::DECIMAL(4, 2) AS exact, 'x' AS text FROM funnel"
    )
    frame = answer.pandas()
    assert frame["total"].dtype == "float64" and frame["total"][0] == 5.0
    assert str(frame["exact"][0]) == "1.25" and frame["text"][0] == "x"
    assert str(answer.arrow().schema.field("total").type) == "decimal128(38, 0)"
    assert repr(answer) == "Answer(1 rows of total, exact, text)"


def test_polars_gives_the_same_rows(store, tmp_path):
    pytest.importorskip("polars")
    frame = factory.open(tmp_path).sql("SELECT sum(num_samples) AS total FROM funnel").polars()
    assert frame.rows() == [(5.0,)]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_library_that_is_missing_is_one_line(store, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    answer = factory.open(tmp_path).sql("SELECT 1 AS a")
    with pytest.raises(InputError, match=f"{library} is not installed — pip install {library}"):
        getattr(answer, library)()


def test_nothing_can_be_written_and_nothing_is_made(store, tmp_path):
    workspace = factory.open(tmp_path)
    with pytest.raises(InputError, match="refused"):
        workspace.sql("DELETE FROM samples")
    with pytest.raises(WorkspaceError, match="no such folder"):
        factory.open(tmp_path / "nowhere").sql("SELECT 1")
    assert not (tmp_path / "nowhere").exists()
