"""The audit page beside a run in the same process: in a thread, for as long as the run holds its workspace.

It asks the run over its socket, as a page in a process of its own does, and ends with it, so that a command
that is done returns.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from factory.audit.server import AuditServer


@contextlib.contextmanager
def serve_beside(workspace: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """While it is open the page answers at an address that `tell` is given once.

    Raises InputError where no port can be had.
    """
    server = AuditServer(workspace)
    thread = threading.Thread(target=server.run, name="audit", daemon=True)
    thread.start()
    try:
        tell(f"audit page, until the run ends: {server.url}")
        yield
    finally:
        server.stop()
        thread.join()
        tell(f"the audit page ended with the run; again: factory audit {workspace}")
