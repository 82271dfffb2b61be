from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import example_store
import pytest

from factory import cli, session
from factory.errors import EndpointError, InputError
from factory.init import write_template
from factory.store.store import Store
from generators.seeded import Seeded

FACTORY = [sys.executable, "-m", "factory.cli"]
COMMANDS = (
    "audit check diff doctor evaluate export generate init merge preview promote refine refiner report "
    "rollback run schema serve sql status trace train verdicts"
)
HEAVY = (
    "torch",
    "transformers",
    "vllm",
    "datasets",
    "pandas",
    "duckdb",
    "openai",
    "pydantic",
    "rich",
    "numpy",
    "prometheus_client",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    with Store.open(folder) as store:
        example_store.fill(store)
    return folder


def test_help_is_instant_and_loads_nothing_heavy() -> None:
    script = (
        "import sys, time; import factory.cli\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([*FACTORY, "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.3


def test_help_of_every_command_has_an_example_and_offers_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    listed = re.findall(r"^  ([a-z]+)  ", capsys.readouterr().out.split("Commands:")[1], re.MULTILINE)
    assert sorted(listed) == COMMANDS.split()
    for command in COMMANDS.split():
        assert cli.main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert f"Example: factory {command}" in text
        assert "--json" in text


def test_no_argument_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "Commands:" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


@pytest.mark.parametrize(
    "words", [["rum"], ["run"], ["run", "r", "--wrokspace", "w"], ["sql"], ["preview", "r", "--count", "no"]]
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            InputError("is wrong", where="x.yaml a.b", hint="mend it"),
            2,
            "error: x.yaml a.b: is wrong — mend it",
        ),
        (EndpointError("no answer", kind="timeout"), 1, "error: no answer"),
        (KeyError("k"), 1, "internal error: KeyError: 'k' (--debug shows where)"),
        (OSError(28, "No space left on device", "/x/y"), 2, "error: /x/y: No space left on device"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on with what is stored"),
        (InputError("evil \x1b[2J\nline"), 2, "error: evil ␛[2J line"),
    ],
)
def test_what_goes_wrong_is_one_line_and_its_exit_code(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(session, "run", fail)
    assert cli.main(["run", "recipe"]) == code
    assert capsys.readouterr().err == line + "\n"


def test_a_plug_in_that_ends_the_program_is_told_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def make(*_: object) -> None:
        sys.exit(0)

    monkeypatch.setattr(Seeded, "make", make)
    write_template(tmp_path / "domain")
    words = ["generate", str(tmp_path / "domain"), "--workspace", str(tmp_path / "w")]
    assert cli.main(words) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"^error: .*test_cli\.py:\d+ ended the program: SystemExit: 0 ", said), said
    monkeypatch.undo()
    assert cli.main(words) == 0  # nothing holds the workspace, and the round goes on


def test_debug_shows_the_traceback_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "run", lambda *_arguments: {}["k"])
    for words in (["--debug", "run", "recipe"], ["run", "recipe", "--debug"]):
        assert cli.main(words) == 1
        assert "Traceback" in capsys.readouterr().err


def test_status_counts_runs(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", "-w", str(workspace), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["run_id"] == "run_a"
    assert run["num_calls"] > 0
    assert cli.main(["status", "-w", str(workspace)]) == 0
    out = capsys.readouterr().out
    assert "run_a: up to 900 tokens, $0.25, more may have been billed without an answer" in out


def test_sql_prints_a_table_json_and_csv(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = (
        "SELECT ? AS a, 'x,\"y\"' AS b, NULL AS c, 1234567 AS d UNION ALL SELECT '2', 'z', 0.5, 1 ORDER BY a"
    )
    file = tmp_path / "query.sql"
    file.write_text(query)
    words = ["sql", str(file), "-w", str(workspace), "--param", "1"]
    assert cli.main([*words, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {"a": "1", "b": 'x,"y"', "c": None, "d": 1234567}
    assert cli.main([*words, "--format", "csv"]) == 0
    assert list(csv.reader(io.StringIO(capsys.readouterr().out)))[1] == ["1", 'x,"y"', "", "1234567"]
    assert cli.main(words) == 0
    assert "1,234,567" in capsys.readouterr().out


def test_sql_as_json_keeps_columns_of_one_name_apart_and_is_json(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = """SELECT 1 AS id, 2 AS id, 3 AS id_1, 4 AS id, 'nan'::DOUBLE AS nan, '-inf'::FLOAT AS low,
               [1.5, 'inf'::DOUBLE] AS list, {'a': 'nan'::DOUBLE} AS struct"""
    assert cli.main(["sql", query, "-w", str(workspace), "--json"]) == 0

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    (row,) = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert row == {"id": 1, "id_2": 2, "id_1": 3, "id_3": 4} | {
        "nan": None,
        "low": None,
        "list": [1.5, None],
        "struct": {"a": None},
    }
    assert list(row)[:4] == ["id", "id_2", "id_1", "id_3"]
    assert cli.main(["sql", "--help"]) == 0
    assert "id_1" in capsys.readouterr().out


def test_sql_shows_what_models_wrote_without_obeying_it(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sql", "SELECT answer FROM samples WHERE answer LIKE '%oops%'", "-w", str(workspace)]
    assert cli.main(words) == 0
    shown = capsys.readouterr().out
    assert "␛[2J[red]oops" in shown
    assert "\x1b" not in shown
    assert cli.main([*words, "--json"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\u202e" in json.loads(text)[0]["answer"]


def test_sql_shows_a_long_answer_in_part_and_says_so(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sql", "FROM range(1200)", "-w", str(workspace)]) == 0
    printed = capsys.readouterr()
    assert "999" in printed.out
    assert "1,100" not in printed.out
    assert "200 more rows" in printed.err


@pytest.mark.parametrize("query", ["DELETE FROM samples", "SELECT nothing", "SELECT 1; SELECT 2", "no.sql"])
def test_sql_that_is_wrong_or_writes_is_refused(
    workspace: Path, query: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["sql", query, "-w", str(workspace)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_trace_shows_both_trees(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = example_store.example().better.id
    assert cli.main(["trace", sample, "-w", str(workspace)]) == 0
    shown = capsys.readouterr().out
    assert example_store.example().good.id in shown
    assert "comes from" in shown
    assert cli.main(["trace", sample, "-w", str(workspace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ancestors"]["id"] == sample
    assert cli.main(["trace", "smp_none", "-w", str(workspace)]) == 2


def test_looking_works_while_a_run_holds_the_workspace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(tmp_path) as store:
        example_store.fill(store)
        store.flush()
        words = [*FACTORY, "sql", "SELECT count(*) AS n FROM samples", "-w", str(tmp_path), "--json"]
        found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == [{"n": 3}]


def test_report_and_export_write_what_they_say(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert cli.main(["report", "-w", str(workspace), "--html", str(page)]) == 0
    assert "<html" in page.read_text()
    assert cli.main(["report", "-w", str(workspace), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["id"] == "run_a"
    assert cli.main(["export", str(tmp_path / "out"), "-w", str(workspace), "--json"]) == 0
    assert (tmp_path / "out" / "data" / "train.jsonl").exists()


def test_a_reader_that_goes_away_is_no_error(workspace: Path) -> None:
    words = " ".join([*FACTORY, "sql", "'SELECT * FROM range(90000)' --format csv", "-w", str(workspace)])
    found = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words} | head -1"], capture_output=True, text=True, check=False
    )
    assert found.stderr == ""


def test_a_plea_to_end_is_an_orderly_stop(tmp_path: Path) -> None:
    script = "import os, signal, factory.session as s, factory.cli as c, sys\n"
    script += "s.run = lambda *a: os.kill(os.getpid(), signal.SIGTERM)\n"
    script += "sys.argv[1:] = ['run', 'r']\nsys.exit(c.main())"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert found.returncode == 130
    assert found.stderr == "stopped; the same command goes on with what is stored\n"


def test_text_beyond_ascii_is_printed_under_any_locale(workspace: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [*FACTORY, "sql", "SELECT citation FROM sources", "-w", str(workspace)]
    found = subprocess.run(words, capture_output=True, env=environment, check=True)
    assert b"34-9-80" in found.stdout
