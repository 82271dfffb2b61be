"""The Python interpreter while thousands of calls are under way: a fast loop, seldom a collection.

The cyclic collector walks every object again and again, the hundred thousands of loaded modules and
sources among them, while a call leaves next to nothing for it: reference counts free what it used. And a
busy event loop lets the store's thread wait five milliseconds for each of its few steps, which is most of
the time of a commit. Both are set for the whole process; figures stand in docs/log.md.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

NUM_YOUNG: Final = 10_000  # objects made, less those freed, that call for a collection; Python's own: 700
SWITCH_SECONDS: Final = 0.0005  # Python's own: 0.005

_usual: list[tuple[tuple[int, int, int], float]] = []  # what to go back to; one entry for each that is open

Result = TypeVar("Result")


def run_work(work: Coroutine[Any, Any, Result]) -> Result:
    """What `asyncio.run` does, in uvloop's event loop (libuv)."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@contextmanager
def tuned_for_calls() -> Iterator[None]:
    """While it is open the collector comes seldom and leaves alone what was there; several may be open."""
    _usual.append((gc.get_threshold(), sys.getswitchinterval()))
    gc.freeze()
    gc.set_threshold(NUM_YOUNG, *_usual[0][0][1:])
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        yield
    finally:
        if len(_usual) == 1:
            threshold, switch_seconds = _usual[0]
            gc.set_threshold(*threshold)
            gc.unfreeze()
            sys.setswitchinterval(switch_seconds)
        # Of several the first entry stays to the last: it holds what was there before all of them.
        _usual.pop()
