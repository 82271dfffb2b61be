"""What the log of a vLLM says to a person: how far it is, its last lines, what it died of. Only reads."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TAIL_LINES: Final = 15
TAIL_BYTES: Final = 1 << 17
# "(EngineCore pid=71) INFO 11-23 18:38:02 [core.py:133] text", as vLLM writes its log.
PREFIX = re.compile(r"^(\([^)]*pid=\d+\) )?((INFO|WARNING|ERROR|DEBUG) [\d:. -]+\[[^\]]*\] ?)?")
CAUSE = re.compile(r"^[\w.]*(Error|Exception): (?!Engine core init|EngineCore encountered)")  # see above
KILLED: Final = 128 + 9  # exit code
ENGINE_KILLED: Final = "engine core exited unexpectedly"


def last_progress(log: Path) -> str:
    """What vLLM said last about its progress; its imports take a while and say nothing."""
    told = [line for line in _read(log) if " INFO " in line[:60]]
    return PREFIX.sub("", told[-1])[:100] if told else "importing vLLM"


def read_tail(log: Path) -> list[str]:
    """The log's last lines without the prefixes, repetitions and rulers that hide what they say."""
    lines: list[str] = []
    for line in _read(log):
        text = PREFIX.sub("", line)
        if text.strip(" ^~") and (not lines or text != lines[-1]):
            lines.append(text)
    return lines


def find_cause(lines: Sequence[str], exit_code: int | None = None) -> str:
    """The first error among lines of a log, or the last line."""
    if cause := next(filter(CAUSE.match, lines), None):
        return cause
    if exit_code == KILLED or any(ENGINE_KILLED in line for line in lines):
        return "it ended without a word, as what the system kills when memory is short"
    return (lines or ["its log is empty"])[-1]


def _read(log: Path) -> list[str]:
    """The end of the log file; of lines that were drawn over, what was drawn last."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        return [
            line.rstrip().rpartition("\r")[2] for line in file.read().decode("utf-8", "replace").split("\n")
        ]
    return []
