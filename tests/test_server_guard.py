"""The guard of a server: whatever happens to the factory, nothing of a server is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

FAKE = str(Path(__file__).with_name("fake_vllm.py"))
GUARD = [sys.executable, "-m", "factory.models.guard", "--"]
# A factory in small: starts a guard as the product does, tells its pid, and waits.
FACTORY = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
guard = subprocess.Popen({[*GUARD, sys.executable, FAKE, "--children"]!r},
                         stdin=subprocess.PIPE, start_new_session=True)
print("guard", guard.pid, flush=True)
# more
time.sleep(600)
"""


def start_factory(more: str = "pass") -> tuple[subprocess.Popen[str], int, list[int]]:
    """The factory, its guard's pid, and the pids of the server and its stubborn children."""
    script = FACTORY.replace("# more", more)
    factory = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert factory.stdout is not None
    found: dict[str, list[int]] = {}
    while len(found) < 2:
        line = factory.stdout.readline()
        assert line, "the factory died"
        word, *numbers = line.split()
        if word in {"guard", "pids"}:
            found[word] = [int(number) for number in numbers]
    assert len(found["pids"]) == 4
    assert all(is_alive(pid) for pid in found["pids"])
    return factory, found["guard"][0], found["pids"]


def wait_until_gone(pids: list[int], seconds: float = 25.0) -> list[int]:
    """Those that are still alive after a while, zombies not counted."""
    deadline = time.monotonic() + seconds
    left = pids
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [pid for pid in left if is_alive(pid)]
    return left


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_when_the_factory_is_killed(number):
    factory, guard, pids = start_factory()
    factory.send_signal(number)
    factory.wait()
    assert wait_until_gone([guard, *pids]) == []


def test_nothing_is_left_when_the_guard_is_told_to_end():
    factory, guard, pids = start_factory()
    os.kill(guard, signal.SIGTERM)
    assert wait_until_gone([guard, *pids]) == []
    assert is_alive(factory.pid)
    factory.kill()
    factory.wait()


def test_a_forked_child_that_keeps_the_pipe_open_does_not_keep_the_server():
    factory, guard, pids = start_factory("os.fork()")
    forked = [child for child in psutil.Process(factory.pid).children() if child.pid != guard]
    factory.kill()
    factory.wait()
    assert wait_until_gone([guard, *pids]) == []
    assert [child.is_running() for child in forked] == [True], "the test's own child held the pipe"
    forked[0].kill()


def test_ctrl_c_in_the_terminal_does_not_reach_the_server():
    factory, guard, pids = start_factory()
    assert len({os.getsid(factory.pid), os.getsid(guard), os.getsid(pids[0])}) == 3
    factory.kill()
    factory.wait()
    assert wait_until_gone([guard, *pids]) == []


@pytest.mark.parametrize("code", [0, 3])
def test_the_commands_exit_code_is_the_guards(code):
    command = [*GUARD, sys.executable, "-c", f"import sys; sys.exit({code})"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as guard:
        assert guard.wait(20) == code


def test_a_command_that_was_killed_is_told_and_leaves_nothing():
    script = (
        f"import os, subprocess, sys; subprocess.Popen([sys.executable, {FAKE!r}]); os.kill(os.getpid(), 9)"
    )
    with subprocess.Popen([*GUARD, sys.executable, "-c", script], stdin=subprocess.PIPE) as guard:
        group = psutil.Process(guard.pid)
        assert group is not None
        assert guard.wait(20) == 128 + 9
    found = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert [sys.executable, FAKE] not in found


def test_the_guard_imports_nothing_heavy():
    code = "import sys; import factory.models.guard; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"asyncio", "pydantic", "yaml", "torch", "aiohttp"} & set(done.stdout.split())
