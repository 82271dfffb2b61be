"""How much memory the process of the audit page may take, whatever is asked of it.

DuckDB keeps its own limit for tables, sorts and groups; what functions make of texts and lists lies outside
of it. Beyond the limit set here an allocation fails, the question with it, and the page goes on.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

import psutil

from factory.store.database import GIB, memory_limit

HEADROOM: Final = 4 * GIB  # beside DuckDB's own limit
PER_CORE: Final = GIB // 8  # addresses that a thread reserves and hardly uses


def limit_memory() -> None:
    """Sets the limit of this process; where the system knows none, nothing holds but DuckDB's own."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        most = psutil.Process().memory_info().vms + memory_limit() + HEADROOM
        most += PER_CORE * (os.cpu_count() or 1)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
