from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
import threading
import time

import pytest

from factory.progress import Progress, Stage, clock


def test_a_stage_says_count_rate_time_left_and_detail() -> None:
    stage = Stage("generate", 600, "samples")
    assert stage.line() == "0/600 samples, 0s"
    stage._started -= 10
    stage.advance(100, "$0.10")
    stage.advance(100)
    assert stage.line() == "200/600 samples, 20.0/s, 20s left, $0.10"
    stage.update(600, 600, "done\x1b[31m")
    assert stage.line(finished=True) == "600/600 samples, 60.0/s, 10s, done␛[31m"


def test_a_stage_without_a_total_counts() -> None:
    stage = Stage("wait", None, "")
    stage._started -= 4
    stage.advance(8)
    assert stage.line() == "8, 2.0/s"


def test_a_stage_that_cannot_count_yet_says_what_it_does() -> None:
    stage = Stage("train", None, "steps")
    assert stage.line() == "0 steps, 0s"
    stage.update(0, None, "loads libraries")
    assert stage.line() == "0s, loads libraries"
    stage.update(0, 480, "the base loads")
    assert stage.line() == "0/480 steps, 0s, the base loads"


def test_what_an_earlier_command_did_makes_no_rate() -> None:
    stage = Stage("train", None, "steps")
    stage._started -= 20
    stage.update(865, 2000, "goes on at step 865", earlier=865)
    assert stage.line() == "865/2,000 steps, 20s, goes on at step 865"
    assert stage.event()["per_second"] == 0 and stage.event()["seconds_left"] is None
    stage._earlier_until -= 10
    stage.update(905, 2000, "loss 0.1")
    assert stage.line() == "905/2,000 steps, 4.0/s, 4m 33s left, loss 0.1"
    assert stage.event()["per_second"] == 4 and stage.event()["seconds_left"] == pytest.approx(273.7, abs=0.2)
    assert stage.line(finished=True) == "905/2,000 steps, 4.0/s, 20s, loss 0.1"


def test_lines_come_now_and_then_and_at_the_end() -> None:
    stream = io.StringIO()
    progress = Progress(stream, interval_seconds=0.05)
    with progress.stage("train", 10, "steps") as stage:
        time.sleep(0.2)
        stage.update(10, 10, "loss [red]0.1[/red]")
    lines = stream.getvalue().splitlines()
    assert len(lines) >= 3
    assert lines[0].startswith("train: 0/10 steps")
    assert lines[-1].startswith("train: 10/10 steps")
    assert "loss [red]0.1[/red]" in lines[-1]


def test_a_stage_that_fails_says_so_and_lets_the_error_through() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError, match="x"), Progress(stream).stage("refine", 3):
        raise ValueError("x")
    assert stream.getvalue().startswith("refine: stopped by ValueError, 0/3")


def test_a_stage_that_another_error_stopped_says_which() -> None:
    for message, shown in (
        ("", "the user"),
        ("stopped by TrainingError: no memory", "TrainingError: no memory"),
    ):
        stream = io.StringIO()
        with pytest.raises(asyncio.CancelledError), Progress(stream).stage("train", 3):
            raise asyncio.CancelledError(message)
        assert stream.getvalue().startswith(f"train: stopped by {shown}, 0/3")


def test_counting_is_right_from_many_threads() -> None:
    with Progress(io.StringIO()).stage("count", 4000) as stage:
        threads = [threading.Thread(target=lambda: [stage.advance() for _ in range(1000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert stage.done == 4000


def test_notes_are_one_plain_line() -> None:
    stream = io.StringIO()
    Progress(stream).note("two\nlines [bold]\x07")
    assert stream.getvalue() == "two lines [bold]␇\n"


def test_a_json_log_has_an_object_a_line() -> None:
    stream = io.StringIO()
    with Progress(stream, interval_seconds=0.02, as_json=True) as progress:
        with progress.stage("generate", 10, "samples") as stage:
            stage.update(5, 10, "half\u2028way", {"accepted": 3, "failed": {"timeout": 1}})
            time.sleep(0.1)
        progress.note("two\nlines")
        with pytest.raises(ValueError, match="x"), progress.stage("refine"):
            raise ValueError("x")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines if line["event"] != "progress"] == ["done", "note", "stopped"]
    first = lines[0]
    assert first["event"] == "progress" and first["stage"] == "generate"
    assert (first["done"], first["total"], first["accepted"]) == (5, 10, 3) and first["seconds_left"] >= 0
    assert lines[-1]["stopped_by"] == "ValueError" and lines[-2]["text"] == "two\nlines"


def test_bars_are_drawn_on_a_terminal() -> None:
    script = (
        "import time; from factory.progress import Progress\n"
        "with Progress() as p:\n"
        "    with p.stage('gen[x]', 4, 'samples') as s:\n"
        "        for _ in range(4): s.advance(1, '[d]'); time.sleep(.15)\n"
        "    p.note('note [b]')\n"
    )
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", script], stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:  # how a pseudo-terminal says that the other side is closed
            break
        shown += piece
        if not piece:
            break
    os.close(master)
    assert process.wait() == 0
    text = shown.decode()
    assert "gen[x]" in text
    assert "━" in text
    assert "note [b]" in text
    assert "gen[x]: 4/4 samples" in text


@pytest.mark.parametrize(("seconds", "text"), [(8.9, "8s"), (185, "3m 05s"), (7800, "2h 10m")])
def test_durations_are_short(seconds: float, text: str) -> None:
    assert clock(seconds) == text
