"""What a killed process would pay for twice is bounded, however slow the disk is."""

from __future__ import annotations

import asyncio
import threading

import pytest

from factory.backlog import GROUP_ANSWERS
from factory.errors import WorkspaceError
from factory.store.store import Store
from factory.store.writer import Writer
from tests.test_engine import SPEC, Script, engine_on, run

NUM_TASKS = 3 * GROUP_ANSWERS


@pytest.fixture
def disk(monkeypatch) -> threading.Event:
    """Commits wait until it is set."""
    opened, write = threading.Event(), Writer._write

    def wait_and_write(self: Writer, group) -> None:
        opened.wait()
        write(self, group)

    monkeypatch.setattr(Writer, "_write", wait_and_write)
    return opened


async def settled(model: Script) -> int:
    """How many calls were sent once no more are."""
    while True:
        before = model.num_followed
        await asyncio.sleep(0.2)
        if before and model.num_followed == before:
            return before


async def test_no_call_is_sent_while_a_group_of_answers_is_not_on_the_disk(tmp_path, disk):
    model = Script()
    with Store.open(tmp_path) as store:
        work = asyncio.create_task(run(engine_on(store), model, NUM_TASKS))
        num_sent = await settled(model)
        disk.set()
        outcomes = await work
        assert store.num_unsaved <= GROUP_ANSWERS
    assert GROUP_ANSWERS <= num_sent <= GROUP_ANSWERS + SPEC.concurrency
    assert len(outcomes) == NUM_TASKS == model.num_followed


async def test_a_disk_that_refuses_ends_the_wait(tmp_path, disk, monkeypatch):
    def refuse(self: Writer, group) -> None:
        disk.wait()
        raise OSError("no space left")

    monkeypatch.setattr(Writer, "_write", refuse)
    store, model = Store.open(tmp_path), Script()
    work = asyncio.create_task(run(engine_on(store), model, NUM_TASKS))
    await settled(model)
    disk.set()
    with pytest.raises(WorkspaceError, match="no space left"):
        await work
    with pytest.raises(WorkspaceError):
        store.close()


async def test_one_that_stops_waiting_stops_none_of_the_others(tmp_path, disk):
    model = Script()
    with Store.open(tmp_path) as store:
        engine = engine_on(store)
        work = asyncio.create_task(run(engine, model, NUM_TASKS))
        await settled(model)
        left = asyncio.create_task(engine._backlog.wait_for_room())
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        disk.set()
        assert left.cancelled() and len(await work) == NUM_TASKS
