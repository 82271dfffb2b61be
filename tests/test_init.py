from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory import cli
from factory.check import check_recipe
from factory.errors import InputError
from factory.init import write_template


@pytest.mark.parametrize("profile", [None, "endpoint", "one_gpu"])
def test_what_is_written_passes_the_check_as_it_stands(tmp_path: Path, profile: str | None) -> None:
    write_template(tmp_path)
    summary = check_recipe(tmp_path, profile)
    assert summary["slices"][-1] == {
        "slice": "all",
        "sources": 5,
        "seeds": 5,
        "dev": 3,
        "test": 3,
        "drafts": 3,
    }


def test_the_files_are_listed_and_all_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", str(tmp_path / "a" / "b"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    there = [str(path.relative_to(tmp_path / "a" / "b")) for path in (tmp_path / "a" / "b").rglob("*.*")]
    assert sorted(said["files"]) == sorted(there)
    assert "profiles/endpoint.yaml" in said["files"]


def test_nothing_that_is_there_is_touched(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_template(tmp_path)
    with pytest.raises(InputError, match="not empty"):
        write_template(tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match="cannot be written"):
        write_template(tmp_path / "recipe.yaml" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


def test_the_first_line_a_person_reads_says_that_no_model_answers(tmp_path: Path) -> None:
    write_template(tmp_path)
    assert "DRY RUN" in (tmp_path / "recipe.yaml").read_text()
    assert "dry run" in check_recipe(tmp_path)["models"][0]["found"]


def test_what_is_written_runs_to_its_end_and_says_that_it_is_a_dry_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_template(tmp_path / "domain")
    assert cli.main(["run", str(tmp_path / "domain"), "-w", str(tmp_path / "w")]) == 0
    printed = capsys.readouterr()
    assert "DRY RUN" in printed.err
    assert "24 samples generated" in printed.out
    assert f"--workspace {tmp_path / 'w'}" in printed.out
    assert cli.main(["status", "-w", str(tmp_path / "w"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "done"


def test_a_preview_shows_samples_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_template(tmp_path / "domain")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert cli.main(["preview", str(tmp_path / "domain"), "--count", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["samples"]) == 3
    assert list((tmp_path / "here").iterdir()) == []
