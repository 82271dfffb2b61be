"""Progress of long work on stderr: bars on a terminal, elsewhere a line every few seconds, plain or JSON.

A stage counts; a thread of its own draws, so counting costs next to nothing and a stage that
stands still shows that it is alive. Texts come from anywhere: nothing in them is taken for markup
or terminal control. What is printed on stdout, and what was achieved, is not here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TextIO

from factory.printable import printable_line

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

WIDTH = 160
STOPPED = (asyncio.CancelledError, KeyboardInterrupt)  # what Ctrl-C becomes


class Stage:
    """One piece of work of `total` units; `update` may be passed wherever an OnProgress is wanted."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self.name = name
        self.done = 0
        self.total = total
        self.detail = ""
        self.values: Mapping[str, Any] = {}
        self._unit = unit
        self._started = time.monotonic()
        self._earlier, self._earlier_until = 0, self._started
        self._lock = threading.Lock()

    def advance(self, num: int = 1, detail: str = "") -> None:
        """`num` more units are done; an empty detail leaves the last one standing."""
        with self._lock:
            self.done += num
            self.detail = detail or self.detail

    def update(
        self,
        done: int,
        total: int | None = None,
        detail: str = "",
        values: Mapping[str, Any] | None = None,
        *,
        earlier: int = 0,
    ) -> None:
        """So many units are done in all, of so many; `values` say what the detail says, for programs.

        Of `earlier` units, which an earlier command did, no rate is made: it counts from here on.
        """
        with self._lock:
            if earlier:
                self._earlier, self._earlier_until = earlier, time.monotonic()
            self.done = done
            self.total = self.total if total is None else total
            self.detail = detail or self.detail
            self.values = values or self.values

    def event(self) -> dict[str, Any]:
        """Count, rate, seconds taken and left, and detail, for programs."""
        with self._lock:
            done, total, detail, values = self.done, self.total, self.detail, self.values
            rate = self._rate()
        seconds = time.monotonic() - self._started
        left = (total - done) / rate if total is not None and rate else None
        found = {"stage": self.name, "done": done, "total": total, "unit": self._unit}
        found |= {"per_second": round(rate, 2), "seconds": round(seconds, 2)}
        return found | {"seconds_left": None if left is None else round(left, 1), "detail": detail, **values}

    def line(self, *, finished: bool = False) -> str:
        """Count, rate, time left (time taken, once finished) and detail, on one line."""
        with self._lock:
            done, total, detail = self.done, self.total, self.detail
            rate = self._rate()
        seconds = time.monotonic() - self._started
        count = f"{done:,}" if total is None else f"{done:,}/{total:,}"
        knows_nothing = not done and total is None and detail
        parts = [] if knows_nothing else [f"{count} {self._unit}".rstrip()]
        if rate:
            parts.append(f"{rate:,.1f}/s" if rate < 100 else f"{rate:,.0f}/s")
            if total is not None and total > done and not finished:
                parts.append(f"{clock((total - done) / rate)} left")
        if finished or not rate:
            parts.append(f"{clock(seconds)}")
        if detail:
            parts.append(detail)
        return printable_line(", ".join(parts), WIDTH)

    def _rate(self) -> float:
        """Units a second of those that were done here; 0 before the first."""
        seconds = time.monotonic() - (self._earlier_until if self._earlier else self._started)
        return (self.done - self._earlier) / seconds if seconds > 0 else 0.0


class Progress:
    """What a person sees while the factory works; one for a command."""

    def __init__(
        self,
        stream: TextIO | None = None,
        interval_seconds: float = 5.0,
        bars: bool = True,
        as_json: bool = False,
    ) -> None:
        """`bars=False` asks for plain lines on a terminal too, `as_json` for a JSON object a line."""
        self._stream = stream or sys.stderr
        self._interval_seconds = interval_seconds
        self._as_json = as_json
        self.stages: dict[str, Stage] = {}  # by name; of those that went before too
        self._bars: Bars | None = None
        if bars and not as_json and self._stream.isatty():
            self._bars = _start_bars(self._stream)

    @contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Stage]:
        """Shows a stage while the body runs, and how it ended."""
        stage = self.stages[name] = Stage(name, total, unit)
        over = threading.Event()
        show = _show_bar(self._bars, stage) if self._bars else partial(self._show_line, stage)
        every = 0.25 if self._bars else self._interval_seconds
        thread = threading.Thread(target=_repeat, args=(show, over, every), daemon=True)
        thread.start()
        try:
            yield stage
        except BaseException as error:
            self._end(stage, over, thread, _stopped_by(error))
            raise
        self._end(stage, over, thread, None)

    def note(self, text: str) -> None:
        """Prints one line, above the bars where there are any."""
        if self._as_json:
            self._log("note", {"text": text})
            return
        line = printable_line(text, 400)
        if self._bars:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        if self._bars:
            self._bars.stop()
            self._bars = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _end(
        self, stage: Stage, over: threading.Event, thread: threading.Thread, stopped_by: str | None
    ) -> None:
        over.set()
        thread.join()
        if self._bars:
            task = next((task for task in self._bars.tasks if task.fields["stage"] is stage), None)
            if task:
                self._bars.remove_task(task.id)
        if self._as_json:
            event = "done" if stopped_by is None else "stopped"
            self._log(event, {**stage.event(), "stopped_by": stopped_by})
            return
        how = "" if stopped_by is None else f"stopped by {stopped_by}, "
        self.note(f"{stage.name}: {how}{stage.line(finished=True)}")

    def _show_line(self, stage: Stage) -> None:
        if self._as_json:
            self._log("progress", stage.event())
        else:
            self.note(f"{stage.name}: {stage.line()}")

    def _log(self, event: str, values: dict[str, Any]) -> None:
        """One JSON object on a line of its own, in ASCII; `event` is progress, done, stopped or note."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        print(json.dumps({"at": at, "event": event, **values}), file=self._stream, flush=True)


def _stopped_by(error: BaseException) -> str:
    """Who stopped a stage: an error, the one that a cancellation was given as its message, or the user."""
    if isinstance(error, STOPPED):
        return str(error).removeprefix("stopped by ") or "the user"
    return type(error).__name__


def clock(seconds: float) -> str:
    """A duration as people read it: 8s, 3m 05s, 2h 10m."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02}m"


def _show_bar(bars: Bars, stage: Stage) -> Callable[[], None]:
    """Adds a bar; what is returned brings it up to date."""
    task = bars.add_task(printable_line(stage.name), total=stage.total, stage=stage, line=stage.line())
    return lambda: bars.update(task, completed=stage.done, total=stage.total, line=stage.line())


def _repeat(show: Callable[[], None], over: threading.Event, every: float) -> None:
    while not over.wait(every):
        show()


def _start_bars(stream: TextIO) -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bars

    bars = Bars(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[line]}", markup=False),
        console=Console(file=stream),
        refresh_per_second=4,
    )
    bars.start()
    return bars
