"""Verdicts to files and back: ours lose nothing, Argilla's are read and written, none comes in twice."""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from factory import cli
from factory.argilla import user_id
from factory.audit.access import Access
from factory.errors import InputError
from factory.store.queries import Reader, read
from factory.store.store import Store
from factory.verdict_files import read_verdicts, write_lines, write_records

SAMPLE = {
    "run_id": "run_1", "round": 1, "strategy": "grounded", "operation": "grounded",
    "slice": "a", "question": "Why?", "answer": "So.", "messages": [], "attributes": {}, "content_hash": "h",
}  # fmt: skip
ALL = "SELECT * FROM verdicts ORDER BY created_at, rowid"


def new_workspace(folder: Path, *sample_ids: str) -> Path:
    with Store.open(folder) as store:
        store.append("samples", [{**SAMPLE, "id": each} for each in sample_ids])
        source = {"id": "src_1", "key": "k", "path": "p", "citation": "c", "title": "t", "slice": "a"}
        store.append("sources", [{**source, "text": "Text."}])
        store.append("edges", [{"child": "smp_1", "parent": "src_1", "relation": "source"}])
    return folder


def say(workspace: Path, *rows: dict[str, Any]) -> None:
    with Access(workspace) as access:
        access.add_verdicts([{"sample_id": "smp_1", "reviewer": "Ada", "reason": "r", **row} for row in rows])


def take(workspace: Path, path: Path, reviewer: str = "") -> Any:
    with Access(workspace) as access:
        return read_verdicts(path, access, reviewer)


def lines_of(workspace: Path, path: Path) -> list[str]:
    with Reader(workspace) as reader:
        write_lines(reader, path)
    return path.read_text().splitlines()


TEXT = st.text(alphabet=st.characters(codec=None), min_size=1, max_size=30).filter(lambda text: text.strip())
ROW = st.fixed_dictionaries(
    {
        "sample_id": st.sampled_from(["smp_1", "smp_2"]),
        "reviewer": st.one_of(st.sampled_from(["Ada", "Bob"]), TEXT),
        "action": st.sampled_from(["keep", "drop", "edit", "withdrawn"]),
        "reason": st.from_regex(r"[a-z0-9_]{1,40}", fullmatch=True),
        "corrected": TEXT,
        "created_at": st.datetimes(max_value=datetime(2025, 1, 1), timezones=st.timezones()).map(
            lambda time: time.isoformat()
        ),
    }
)


HALF = {"sample_id": "smp_1", "reviewer": "\ud800", "action": "keep", "reason": "0", "corrected": "0"}


@settings(max_examples=25)
@given(st.lists(ROW, max_size=8))
@example([{**HALF, "created_at": "2000-01-01T00:00:00+00:00"}])
def test_our_own_lines_lose_nothing_and_come_in_once(rows: list[dict[str, Any]]) -> None:
    rows = [row if row["action"] == "edit" else {**row, "corrected": None} for row in rows]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, second = (new_workspace(folder / each, "smp_1", "smp_2") for each in "ab")
        say(first, *rows)
        lines = lines_of(first, folder / "lines")
        assert len(lines) == len(rows)
        for line, row in zip(lines, rows, strict=True):
            told = json.loads(line)
            assert {name: told[name] for name in row if name != "created_at"} == {
                name: value for name, value in row.items() if name != "created_at"
            }
        found = take(second, folder / "lines") if rows else None
        distinct = list(dict.fromkeys(lines))
        assert lines_of(second, folder / "again") == distinct
        if found:
            assert (found.num_read, found.num_added) == (len(rows), len(distinct))
            again = take(second, folder / "lines")
            assert (again.num_added, again.num_already_there) == (0, len(rows))


def test_what_cannot_be_taken_is_counted_by_reason(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "w", "smp_1")
    good = {"sample_id": "smp_1", "action": "keep", "reason": "ok"}
    lines = [
        {**good, "reviewer": "Bob"},
        good,
        {**good, "sample_id": "smp_9", "reviewer": "Bob"},
        {**good, "sample_id": "\ud800", "reviewer": "Bob"},
        {**good, "action": "burn", "reviewer": "Bob"},
        {**good, "created_at": "yesterday", "reviewer": "Bob"},
        7,
    ]
    (tmp_path / "f").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    found = take(workspace, tmp_path / "f")
    assert (found.num_read, found.num_added, found.num_already_there) == (7, 1, 0)
    assert found.refused == {"unclear": 4, "unknown_sample": 2}
    assert [each["number"] for each in found.examples] == [2, 5, 6, 7, 3]
    again = take(workspace, tmp_path / "f", "Cleo")
    assert (again.num_added, again.num_already_there) == (1, 1)
    told = read(workspace, "SELECT reviewer, action FROM verdicts ORDER BY reviewer").rows
    assert told == (("Bob", "keep"), ("Cleo", "keep"))


def test_what_was_said_before_and_changed_since_is_not_said_again_without_a_time(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "w", "smp_1")
    say(workspace, {"action": "keep"}, {"action": "drop"})
    line = {"sample_id": "smp_1", "reviewer": "Ada", "reason": "r"}
    lines = [{**line, "action": "drop"}, {**line, "action": "keep"}]
    (tmp_path / "f").write_text("\n".join(map(json.dumps, lines)))
    found = take(workspace, tmp_path / "f")
    assert (found.num_added, found.num_already_there, found.refused) == (0, 1, {"said_before": 1})


# Written by `JsonIO.to_json` of argilla 2.8.0, with a second user and an answer that is no more than a draft.
ADA, BOB = "35f4f60d-2941-5f29-bcff-62e51c272c68", "11111111-2941-5f29-bcff-62e51c272c68"
RECORDS = [
    {
        "id": "smp_1", "fields": {"question": "q", "answer": "a"}, "metadata": {"slice": "x", "n": 1},
        "suggestions": {"verdict": {"value": "keep", "score": 0.4, "agent": "edit"}},
        "responses": {
            "verdict": [{"value": "edit", "user_id": ADA}, {"value": "keep", "user_id": BOB}],
            "reason": [{"value": "Wrong number", "user_id": ADA}],
            "corrected": [{"value": "b", "user_id": ADA}, {"value": "unused", "user_id": BOB}],
        },
        "vectors": {}, "status": "pending", "_server_id": None,
    },
    {
        "id": "smp_2", "fields": {"question": "q"}, "metadata": {}, "suggestions": {}, "vectors": {},
        "responses": {"verdict": [
            {"value": "drop", "user_id": ADA, "status": "draft"}, {"value": "drop", "user_id": BOB},
        ]},
        "status": "pending", "_server_id": "0190", "score": 0.5,
    },
]  # fmt: skip


def test_argillas_records_are_read(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "w", "smp_1", "smp_2")
    (tmp_path / "r.json").write_text(json.dumps(RECORDS))
    with pytest.raises(InputError, match="several people"):
        take(workspace, tmp_path / "r.json", "Ada")
    assert take(workspace, tmp_path / "r.json").num_added == 3
    assert take(workspace, tmp_path / "r.json").num_already_there == 3
    rows = read(
        workspace, "SELECT sample_id, reviewer, action, reason, corrected FROM verdicts ORDER BY ALL"
    ).rows
    assert rows == (
        ("smp_1", BOB, "keep", "ok", None),
        ("smp_1", ADA, "edit", "wrong_number", "b"),
        ("smp_2", BOB, "drop", "unspecified", None),
    )
    (tmp_path / "one.json").write_text(json.dumps(RECORDS[1:]))
    assert take(workspace, tmp_path / "one.json", "Bob Ross").num_added == 1
    assert read(workspace, "SELECT count(*) FROM verdicts WHERE reviewer = 'Bob Ross'").rows == ((1,),)


def test_records_that_we_wrote_bring_their_reviewers_back(tmp_path: Path) -> None:
    first, second = (new_workspace(tmp_path / each, "smp_1", "smp_2") for each in "ab")
    say(
        first,
        {"action": "drop"},
        {"action": "edit", "corrected": "No."},
        {"action": "keep", "reviewer": "Bob B"},
    )
    say(first, {"action": "keep", "sample_id": "smp_2"}, {"action": "withdrawn", "sample_id": "smp_2"})
    with Store.open(first) as store:
        row = {"run_id": "run_1", "round": 1, "sample_id": "smp_1", "step": 0, "refiner": "edit"}
        store.append(
            "decisions",
            [{**row, "action": "rewrite", "reason": "r", "evidence": {}, "rewrite_id": "x", "final": True}],
        )
        control = {**row, "run_id": "run_1_raw", "refiner": "none", "action": "keep", "reason": "unchecked"}
        store.append("decisions", [{**control, "evidence": {}, "final": True}])  # later, and another run's
    with Reader(first) as reader:
        assert write_records(reader, tmp_path / "r.json") == 1
    (made,) = json.loads((tmp_path / "r.json").read_text())
    assert made["fields"] == {"question": "Why?", "answer": "So.", "source": "Text."}
    assert made["suggestions"] == {"verdict": {"value": "edit", "score": None, "agent": "edit"}}
    assert made["responses"]["verdict"] == [
        {"value": "edit", "user_id": user_id("Ada")},
        {"value": "keep", "user_id": user_id("Bob B")},
    ]
    assert made.keys() == RECORDS[0].keys()
    assert take(second, tmp_path / "r.json", "Nobody").num_added == 2
    rows = read(second, "SELECT reviewer, action, corrected FROM verdicts ORDER BY ALL").rows
    assert rows == (("Ada", "edit", "No."), ("Bob B", "keep", None))


@pytest.mark.parametrize("text", ["", "\n", "[]", "{", "[{]", '["a"]', '{"sample_id": "smp_9"}'])
def test_a_file_that_holds_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    workspace = new_workspace(tmp_path / "w", "smp_1")
    (tmp_path / "f").write_text(text)
    with pytest.raises(InputError):
        take(workspace, tmp_path / "f", "Ada")


def test_a_very_long_correction_comes_in_while_a_run_goes_on(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "w", "smp_1")
    row = {
        "sample_id": "smp_1",
        "reviewer": "Ada",
        "action": "edit",
        "reason": "r",
        "corrected": "🦋" * 2**20,
    }
    (tmp_path / "f").write_text(json.dumps(row))
    with Store.open(workspace):
        assert take(workspace, tmp_path / "f").num_added == 1
    assert read(workspace, "SELECT length(corrected) FROM verdicts").rows == ((2**20,),)


def test_the_commands_say_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = str(new_workspace(tmp_path / "w", "smp_1"))
    say(tmp_path / "w", {"action": "keep"})

    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["verdicts", *words, "--workspace", workspace])
        return code, capsys.readouterr().out

    file = str(tmp_path / "f")
    code, text = run("export", file, "--json")
    assert code == 0 and json.loads(text) == {"file": file, "format": "jsonl", "verdicts": 1}
    code, text = run("import", file, "--json")
    assert code == 0 and json.loads(text)["num_already_there"] == 1
    code, text = run("import", file)
    assert code == 0 and "num already there: 1" in text
    assert run("export", file, "--format", "argilla")[0] == 0
    assert json.loads(Path(file).read_text())[0]["id"] == "smp_1"
    assert run("import", str(tmp_path / "none"))[0] == 2
    assert cli.main(["verdicts", "import", file, "--workspace", str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()
    for command in ("export", "import"):
        assert cli.main(["verdicts", command, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"Example: factory verdicts {command}" in text and "--json" in text


def test_the_command_counts_what_it_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace, path = new_workspace(tmp_path / "w", "smp_1"), tmp_path / "some.jsonl"
    said = {"sample_id": "smp_1", "reviewer": "Ada", "action": "keep", "reason": "ok"}
    path.write_text(json.dumps(said) + "\n" + json.dumps({**said, "sample_id": "smp_\ud800"}) + "\n")
    words = ["verdicts", "import", str(path), "--workspace", str(workspace)]
    assert cli.main(words) == 0
    assert "unknown_sample" in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["refused"] == {"unknown_sample": 1} and found["num_already_there"] == 1


@pytest.mark.parametrize(
    "odd",
    [
        {"created_at": "9999-12-31T23:59:59.999999+00:00"},
        {"created_at": "2125-01-01T00:00:00+00:00"},
        {"corrected": 0, "action": "edit"},
        {"corrected": 5},
        {"corrected": ["a"]},
        {"id": "smp_1", "responses": {"verdict": [{"value": "keep"}]}},
        {"id": "smp_1", "responses": {"verdict": [{"value": "keep", "user_id": "u", "status": []}]}, "x": 1},
        {
            "id": "smp_1",
            "metadata": {"reviewers": ["u \ud800"]},
            "responses": {"verdict": [{"value": "stay", "user_id": "u"}]},
        },
    ],
)
def test_odd_verdicts_are_refused_or_taken_and_others_still_come_in(
    tmp_path: Path, odd: dict[str, Any]
) -> None:
    workspace, path = new_workspace(tmp_path / "w", "smp_1"), tmp_path / "odd.jsonl"
    said = {"sample_id": "smp_1", "reviewer": "Ada", "action": "keep", "reason": "ok"}
    path.write_text(json.dumps({**said, **odd}) + "\n" + json.dumps({**said, "reviewer": "Bob"}) + "\n")
    found = take(workspace, path)
    assert (found.num_added, found.refused) == ((2, {}) if "x" in odd else (1, {"unclear": 1}))
    say(workspace, {"action": "drop", "reviewer": "Ada"})
    standing = "SELECT action FROM standing_verdicts WHERE reviewer = 'Ada'"
    assert read(workspace, standing).rows == (("drop",),)


def test_a_name_that_cannot_be_stored_as_it_is_comes_back_from_records(tmp_path: Path) -> None:
    workspace, path = new_workspace(tmp_path / "w", "smp_1"), tmp_path / "records.json"
    say(workspace, {"action": "keep", "reviewer": "A\ud800\x00"})
    with Reader(workspace) as reader:
        assert write_records(reader, path) == 1
    found = take(workspace, path)
    assert (found.num_already_there, found.num_added, found.refused) == (1, 0, {})


def test_an_export_that_fails_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    file = tmp_path / "verdicts.jsonl"
    file.write_text("an earlier export\n")
    assert cli.main(["verdicts", "export", str(file), "--workspace", str(tmp_path / "nowhere")]) != 0
    assert file.read_text() == "an earlier export\n"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    workspace = new_workspace(tmp_path / "w", "smp_1")
    say(workspace, {"action": "keep"})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Reader(workspace) as reader, pytest.raises(InputError, match="is no file"):
        write_lines(reader, pipe)
    assert pipe.is_fifo() and [path.name for path in tmp_path.glob(".*")] == []
