"""The Croissant metadata of an export: accepted by MLCommons' own validator, and read by it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from frozen_dataset import DATASET, freeze
from synthetic_run import HOSTILE, RUN, fill
from test_export_pairs import SAMPLES as PAIRS
from test_export_tools import SAMPLES as TOOLS

from factory.export import export
from factory.store.store import Store

WITHOUT = "mlcroissant is not installed, which is MLCommons' own reader: pip install 'dataset-factory[dev]'"


@pytest.fixture(scope="module", params=["pairs", "tools"])
def exported(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp(request.param)
    with Store.open(folder / "workspace") as store:
        freeze(store, {"pairs": PAIRS, "tools": TOOLS}[request.param])
        export(store, folder / "out", forms=["sharegpt"])
    return folder / "out"


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_it_names_every_file_of_samples_with_its_hash(exported):
    found = json.loads((exported / "croissant.json").read_text("utf-8"))
    files = {path.relative_to(exported).as_posix(): path for path in exported.glob("*/*.*")}
    assert files.keys() == {each["contentUrl"] for each in found["distribution"]} >= {"sharegpt/train.jsonl"}
    for each in found["distribution"]:
        content = files[each["contentUrl"]].read_bytes()
        assert each["sha256"] == hashlib.sha256(content).hexdigest()
        assert each["contentSize"] == f"{len(content)} B"
    assert DATASET in found["description"] and found["license"] == "other"
    names = [each["name"] for each in found["recordSet"]]
    assert names == ["default", "preference"][: len(list(exported.glob("*/train.parquet")))]


def test_its_validator_has_nothing_to_say_and_reads_what_the_files_hold(exported):
    mlcroissant = pytest.importorskip("mlcroissant", reason=WITHOUT)
    dataset = mlcroissant.Dataset(jsonld=str(exported / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert (issues.errors, issues.warnings) == (set(), set())
    for each in dataset.metadata.record_sets:
        folder = {"default": "data"}.get(each.name, each.name)
        found = [plain(record) for record in dataset.records(each.id)]
        assert found == [with_json_as_text(row) for row in lines(exported / folder / "train.jsonl")]


def test_names_of_anybody_are_valid_too(tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant", reason=WITHOUT)
    with Store.open(tmp_path / "workspace") as store:
        fill(store)
        export(store, tmp_path / "out", dataset_id=f"dat_{RUN}_2")
    dataset = mlcroissant.Dataset(jsonld=str(tmp_path / "out" / "croissant.json"))
    assert dataset.metadata.name == "Georgia <b>law</b>" and dataset.metadata.version == "2.0.0"
    assert any(HOSTILE in record["default/question"].decode() for record in dataset.records("default"))


def plain(value: Any) -> Any:
    """A record without the prefixes of its fields' names; texts arrive as bytes."""
    if isinstance(value, dict):
        return {name.rpartition("/")[2]: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.decode() if isinstance(value, bytes) else value


def with_json_as_text(row: Any) -> Any:
    """A line of JSONL as Parquet has it: tools and calls are JSON, which is text to who does not know it."""
    if isinstance(row, list):
        return [with_json_as_text(each) for each in row]
    if not isinstance(row, dict):
        return row
    texts = {name: row[name] and [json.dumps(each) for each in row[name]] for name in row.keys() & JSON}
    return {name: with_json_as_text(inner) for name, inner in row.items()} | texts


JSON = {"tools", "tool_calls"}
