"""The package that docs/extending.md builds is built, installed and run as the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
FILES = dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^\$ (.*)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, its package installed into `installed` beside them, and its domain."""
    folder = tmp_path_factory.mktemp("plugin")
    for name in ("yes_no.py", "brief.py", "contrary.py", "verdict.py", "pyproject.toml"):
        (folder / name).write_text(FILES[name], "utf-8")
    install, init = COMMANDS[:2]
    assert install.startswith("python -m pip install ") and init == "factory init domain"
    run(folder, f"{install} --no-index --quiet --target installed")
    run(folder, init)
    (folder / "domain/profiles/yes_no.yaml").write_text(FILES["domain/profiles/yes_no.yaml"], "utf-8")
    return folder


def run(folder: Path, command: str, code: int = 0) -> str:
    """What a command of the page prints, run with this Python and the installed package."""
    program, *words = command.split()
    start = [sys.executable] if program == "python" else [sys.executable, "-m", program]
    path = os.pathsep.join([str(folder / "installed"), str(ROOT)])
    env = {**os.environ, "PYTHONPATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*start, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def test_the_strategy_is_as_short_as_it_is_said_to_be() -> None:
    assert len(FILES["yes_no.py"].splitlines()) < 40
    assert set(FILES) == {
        "yes_no.py",
        "brief.py",
        "contrary.py",
        "verdict.py",
        "pyproject.toml",
        "domain/profiles/yes_no.yaml",
    }


def test_an_installed_package_makes_samples_and_judges_them(folder: Path) -> None:
    check, preview, generate = COMMANDS[2:5]
    assert json.loads(run(folder, f"{check} --json"))["strategies"] == ["yes_no ×1"]
    samples = json.loads(run(folder, f"{preview} --json"))["samples"]
    assert len(samples) == 6 and {sample["strategy"] for sample in samples} == {"yes_no"}
    starts = [sample["answer"].split()[0] for sample in samples]
    assert min(starts.count("Yes."), starts.count("No.")) >= 2
    assert {sample["reason"] for sample in samples} <= {"ok", "exact_duplicate"}
    run(folder, generate)
    sql = "SELECT count(*) AS n, count(DISTINCT e.parent) AS num_sections FROM samples s JOIN edges e"
    where = "ON e.child = s.id AND e.relation = 'source' WHERE s.strategy = 'yes_no'"
    assert sql_rows(folder, f"{sql} {where}") == [{"n": 24, "num_sections": 5}]


def test_its_refiner_drops_with_its_own_reason(folder: Path) -> None:
    profile = (folder / "domain/profiles/yes_no.yaml").read_text().replace("max_words: 20", "max_words: 2")
    (folder / "domain/profiles/short.yaml").write_text(profile)
    samples = json.loads(run(folder, "factory preview domain --profile short --json"))["samples"]
    assert {(sample["refiner"], sample["reason"]) for sample in samples} == {("brief", "too_long")}


def test_its_corruption_spoils_answers_for_the_refiner(folder: Path) -> None:
    section = json.loads((folder / "domain/gold/dev.jsonl").read_text().splitlines()[0])
    other = json.loads((folder / "domain/gold/test.jsonl").read_text().splitlines()[-1])
    lines = [
        {
            "id": f"{each['source']}-{n}",
            "question": f"May I, in case {n}?",
            "answer": f"Yes. You may {n} times.",
        }
        | {"slice": each["slice"], "source": each["source"]}
        for each in (section, other)
        for n in (2, 3)
    ]
    assert section["source"] != other["source"]
    (folder / "domain/gold/refiner.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = json.loads(run(folder, f"{COMMANDS[5]} --json"))["kinds"]
    (made,) = [row for row in rows if row["kind"] == "wrong_answer"]
    assert made["origin"] == "corrupted" and made["training"] > 0
    assert made["example"]["answer"] == made["example"]["corrected"].replace("Yes", "No")


def test_its_metric_scores_what_a_student_answers(folder: Path) -> None:
    found = json.loads(run(folder, f"{COMMANDS[6]} --json"))
    (scored,) = found["models"]
    assert scored["num_items"] > 0 and 0 < scored["mean"] < 1
    assert scored["mean"] == pytest.approx(0.1)  # the script says neither yes nor no


def test_an_option_of_its_metric_is_checked_with_file_and_line(folder: Path) -> None:
    profile = (folder / "domain/profiles/yes_no.yaml").read_text().replace("other: 0.1", "others: 0.1")
    (folder / "domain/profiles/other.yaml").write_text(profile)
    said = run(folder, "factory check domain --profile other", code=2)
    assert "other.yaml:" in said and "evaluation.metric_options.others" in said
    assert "did you mean 'other'" in said


def test_its_options_are_checked_with_file_and_line(folder: Path) -> None:
    profile = (folder / "domain/profiles/yes_no.yaml").read_text().replace("max_words", "max_word")
    (folder / "domain/profiles/wrong.yaml").write_text(profile)
    said = run(folder, "factory check domain --profile wrong", code=2)
    assert "wrong.yaml:" in said and "max_word" in said and "did you mean 'max_words'" in said


def sql_rows(folder: Path, sql: str) -> list[dict[str, int]]:
    command = [sys.executable, "-m", "factory", "sql", sql, "--workspace", "workspace", "--json"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)  # type: ignore[no-any-return]
