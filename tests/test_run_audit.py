"""`factory run --audit`: the page answers while the run goes on, takes verdicts, and ends with it."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from audit_http import Visitor

from factory import cli, loop
from factory.audit.beside import serve_beside
from factory.init import write_template
from factory.progress import Progress
from factory.store.queries import read
from factory.store.store import Store


def test_the_page_is_there_while_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_template(tmp_path / "domain")
    notes, pages, visitors = list[str](), list[str](), list[Visitor]()
    plain_note, plain_round = Progress.note, loop.run_round

    def note(self: Progress, text: str) -> None:
        notes.append(text)
        plain_note(self, text)
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", text):
            server = SimpleNamespace(port=int(found[1]), token=found[2])
            visitors.append(Visitor(server).enter().named("Ada"))  # type: ignore[arg-type]

    monkeypatch.setattr(Progress, "note", note)

    async def run_round(*given: object, **named: object) -> object:
        found = await plain_round(*given, **named)  # type: ignore[arg-type]
        page = visitors[0].get("/review?queue=random").text
        (sample_id,) = re.findall(r'id="verdict".*?name="about" value="([^"]+)"', page, re.DOTALL)
        assert visitors[0].post("/review", {"about": sample_id, "action": "keep"}).status == 303
        pages.append(visitors[0].get("/").text)
        return found

    monkeypatch.setattr(loop, "run_round", run_round)
    words = ["run", str(tmp_path / "domain"), "--workspace", str(tmp_path / "w"), "--audit"]
    assert cli.main(words) == 0
    assert sum("?token=" in each for each in notes) == 1
    assert notes[-1].endswith(f"factory audit {tmp_path / 'w'}")
    assert pages and "<h1>Overview</h1>" in pages[-1] and "run_" in pages[-1]
    assert "?token=" in capsys.readouterr().err
    assert ("Ada", "keep") in read(tmp_path / "w", "SELECT reviewer, action FROM verdicts").rows
    with contextlib.suppress(ConnectionRefusedError):
        pytest.fail(f"it still answers: {visitors[0].get('/').status}")


def test_a_page_beside_a_run_leaves_the_logging_of_others_alone(tmp_path: Path) -> None:
    closed = list[str]()

    class Handler(logging.Handler):
        def close(self) -> None:
            closed.append("closed")
            super().close()

    handler = Handler()
    try:
        with Store.open(tmp_path) as store, serve_beside(store.workspace, lambda _: None):
            assert closed == []
    finally:
        handler.close()


def test_an_address_that_cannot_be_told_leaves_no_server(tmp_path: Path) -> None:
    told = list[str]()

    def tell(text: str) -> None:
        told.append(text)
        if len(told) == 1:
            raise BrokenPipeError

    with Store.open(tmp_path) as store, pytest.raises(BrokenPipeError), serve_beside(store.workspace, tell):
        pytest.fail("nobody knows the address")
    assert "audit" not in {thread.name for thread in threading.enumerate()}
    found = re.search(r"127\.0\.0\.1:(\d+)", told[0])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(found[1]) if found else 0), timeout=5)
