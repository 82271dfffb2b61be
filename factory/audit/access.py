"""Questions of the pages to the workspace, whether a run holds the file or nobody does.

The file is opened for each question and let go, so that a run can start while the page is open.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.store.confined import Table
from factory.store.queries import Reader


class Access:
    """What pages ask; safe from several threads."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace.resolve()

    def table(self, sql: str, params: Sequence[Any] = ()) -> Table:
        """The answer to one SELECT; raises as `Reader.table` does."""
        with Reader(self.workspace) as reader:
            return reader.table(sql, params)

    def select(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of one SELECT as mappings; raises as `table` does."""
        with Reader(self.workspace) as reader:
            return reader.select(sql, params)
