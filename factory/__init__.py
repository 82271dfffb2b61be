"""The core of the dataset factory: values, store, loop, models and command line.

In a notebook: `factory.open("workspace").sql("FROM funnel").pandas()`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from factory.notebook import Workspace

__version__ = "0.1.0"


def open(workspace: str | PathLike[str]) -> Workspace:
    """A workspace to ask in SQL, read-only, also while a run writes."""
    from pathlib import Path

    from factory.notebook import Workspace

    return Workspace(Path(workspace))
