"""`factory refine FILE`: what is kept, what is dropped and why, in every kind of file, resumed, refused."""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from factory import cli
from factory.errors import FactoryError, InputError, WorkspaceError
from factory.file_steps import parse_steps
from factory.progress import Progress
from factory.refine_file import Counts, add_up, refine_file
from factory.registry import find, names
from factory.sample_lines import rewritten, sample_of, seed_of
from factory.store.store import Store
from factory.types import Message

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "curation.md").read_text("utf-8")
ALONE = "form,exact,near,refusal,repetition,leftover,pii"
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "When must notice of an injury be given?", "name": "ann"},
        {"role": "assistant", "content": "Within 30 days; write to jane.doe@agency.org."},
    ],
    "answer": "Within 30 days; write to jane.doe@agency.org.",
    "weight": 0.5,
}
CHAT_PAIR: dict[str, Any] = {"prompt": "When is notice due?", "response": "Within 30 days."}
ROWS: list[dict[str, Any]] = [
    CHAT,
    {"prompt": "What is a notice?", "response": "A letter to the employer.", "tags": ["a"]},
    {"prompt": "what is a notice", "response": "A letter to the employer!", "tags": []},
    {"question": "Who pays?", "answer": "I'm sorry, but I can't help with that."},
    {"instruction": "Shorten.", "input": "It is 3 dollars for Ann, (212) 555-0123.", "output": "3 dollars."},
    {"prompt": "Who was told?", "completion": "The employer was told. " * 9},
    {"prompt": "Is it due?", "response": "", "system": "Be short."},
]
FATES = ["kept", "kept", "exact_duplicate", "refusal", "kept", "repetition", "empty_answer"]


def write(path: Path, rows: Sequence[Any]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def refine(path: Path, steps: str = ALONE, **given_: Any) -> dict[str, Any]:
    options = given_.pop("options", ())
    chosen = {"output": None, "workspace": None, **given_}
    return refine_file(path, parse_steps(steps, options), progress=Progress(bars=False), **chosen)


def test_lines_are_kept_as_they_stood_masked_or_dropped_with_a_reason(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", ROWS)
    found = refine(path)
    assert (found["samples"], found["kept"], found["rewritten"], found["dropped"]) == (7, 3, 2, 4)
    kept, dropped = read(tmp_path / "all.kept.jsonl"), read(tmp_path / "all.dropped.jsonl")
    masked = "Within 30 days; write to <EMAIL>."
    turns = [CHAT["messages"][0], {"role": "assistant", "content": masked}]
    assert kept[0] == {"messages": turns, "answer": masked, "weight": 0.5}
    assert kept[1] == ROWS[1]
    assert (
        kept[2]["instruction"] == "Shorten.\n\nIt is 3 dollars for Ann, <PHONE>." and kept[2]["input"] == ""
    )
    assert [each["sample"] for each in dropped] == [
        row for row, fate in zip(ROWS, FATES, strict=True) if fate != "kept"
    ]
    assert [(each["line"], each["reason"]) for each in dropped] == [
        (line, fate) for line, fate in enumerate(FATES, 1) if fate != "kept"
    ]
    assert dropped[0]["evidence"]["of_line"] == 2 and dropped[1]["evidence"]["words"] in ROWS[3]["answer"]
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "all.dropped.jsonl",
        "all.jsonl",
        "all.kept.jsonl",
    ]
    assert not [each for each in found["reasons"] if each["reason"] == "ok"]


def test_what_is_kept_is_the_same_bytes(tmp_path: Path) -> None:
    lines = ['{ "prompt":"a b","response" : "\\u00e4 \\ud800", "n": 1e3}', '{"prompt": "ü", "response": "c"}']
    path = tmp_path / "odd.jsonl"
    path.write_bytes("\ufeff".encode() + f"{lines[0]}\r\n\n  \n{lines[1]}".encode())
    assert refine(path, "exact")["kept"] == 2
    assert (tmp_path / "odd.kept.jsonl").read_text("utf-8").split("\n") == [*lines, ""]


@pytest.mark.parametrize("source", ["all.jsonl.gz", "all.parquet"])
@pytest.mark.parametrize("target", ["out.jsonl", "out.jsonl.gz", "out.parquet"])
def test_every_kind_of_file_says_the_same(source: str, target: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": row.get("prompt", "q"), "response": str(row.get("response", n)), "n": n}
        for n, row in enumerate(ROWS)
    ]
    rows[0]["response"] = "Write to a@b.org."
    path = tmp_path / source
    if source.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        write(path, rows)
    refine(path, "exact,pii", output=tmp_path / target)
    out = tmp_path / target
    if target.endswith(".parquet"):
        kept = pq.read_table(out).to_pylist()
        assert not source.endswith(".parquet") or pq.read_schema(out) == pq.read_schema(path)
    else:
        data = out.read_bytes()
        text = gzip.decompress(data) if target.endswith(".gz") else data
        kept = [json.loads(line) for line in text.decode().splitlines()]
    rows[0]["response"] = "Write to <EMAIL>."
    assert kept == [row for row in rows if row["n"] != 2]
    (rejected,) = read(tmp_path / "out.dropped.jsonl")
    assert (rejected["line"], rejected["evidence"]["of_line"], rejected["sample"]["n"]) == (3, 2, 2)


def test_calls_of_tools_stay_calls(tmp_path: Path) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "mail",
            "parameters": {"type": "object", "properties": {"to": {"type": "string"}}},
        },
    }
    call = {"id": "1", "type": "function", "function": {"name": "mail", "arguments": {"to": "a@b.org"}}}
    turns = [
        {"role": "user", "content": "Write."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    as_text = [{**turns[1], "tool_calls": [json.dumps(call)]}]
    rows = [
        {"messages": turns, "tools": [tool]},
        {"messages": [turns[0], *as_text], "tools": json.dumps([tool])},
    ]
    refine(write(tmp_path / "t.jsonl", rows), "form,pii")
    first, second = read(tmp_path / "t.kept.jsonl")
    masked = {**call, "function": {"name": "mail", "arguments": {"to": "<EMAIL>"}}}
    assert first == {"messages": [turns[0], {**turns[1], "tool_calls": [masked]}], "tools": [tool]}
    assert json.loads(second["messages"][1]["tool_calls"][0]) == masked and json.loads(second["tools"]) == [
        tool
    ]


def test_the_funnel_adds_up_at_every_step(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", ROWS * 3)
    found = refine(path, workspace=tmp_path / "w")
    with Store.open(tmp_path / "w") as store:
        rows = store.select(
            "SELECT step, action, sum(num_samples)::INT AS n, sum(num_final)::INT AS f "
            "FROM funnel WHERE run_id = ? GROUP BY ALL",
            (found["run"],),
        )
        ends = store.select("SELECT action, count(*) AS n FROM decisions WHERE final GROUP BY ALL")
        missing = store.select(
            "SELECT count(*) AS n FROM decisions WHERE action = 'drop' AND reason IN ('', 'ok')"
        )
    of = {(row["step"], row["action"]): row["n"] for row in rows}
    num_steps, rewrites = (
        len(ALONE.split(",")),
        sum(n for (_, action), n in of.items() if action == "rewrite"),
    )
    came = [sum(n for (at, _), n in of.items() if at == step) for step in range(num_steps)]
    kept = [of.get((step, "keep"), 0) for step in range(num_steps)]
    assert came == [len(ROWS) * 3 + rewrites, *kept[:-1]]
    assert found["kept"] == kept[-1] and found["kept"] + found["dropped"] == len(ROWS) * 3
    assert sum(row["f"] for row in rows) == len(ROWS) * 3 + rewrites
    assert {row["action"]: row["n"] for row in ends} == {
        "keep": found["kept"],
        "drop": found["dropped"],
        "rewrite": rewrites,
    }
    assert missing == [{"n": 0}] and [step["in"] for step in found["steps"]] == came


def test_counts_that_do_not_add_up_are_an_error() -> None:
    rows = [{"step": 0, "action": "keep", "samples": 2}, {"step": 0, "action": "drop", "samples": 1}]
    assert add_up(rows, ["exact"], 3, Counts(2, 0, 1))[0]["in"] == 3
    for lines, counts in ((4, Counts(2, 0, 1)), (3, Counts(1, 0, 1)), (3, Counts(2, 0, 2))):
        with pytest.raises(FactoryError, match="add up"):
            add_up(rows, ["exact"], lines, counts)


def test_a_run_that_was_cut_off_goes_on_and_decides_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"prompt": f"What is rule {n % 150}?", "response": f"Rule {n % 150} is for a{n}@b.org."}
        for n in range(400)
    ]
    path = write(tmp_path / "many.jsonl", rows)
    whole = refine(path, "exact,pii,near")
    expected = [(tmp_path / f"many.{what}.jsonl").read_bytes() for what in ("kept", "dropped")]
    kind, num_batches = find("refiners", "pii"), 0
    usual = kind.refine

    async def fail(self: Any, samples: Any, ask: Any) -> Any:
        nonlocal num_batches
        num_batches += 1
        if num_batches == 3:
            raise FactoryError("cut off")
        return await usual(self, samples, ask)

    with monkeypatch.context() as patched:
        patched.setattr(kind, "refine", fail)
        with pytest.raises(FactoryError, match="cut off"):
            refine(path, "exact,pii,near", workspace=tmp_path / "w")
    with Store.open(tmp_path / "w") as store:
        (before,) = store.select("SELECT count(*) AS n FROM decisions")
    again = refine(path, "exact,pii,near", workspace=tmp_path / "w")
    assert before["n"] > 0 and again["steps"] == whole["steps"]
    found = [(tmp_path / f"many.{what}.jsonl").read_bytes() for what in ("kept", "dropped")]
    assert found[0] == expected[0] and read(tmp_path / "many.dropped.jsonl")
    assert found[1] == expected[1]
    assert refine(path, "exact,pii,near", workspace=tmp_path / "w")["steps"] == whole["steps"]


def test_other_steps_options_or_lines_are_another_run(tmp_path: Path) -> None:
    path = write(tmp_path / "all.jsonl", ROWS)
    runs = [refine(path, "exact", workspace=tmp_path / "w")["run"]]
    runs.append(refine(path, "near", workspace=tmp_path / "w")["run"])
    runs.append(refine(path, "near", options=["near.threshold=0.9"], workspace=tmp_path / "w")["run"])
    write(path, ROWS[:-1])
    found = refine(path, "near", workspace=tmp_path / "w")
    assert len({*runs, found["run"]}) == 4 and found["samples"] == len(ROWS) - 1


def test_what_is_only_flagged_is_counted_and_kept(tmp_path: Path) -> None:
    found = refine(
        write(tmp_path / "all.jsonl", ROWS), "pii", options=["pii.action=flag", "pii.kinds=[email]"]
    )
    assert (
        found["kept"] == len(ROWS)
        and (tmp_path / "all.kept.jsonl").read_bytes() == (tmp_path / "all.jsonl").read_bytes()
    )
    assert found["reasons"] == [{"step": "pii", "action": "keep", "reason": "personal_data", "samples": 1}]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "bad.jsonl:2: is no JSON"),
        ("[1]", "bad.jsonl:2: is no JSON object"),
        ("{}", "bad.jsonl:2: there is no prompt or question or instruction"),
        ('{"prompt": "a"}', "bad.jsonl:2: there is no response or answer"),
        ('{"prompt": "a", "question": "b", "answer": "c"}', "bad.jsonl:2: both 'prompt' and 'question'"),
        ('{"prompt": 1, "response": "b"}', "bad.jsonl:2: 'prompt' is no text"),
        ('{"messages": []}', "bad.jsonl:2: 'messages' is no list"),
        ('{"messages": [{"role": "tool", "content": "a"}]}', "bad.jsonl:2: messages[0] has no role"),
        ('{"messages": [{"role": "user", "content": null}]}', "bad.jsonl:2: messages[0].content is no text"),
        ('{"messages": [{"role": "assistant", "tool_calls": [{}]}]}', "bad.jsonl:2: messages[0].tool_calls"),
    ],
)
def test_a_line_that_is_no_sample_is_named_before_anything_is_done(
    line: str, what: str, tmp_path: Path
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n' + line + "\n")
    with pytest.raises(InputError) as caught:
        refine(path, "exact", workspace=tmp_path / "w")
    assert what in str(caught.value) and caught.value.exit_code == 2
    assert [each.name for each in tmp_path.iterdir()] == ["bad.jsonl"]


def test_a_line_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "response": "b"}\n' * 1 + b'{"prompt": "\xff"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl:2: is not UTF-8"):
        refine(path, "exact")


def test_bytes_of_parquet_stay_bytes_and_are_told_where_they_are_dropped(tmp_path: Path) -> None:
    rows = {"prompt": ["a"] * 2, "response": ["b"] * 2, "image": [b"\x00\xff"] * 2}
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table(rows), path)
    found = refine(path, "exact", output=tmp_path / "kept.parquet")
    assert (found["kept"], found["dropped"]) == (1, 1)
    assert pq.read_table(tmp_path / "kept.parquet").to_pylist()[0]["image"] == b"\x00\xff"
    (dropped,) = read(tmp_path / "kept.dropped.jsonl")
    assert dropped["sample"]["image"] == "AP8="  # Base64


def test_nan_and_infinity_become_null_in_lines_and_are_counted(tmp_path: Path) -> None:
    rows = [{**CHAT_PAIR, "score": score} for score in (0.5, float("nan"), float("inf"), None)]
    rows = [{**row, "nested": [{"at": row["score"]}]} for row in rows]
    path = tmp_path / "scores.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = refine(path, "exact")
    assert (found["kept"], found["dropped"], found["nulled"]) == (1, 3, 2)
    (kept,), dropped = (strictly(tmp_path / f"scores.{what}.jsonl") for what in ("kept", "dropped"))
    assert kept["score"] == 0.5
    assert [each["sample"]["score"] for each in dropped] == [None] * 3
    assert [each["sample"]["nested"] for each in dropped] == [[{"at": None}]] * 3
    assert "nulled" not in refine(write(tmp_path / "a.jsonl", [CHAT]), "exact")


def strictly(path: Path) -> list[Any]:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text("utf-8").splitlines()]


def test_bytes_are_told_before_anything_is_refined(tmp_path: Path) -> None:
    path = tmp_path / "images.parquet"
    rows = [{**CHAT_PAIR, "images": [{"data": b"\x00"}], "thumb": b"\x01"}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(InputError, match="bytes cannot be written as JSON: images, thumb"):
        refine(path, "exact", workspace=tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_contamination_of_a_file_by_benchmarks_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    leak = "Which month is best to prune an apple tree that stands in a cold garden?"
    (tmp_path / "data").mkdir()
    rows = [{"prompt": leak, "response": "May."}, {"prompt": "Who pays for it?", "response": "Ann."}]
    path = write(tmp_path / "data" / "a.jsonl", rows)
    write(tmp_path / "bench.jsonl", [{"question": leak, "answer": "February."}])
    options, work = ["contamination.benchmarks=bench.jsonl"], tmp_path / "w"
    first = refine(path, "contamination", options=options, workspace=work)
    assert (first["kept"], first["dropped"]) == (1, 1)
    write(tmp_path / "bench.jsonl", [{"question": "Who is asked of another thing?", "answer": "x"}])
    other = refine(path, "contamination", options=options, workspace=work)
    assert (other["kept"], other["dropped"]) == (2, 0)  # another benchmark is another run
    with pytest.raises(FactoryError, match=r"no file .*gone.jsonl"):
        refine(path, "contamination", options=["contamination.benchmarks=[gone.jsonl]"])


def test_text_stays_text_in_parquet_whatever_it_looks_like(tmp_path: Path) -> None:
    key = "00000001-0000-0000-0000-000000000000"
    row = {"prompt": "When?", "response": "2024-01-01", "at": "2024-01-01 10:00:00", "id": key, "n": 1}
    nested = {"meta": {"date": "2024-01-01", "all": ["10:00:00"]}, "tags": [{"day": "2024-01-01"}]}
    path = write(tmp_path / "a.jsonl", [{**row, **nested}])
    refine(path, "exact", output=tmp_path / "kept.parquet")
    assert pq.read_table(tmp_path / "kept.parquet").to_pylist() == [{**row, **nested}]


def test_a_disk_that_refuses_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [CHAT])
    (tmp_path / ".a.kept.jsonl.partial").mkdir()
    with pytest.raises(WorkspaceError, match="cannot be written"):
        refine(path, "exact")


@pytest.mark.parametrize("name", ["kept.jsonl", "kept.jsonl.gz", "kept.parquet", "kept.dropped.jsonl"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, name: str) -> None:
    path, pipe = write(tmp_path / "a.jsonl", [CHAT]), tmp_path / name
    os.mkfifo(pipe)
    output = tmp_path / "kept.jsonl" if "dropped" in name else pipe
    with pytest.raises(InputError, match=rf"{name}: is there and is no file"):
        refine(path, "exact", output=output)
    assert pipe.is_fifo() and sorted(tmp_path.iterdir()) == sorted([path, pipe])


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["a.jsonl"], "a FILE needs --steps"),
        (["a.jsonl", "--steps", "exact", "--profile", "x"], "takes no profile"),
        (["a.jsonl", "--steps", "exakt"], "did you mean 'exact'?"),
        (["a.jsonl", "--steps", ","], "no step is named"),
        (["a.jsonl", "--steps", "edit"], "the step 'edit' needs a model"),
        (["a.jsonl", "--steps", "contamination"], "the step 'contamination' needs the dev and test items"),
        (
            ["a.jsonl", "--steps", "contamination", "--option", "contamination.benchmarks=[]"],
            "give --option contamination.benchmarks=FILE",
        ),
        (["a.jsonl", "--steps", "citation"], "run `factory refine RECIPE`"),
        (["a.jsonl", "--steps", "near", "--option", "near.treshold=1"], "did you mean 'threshold'?"),
        (["a.jsonl", "--steps", "near", "--option", "pii.action=drop"], "is no option of a step"),
        (["a.jsonl", "--steps", "near", "--option", "near.threshold"], "STEP.OPTION=VALUE"),
        (["a.jsonl", "--steps", "language"], "give the option `languages`"),
        (["a.csv", "--steps", "exact"], "known: .jsonl, .jsonl.gz, .parquet"),
        (["none.jsonl", "--steps", "exact"], "there is no such file"),
        (["empty.jsonl", "--steps", "exact"], "there is no sample in it"),
        (["a.jsonl", "--steps", "exact", "--output", "a.jsonl"], "would be written over"),
        (["a.jsonl", "--steps", "exact", "--output", "no/b.jsonl"], "there is no such folder"),
        (["fake.parquet", "--steps", "exact"], "is no Parquet file"),
        (["fake.jsonl.gz", "--steps", "exact"], "is no whole gzip file"),
        ([".", "--steps", "exact"], "go with a FILE"),
        (["no_domain"], "there is no recipe here"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    words: list[str],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("a.jsonl", '{"prompt": "a", "response": "b"}'),
        ("a.csv", "a"),
        ("empty.jsonl", "\n"),
        ("fake.parquet", "x"),
        ("fake.jsonl.gz", "x"),
    ):
        Path(name).write_text(text)
    assert cli.main(["refine", *words]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1 and what in told[0]
    assert not list(tmp_path.glob("*.kept.jsonl"))


TEXT = st.text(max_size=20)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example("prompt", "response", ("", "0", "0", "0"), ("0", "0", "00"))
@given(
    st.sampled_from(["prompt", "question", "instruction"]),
    st.sampled_from(["response", "answer", "output", "completion"]),
    st.tuples(TEXT, TEXT, TEXT, TEXT),
    st.tuples(TEXT, TEXT, TEXT),
)
def test_a_rewritten_line_is_the_rewritten_sample(
    prompt: str, answer: str, old: tuple[str, str, str, str], new: tuple[str, str, str]
) -> None:
    pair = {prompt: old[0], answer: old[1], "system": old[2], "input": old[3], "other": [1]}
    chat = {
        "messages": [{"role": "user", "content": old[0]}, {"role": "assistant", "content": old[1]}],
        "other": [1],
    }
    for row in (pair, chat):
        sample = sample_of(row, seed_of(row, "f:1"))
        messages = [Message(turn.role, text) for turn, text in zip(sample.messages, new, strict=False)]
        changed = rewritten(row, messages, sample.attributes)
        if all(message.content for message in messages):
            assert list(sample_of(changed, seed_of(changed, "f:1")).messages) == messages
        assert changed["other"] == [1] and rewritten(row, sample.messages, sample.attributes) == row


def test_the_page_names_every_step_and_all_its_options() -> None:
    for name in names("refiners"):
        kind = find("refiners", name)
        section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
        assert section, name
        for option in kind.Options.model_fields:
            assert f"`{option}`" in section[1], f"{name}.{option}"


def test_the_pages_commands_print_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = dict(re.findall(r"^```json\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    for name, text in files.items():
        Path(name).write_text(text, "utf-8")
    shown = re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert files and len(shown) >= 2
    for block in shown:
        command, _, expected = block.partition("\n")
        program, *words = shlex.split(command.removeprefix("$ "))
        if program == "cat":
            assert Path(words[0]).read_text("utf-8") == expected
            continue
        assert program == "factory" and cli.main(words) == 0
        printed = capsys.readouterr().out
        assert [line.rstrip() for line in printed.splitlines()] == [
            line.rstrip() for line in expected.splitlines()
        ]


def test_what_the_page_says_of_selection_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "demo"]) == 0
    (profile,) = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path(profile[0]).write_text(profile[1], "utf-8")
    shown = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for block in shown for line in block.splitlines()]
    assert len(commands) == 3
    for program, *words in commands:
        assert program == "factory" and cli.main(words) == 0
