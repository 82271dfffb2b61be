"""One contender's time, processor time and memory, printed as one line of JSON. Standard library only."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Measures its body, which puts the number of `samples` into the mapping; prints both.

    Processor time is user and system time of this process and of children that have ended.
    """
    found: dict[str, float] = {}
    cpu_seconds, began = _cpu_seconds(), time.perf_counter()
    yield found
    found["seconds"] = time.perf_counter() - began
    found["cpu_seconds"] = _cpu_seconds() - cpu_seconds
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found["peak_mib"] = max(usage.ru_maxrss for usage in usages) / 1024
    print(json.dumps(found), flush=True)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
