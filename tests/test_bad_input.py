"""Every bad input that concerns recipe, files and workspace: one clear line on stderr, exit code 2."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from factory import cli
from factory.init import write_template
from factory.store.store import Store

LEAK = {"id": "x", "question": "How often may I renew?", "answer": "Twice.", "slice": "borrowing"}
STUDENT = "models: {student: {server: main, sampling: {max_tokens: 8}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_template(tmp_path / "domain")
    return tmp_path / "domain"


def profile(folder: Path, text: str) -> list[str]:
    (folder / "profiles" / "p.yaml").write_text(text)
    return ["check", str(folder), "--profile", "p"]


def test_a_password_in_an_address_is_not_shown(folder, capsys, tmp_path):
    text = "servers: {main: {kind: endpoint, base_url: '%s'}}\nmodels: {teacher: {server: main, model: m}}\n"
    for url in ("me:sesame@host/v1", "ftp://me:sesame@host/v1"):
        line = refused(profile(folder, text % url), capsys)
        assert "sesame" not in line and "***@host/v1' is no http address" in line
    assert cli.main(profile(folder, text % "http://me:sesame@127.0.0.1:9/v1")) == 0
    assert "sesame" not in capsys.readouterr().out
    words = ["run", str(folder), "--profile", "p", "--workspace", str(tmp_path / "w")]
    assert cli.main(words) == 1
    assert "sesame" not in str(capsys.readouterr())
    with Store.open(tmp_path / "w") as store:
        tables = store.select("SELECT table_name FROM duckdb_tables()")
        rows = [store.select(f"SELECT * FROM {table['table_name']}") for table in tables]
    assert "127.0.0.1:9/v1" in str(rows) and "sesame" not in str(rows)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command says before it exits with 2."""
    capsys.readouterr()
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("loop: {round: 3}", ["p.yaml:1 loop.round", "unknown key", "did you mean 'rounds'"]),
        ("loop: {samples_per_round: 1000001}", ["p.yaml:1 loop.samples_per_round", "1000000", "1000001"]),
        ("loop: {rounds: three}", ["p.yaml:1 loop.rounds", "integer", "'three'"]),
        ("sources: {paths: [handbook.md]}", ["p.yaml:1 sources.paths[0]", "no file", "handbook.md"]),
        ("seeds: prompts.jsonl", ["p.yaml:1 seeds", "no file", "prompts.jsonl"]),
        ("gold: {refiner: drafts.jsonl}", ["p.yaml:1 gold.refiner", "no file", "drafts.jsonl"]),
        ("seeds: null", ["strategies[1].name", "no seeds"]),
        ("strategies: [{name: wished}]", ["strategies[0].name", "unknown generator 'wished'", "grounded"]),
    ],
    ids=[
        "unknown_key",
        "round_too_large",
        "wrong_type",
        "no_source_file",
        "no_seed_file",
        "no_draft_file",
        "no_seeds",
        "unknown_strategy",
    ],
)
def test_a_recipe_that_is_wrong(
    folder: Path, text: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(profile(folder, text), capsys)
    assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("sources/rules.md", "sources.paths[0]"),
        ("seeds.jsonl", "seeds"),
        ("gold/dev.jsonl", "gold.dev"),
        ("gold/test.jsonl", "gold.test"),
        ("gold/refiner.jsonl", "gold.refiner"),
    ],
)
@pytest.mark.parametrize("command", ["check", "generate", "preview"])
def test_a_missing_file_is_told_with_the_file_and_line_of_its_key(
    folder: Path, command: str, file: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "profiles" / "p.yaml").write_text("loop: {rounds: 2}")  # lies above, but sets none of them
    (folder / file).unlink()
    line = refused([command, str(folder), "--profile", "p"], capsys)
    text = (folder / "recipe.yaml").read_text().splitlines()
    number = next(n for n, each in enumerate(text, 1) if (file if "gold" in file else key[:5]) in each)
    number += key.startswith("sources")  # the paths stand below their heading
    assert f"recipe.yaml:{number} {key}: there is no file" in line
    assert "paths start at the recipe's folder" in line


@pytest.mark.parametrize("split", ["dev", "test"])
def test_dev_or_test_overlapping_the_training_examples(
    folder: Path, split: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder / "gold" / f"{split}.jsonl").open("a") as file:
        file.write(json.dumps(LEAK) + "\n")
    line = refused(["check", str(folder)], capsys)
    assert f"{split}.jsonl:4 question" in line
    assert "refiner.jsonl:2" in line


@pytest.mark.parametrize("weights", [None, b""])
def test_a_model_folder_without_weights(
    folder: Path, weights: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    if weights is not None:
        (folder / "model" / "model.safetensors").write_bytes(weights)
    line = refused(profile(folder, "servers: {main: {kind: vllm, model: ./model}}"), capsys)
    assert "servers.main.model" in line
    assert "weights" in line
    base = "servers: {main: {kind: vllm, model: org/hub}}\ntraining: {student: {base: model}}\n" + STUDENT
    assert "training.student.base" in refused(profile(folder, base), capsys)


def test_a_model_folder_that_is_not_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(profile(folder, "servers: {main: {kind: vllm, model: ../models/x}}"), capsys)
    assert "servers.main.model: there is no model directory" in line


def test_a_rank_that_vllm_cannot_serve(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = "servers: {main: {kind: vllm, model: org/hub, max_lora_rank: 16}}\n"
    line = refused(profile(folder, server + STUDENT + "training: {student: {base: m, rank: 64}}"), capsys)
    assert "training.student.rank" in line
    line = refused(profile(folder, server.replace("16", "48")), capsys)
    assert "servers.main.max_lora_rank" in line


def test_an_adapter_that_is_none_or_of_a_rank_too_high(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "servers: {main: {kind: vllm, model: org/hub, max_lora_rank: 16}}\n"
    text += "models: {teacher: {adapter: adapter}}"
    assert "models.teacher.adapter" in refused(profile(folder, text), capsys)
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"x")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps({"r": 32}))
    assert "rank 32" in refused(profile(folder, text), capsys)


VLLM = "{kind: vllm, model: org/hub, max_lora_rank: 32}"
TRAINED = f"servers: {{student: {VLLM}}}\nmodels: {{student: {{server: student%s}}}}\n"
TRAINED += "training: {student: {base: %s}}\n"
KEYED = "servers: {main: {kind: endpoint, base_url: 'http://127.0.0.1:9/v1', api_key_env: NO_SUCH_KEY}}\n"
KEYED += "models: {teacher: {server: main, model: m}}\n"
REFINED = f"servers: {{mine: {VLLM}}}\nmodels: {{refiner: {{server: mine, adapter: ./none}}}}\n"
REFINED += "refiners: [{name: edit}]\n"
WORK = {"run": [], "generate": [], "refine": [], "train": [], "evaluate": [], "preview": ["--count", "1"]}


def not_ready(folder: Path, text: str, command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says about a model that is not there, before it opens a workspace."""
    (folder / "profiles" / "p.yaml").write_text(text)
    words = [command, str(folder), "--profile", "p", *WORK.get(command, [])]
    workspace = folder / "w"
    line = refused(words if command in ("preview", "check") else [*words, "-w", str(workspace)], capsys)
    assert not workspace.exists()
    return line


@pytest.mark.parametrize("command", ["check", "run", "train", "evaluate"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TRAINED % ("", "./nomodel"), ["p.yaml:3 training.student.base", "no model directory", "nomodel"]),
        (TRAINED % ("", "empty"), ["p.yaml:3 training.student.base", "without weights", "empty"]),
    ],
)
def test_a_training_base_is_looked_for_before_anything_is_asked(
    folder: Path, command: str, text: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    (folder / "empty" / "config.json").write_text("{}")
    (folder / "empty" / "consolidated.00.pth").write_bytes(b"x")  # vLLM would serve it
    line = not_ready(folder, text, command, capsys)
    assert [word for word in (*words, "recipe's folder") if word not in line] == [], line


@pytest.mark.parametrize("command", ["check", "run", "evaluate", "serve"])
def test_the_students_folders_are_looked_for_before_anything_is_asked(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = not_ready(folder, TRAINED % (", adapter: ./none", "org/hub"), command, capsys)
    assert "p.yaml:2 models.student.adapter: there is no adapter directory" in line
    (folder / "none").mkdir()
    (folder / "none" / "adapter_model.safetensors").write_bytes(b"x")
    (folder / "none" / "adapter_config.json").write_text(json.dumps({"r": 64}))
    line = not_ready(folder, TRAINED % (", adapter: ./none", "org/hub"), command, capsys)
    assert "p.yaml:2 models.student.adapter: the adapter's rank 64" in line
    text = (TRAINED % ("", "org/hub")).replace("org/hub,", "./none,")
    line = not_ready(folder, text, command, capsys)
    assert "p.yaml:1 servers.student.model: model directory without config.json" in line


@pytest.mark.parametrize("command", ["check", *WORK])
def test_the_teacher_is_looked_for_by_every_command_that_asks_it(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    line = not_ready(folder, KEYED, command, capsys)
    assert "p.yaml:1 servers.main.api_key_env" in line
    assert "the environment variable NO_SUCH_KEY is not set" in line
    text = "servers: {main: {kind: scripted, script: ekko}}\n"
    assert "p.yaml:1 servers.main.script: there is no script 'ekko'" in not_ready(
        folder, text, command, capsys
    )


def test_what_a_command_does_not_need_may_be_missing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refiner can be trained before it is there, and samples can be generated before that."""
    assert "models.refiner.adapter" in not_ready(folder, REFINED, "refine", capsys)
    assert cli.main(["generate", str(folder), "-p", "p", "-w", str(tmp_path / "w")]) == 0
    assert "models.refiner.adapter" in refused(
        ["run", str(folder), "-p", "p", "-w", str(tmp_path / "w")], capsys
    )
    text = REFINED + "loop: {samples_per_round: null, accepted: 4}"  # refines what it generates
    assert "models.refiner.adapter" in not_ready(folder, text, "generate", capsys)
    text = REFINED + "training: {refiner: {base: ./nomodel}}"
    (folder / "profiles" / "p.yaml").write_text(text)
    line = refused(["train", str(folder), "-p", "p", "--role", "refiner", "-o", str(tmp_path / "o")], capsys)
    assert "p.yaml:4 training.refiner.base" in line


def test_a_workspace_that_another_run_holds(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = "import sys, pathlib; from factory.store.store import Store\n"
    script += "with Store.open(pathlib.Path(sys.argv[1])): print('open', flush=True); sys.stdin.read()"
    words = [sys.executable, "-c", script, str(tmp_path / "w")]
    holder = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    try:
        line = refused(["generate", str(folder), "-w", str(tmp_path / "w")], capsys)
    finally:
        holder.communicate("")
    assert f"held by process {holder.pid}" in line


def test_a_database_of_a_newer_version(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store.open(tmp_path / "w"):
        pass
    with duckdb.connect(str(tmp_path / "w" / "factory.duckdb")) as connection:
        connection.execute("INSERT INTO migrations SELECT 99, 'future', now()")
    for words in (["generate", str(folder)], ["status"], ["report"]):
        line = refused([*words, "-w", str(tmp_path / "w")], capsys)
        assert "version 99" in line
        assert "upgrade" in line


def test_a_workspace_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["status"],
        ["sql", "SELECT 1"],
        ["trace", "x"],
        ["report"],
        ["export", str(tmp_path / "o")],
    ):
        assert "there is no such folder" in refused([*words, "-w", str(tmp_path / "w")], capsys)
    (tmp_path / "w").mkdir()
    assert "the folder holds no database" in refused(["status", "-w", str(tmp_path / "w")], capsys)
    (tmp_path / "w" / "factory.duckdb").write_text("hello")
    refused(["status", "-w", str(tmp_path / "w")], capsys)


def test_a_disk_that_cannot_be_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    line = refused(["generate", str(folder), "-w", str(tmp_path / "file" / "w")], capsys)
    assert "cannot be made" in line
    with Store.open(tmp_path / "w"):
        pass
    line = refused(["report", "-w", str(tmp_path / "w"), "--html", "/proc/none/report.html"], capsys)
    assert line


@pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs a mount of its own, which this machine does not allow",
)
@pytest.mark.parametrize("options", ["size=64k", "ro"], ids=["full", "read_only"])
def test_a_disk_that_is_full_or_read_only(folder: Path, tmp_path: Path, options: str) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = f"{sys.executable} -m factory.cli run {folder} -w {disk}/w"
    script = f"mount -t tmpfs -o {options} tmpfs {disk} && exec {command}"
    found = subprocess.run(
        [shutil.which("unshare") or "unshare", "-rm", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2, found.stderr
    assert found.stderr.splitlines()[-1].startswith("error: ")
    assert str(disk) in found.stderr
