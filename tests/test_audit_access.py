"""The audit page shares a workspace with runs: it holds the file, lets go of it, and asks who has it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from factory.audit.access import Access
from factory.errors import InputError, WorkspaceError
from factory.store.queries import read
from factory.store.store import Store

SAMPLE = {
    "id": "smp_1", "run_id": "run_1", "round": 1, "strategy": "grounded", "operation": "grounded",
    "slice": "a", "question": "Why?", "answer": "So.", "messages": [], "attributes": {}, "content_hash": "h",
}  # fmt: skip
VERDICT = {"sample_id": "smp_1", "reviewer": "Ada", "action": "drop", "reason": "wrong"}

RUNS = """
import sys
from pathlib import Path
from factory.store.store import Store
for _ in range(3):
    with Store.open(Path(sys.argv[1])) as store:
        store.append("stages", [{"run_id": "r", "round": 1, "stage": "refine", "status": "done"}])
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    with Store.open(tmp_path / "w") as store:
        store.append("samples", [SAMPLE])
    return tmp_path / "w"


def verdicts(asks: Any) -> list[tuple[str, str]]:
    rows = asks.select("SELECT reviewer, action FROM verdicts ORDER BY created_at, rowid")
    return [(row["reviewer"], row["action"]) for row in rows]


def test_others_are_answered_while_the_page_holds_the_file(workspace: Path) -> None:
    with Access(workspace) as access:
        assert access.select("SELECT id FROM samples") == [{"id": "smp_1"}]
        assert read(workspace, "SELECT count(*) FROM samples").rows == ((1,),)


def test_a_run_that_wants_in_gets_in_and_answers_the_page(workspace: Path) -> None:
    with Access(workspace) as access:
        access.add_verdicts([VERDICT])
        with Store.open(workspace) as store:
            store.append("samples", [{**SAMPLE, "id": "smp_2"}])
            store.flush()
            assert access.select("SELECT count(*) AS n FROM samples") == [{"n": 2}]
            access.add_verdicts([{**VERDICT, "reviewer": "Bob", "action": "keep"}])
            assert verdicts(store) == [("Ada", "drop"), ("Bob", "keep")]
            with pytest.raises(InputError, match="no verdict"):
                access.add_verdicts([{**VERDICT, "action": "burn"}])
        access.add_verdicts([{**VERDICT, "action": "withdrawn"}])
        assert verdicts(access) == [("Ada", "drop"), ("Bob", "keep"), ("Ada", "withdrawn")]


def test_a_verdict_that_is_sent_again_is_written_once(workspace: Path) -> None:
    """As after a holder wrote it and its answer was lost; what changes, or bears its own time, is written."""
    again = {**VERDICT, "reviewer": "Bob"}
    with Access(workspace) as access:
        access.add_verdicts([VERDICT])
        access.add_verdicts([VERDICT, again, VERDICT])
        with Store.open(workspace) as store:
            access.add_verdicts([VERDICT])
            access.add_verdicts([{**VERDICT, "action": "keep"}])
            soon = datetime.now(UTC) + timedelta(hours=1)
            access.add_verdicts([VERDICT, {**VERDICT, "created_at": soon.isoformat()}])
            expected = [("Ada", "drop"), ("Bob", "drop"), ("Ada", "keep"), ("Ada", "drop"), ("Ada", "drop")]
            assert verdicts(store) == expected


def test_a_question_under_way_does_not_open_the_file_again_after_the_end(workspace: Path) -> None:
    access, failures = Access(workspace), list[Exception]()

    def ask() -> None:
        try:
            access.select(
                "SELECT count(*) FROM range(100000000) a, range(1000) b WHERE a.range * b.range % 7 = 3"
            )
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while access._server is None or not access._server._running:
        time.sleep(0.01)
    access.close()
    thread.join()
    assert [str(error) for error in failures] == [f"{workspace}: the page has ended"]
    with Store.open(workspace), pytest.raises(InputError, match="no verdict"):
        access.add_verdicts([{**VERDICT, "action": "burn"}])  # whoever has the file may still be asked
    with pytest.raises(WorkspaceError, match="the page has ended"):
        access.select("SELECT 1")


def test_a_run_gets_in_while_pages_go_on_asking(workspace: Path) -> None:
    ended, failures, num_answers = threading.Event(), list[Exception](), [0]

    def look(access: Access) -> None:
        while not ended.is_set():
            try:
                access.select("SELECT count(*) AS n FROM samples")
                num_answers[0] += 1
                time.sleep(0.01)
            except Exception as error:
                failures.append(error)

    with Access(workspace) as access:
        threads = [threading.Thread(target=look, args=(access,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            subprocess.run([sys.executable, "-c", RUNS, str(workspace)], check=True)
        finally:
            ended.set()
            for thread in threads:
                thread.join()
        assert not failures
        assert num_answers[0] > 0
        assert access.select("SELECT count(*) AS n FROM stages") == [{"n": 3}]


def test_two_pages_share_a_workspace(workspace: Path) -> None:
    with Access(workspace) as first, Access(workspace) as second:
        first.select("SELECT 1")
        second.add_verdicts([VERDICT])
        assert verdicts(first) == verdicts(second) == [("Ada", "drop")]


@pytest.mark.parametrize(
    "wrong",
    [
        {"reviewer": " "},
        {"action": "DROP"},
        {"reason": "'; DROP TABLE samples"},
        {"action": "edit"},
        {"corrected": "x"},
        {"action": "edit", "corrected": "x" * (2**20 + 1)},
        {"sample_id": 3},
    ],
)
def test_a_verdict_that_says_nothing_clear_is_refused(workspace: Path, wrong: dict[str, Any]) -> None:
    with Access(workspace) as access:
        with pytest.raises(InputError):
            access.add_verdicts([VERDICT, {**VERDICT, **wrong}])
        assert verdicts(access) == []
