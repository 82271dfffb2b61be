"""`factory refine FILE`: other people's samples through the steps that work alone."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.cli import main
from factory.errors import FactoryError, InputError
from factory.progress import Progress
from factory.recipe import StepSpec
from factory.refine_file import read_steps, refine_file
from factory.sample_files import read_lines, with_messages
from factory.types import Message

LINES = [
    {"question": "How long is the warranty?", "answer": "Two years from the day of purchase.", "id": 7},
    {"question": "How long is the warranty?", "answer": "two years, from the day of purchase"},
    {"prompt": "Whom do I write to?", "response": "Write to ann.lee@example.org."},
    {"messages": [{"role": "user", "content": "Key?"}, {"role": "assistant", "content": "In the safe."}]},
    {"conversations": [{"from": "human", "value": "Ann?"}, {"from": "gpt", "value": "At a@example.org"}]},
    {"instruction": "Summarise.", "input": "Frames are made of steel.", "output": "Steel.", "source": "web"},
]
STEPS = [StepSpec(name=name) for name in ("form", "exact", "near", "pii")]


def write(path: Path, lines: list) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def refined(path: Path, steps=STEPS, workspace: Path | None = None) -> dict:
    return refine_file(path, steps, path.with_suffix(".kept.jsonl"), workspace, Progress())


def test_every_line_comes_out_once_in_its_own_form(tmp_path):
    found = refined(write(tmp_path / "a.jsonl", LINES))
    assert {key: found[key] for key in ("read", "kept", "rewritten", "dropped")} == {
        "read": 6,
        "kept": 5,
        "rewritten": 2,
        "dropped": 1,
    }
    kept = read(tmp_path / "a.kept.jsonl")
    assert kept == [
        LINES[0],
        {"prompt": "Whom do I write to?", "response": "Write to <EMAIL>."},
        LINES[3],
        {"conversations": [{"from": "human", "value": "Ann?"}, {"from": "gpt", "value": "At <EMAIL>"}]},
        LINES[5],
    ]
    (dropped,) = read(tmp_path / "a.dropped.jsonl")
    why = dropped.pop("dropped")
    assert dropped == LINES[1] and (why["refiner"], why["reason"]) == ("exact", "exact_duplicate")
    assert set(why["evidence"]) == {"of"}


def test_the_funnel_adds_up_at_every_step(tmp_path):
    found = refined(write(tmp_path / "a.jsonl", LINES), workspace=tmp_path / "ws")
    arriving = found["read"] + found["rewritten"]
    for step in range(len(STEPS)):
        rows = [row for row in found["steps"] if row["step"] == step]
        assert sum(row["samples"] for row in rows) == arriving
        arriving -= sum(row["samples"] for row in rows if row["action"] != "keep")
    assert arriving == found["kept"]
    with duckdb.connect(tmp_path / "ws" / "factory.duckdb", read_only=True) as connection:
        total = connection.execute("SELECT sum(num_final) FROM funnel").fetchall()[0][0]
    assert total == found["read"] + found["rewritten"]


def test_running_it_again_decides_nothing_anew(tmp_path):
    path, workspace = write(tmp_path / "a.jsonl", LINES), tmp_path / "ws"
    first = refined(path, workspace=workspace)
    kept = (tmp_path / "a.kept.jsonl").read_bytes()
    with duckdb.connect(workspace / "factory.duckdb", read_only=True) as connection:
        before = connection.execute("SELECT * FROM decisions ORDER BY ALL").fetchall()
    assert refined(path, workspace=workspace) == first
    assert (tmp_path / "a.kept.jsonl").read_bytes() == kept
    with duckdb.connect(workspace / "factory.duckdb", read_only=True) as connection:
        assert connection.execute("SELECT * FROM decisions ORDER BY ALL").fetchall() == before
    write(path, LINES[:3])
    assert refined(path, workspace=workspace)["run"] != first["run"]


def test_parquet_is_read_and_written_with_its_columns(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [{"question": f"Number {n}?", "answer": f"It is {n % 2}.", "n": n} for n in range(5)]
    rows.append({"question": "Who?", "answer": "a@example.org", "n": 9})
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = refine_file(path, STEPS, tmp_path / "kept.parquet", None, Progress())
    kept = pq.read_table(tmp_path / "kept.parquet")
    assert kept.schema == pq.read_schema(path) and found["kept"] == 6
    assert kept.to_pylist() == [*rows[:5], {"question": "Who?", "answer": "<EMAIL>", "n": 9}]
    with pytest.raises(InputError, match="cannot be written"):
        refined_as(write(tmp_path / "b.jsonl", LINES), tmp_path / "b.parquet")


def refined_as(path: Path, output: Path) -> dict:
    return refine_file(path, STEPS, output, None, Progress())


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("{", ":1"),
        ("[1]", ":1"),
        ('{"question": "a", "answer": "b"}\n\n{"question": "a"}', ":3"),
        ('{"question": "a", "answer": 5}', ":1 question, answer"),
        ('{"messages": []}', ":1 messages"),
        ('{"messages": [{"role": "user", "content": null}]}', ":1 messages[0].content"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', ":1 messages[0]"),
        ('{"messages": ["x"]}', ":1 messages[0]"),
    ],
)
def test_a_line_that_is_no_sample_is_named(tmp_path, text, place):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        refined(path)
    assert error.value.where == f"{path}{place}"
    assert not list(tmp_path.glob("*.kept.jsonl"))


def test_bytes_that_are_no_text_are_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(LINES[0]).encode() + b'\n{"question": "\xff\xfe", "answer": "b"}\n')
    with pytest.raises(InputError, match="not UTF-8"):
        refined(path)
    pq_path = tmp_path / "a.parquet"
    pq_path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="no Parquet"):
        refined(pq_path)


def test_steps_that_need_a_domain_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"'edit' needs a recipe.*alone work: exact"):
        refined(write(tmp_path / "a.jsonl", LINES), [StepSpec(name="edit")])
    with pytest.raises(FactoryError, match="unknown refiner 'exakt'"):
        refined(write(tmp_path / "a.jsonl", LINES), [StepSpec(name="exakt")])


def test_steps_may_have_options_in_a_file(tmp_path):
    steps = tmp_path / "steps.yaml"
    steps.write_text("refiners:\n  - {name: pii, action: drop}\n  - {name: exact}\n")
    found = refined(write(tmp_path / "a.jsonl", LINES), read_steps(str(steps)))
    assert (found["dropped"], found["rewritten"]) == (3, 0)
    for text, what in (("refiners: 5", "no list"), ("refiners: [{action: drop}]", "required|missing")):
        steps.write_text(text)
        with pytest.raises(InputError, match=what):
            read_steps(str(steps))


def test_a_masked_instruction_takes_its_input_in(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"instruction": "Who?", "input": "a@example.org", "output": "Ann"}])
    (line,) = read_lines(path)
    changed = with_messages(line.value, [Message("user", "Who?\n\n<EMAIL>"), line.messages[1]])
    assert changed == {"instruction": "Who?\n\n<EMAIL>", "input": "", "output": "Ann"}


def test_the_command_tells_what_it_did(tmp_path, capsys):
    path = write(tmp_path / "a.jsonl", LINES)
    assert main(["refine", str(path), "--steps", "exact,pii", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["read"], found["kept"], found["dropped"]) == (6, 5, 1)
    assert found["dropped_to"] == str(tmp_path / "a.dropped.jsonl")
    assert main(["refine", str(path)]) == 2 and "--steps" in capsys.readouterr().err
    assert main(["refine", str(path), "--steps", "exact", "--output", str(path)]) == 2
    assert "the file itself" in capsys.readouterr().err and read(path) == LINES
    assert main(["refine", str(tmp_path / "none.jsonl"), "--steps", "exact"]) == 2
    assert main(["refine", "recipes/georgia_workers_comp", "--steps", "exact"]) == 2
