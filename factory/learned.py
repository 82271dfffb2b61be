"""Which sections a refiner learned drafts about, as a file beside its adapter.

What an adapter is measured by is only held out if it has not learned it, and an adapter may come from
anywhere: one that does not say is not taken at its word.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

FILE: Final = "learned.json"


def save(sections: Iterable[str], folder: Path) -> None:
    """Writes the keys of the sections beside the adapter in `folder`."""
    text = json.dumps({"sections": sorted(set(sections))}, ensure_ascii=False)
    (folder / FILE).write_text(text, encoding="utf-8")


def is_unseen(sections: Iterable[str], folder: Path | None) -> bool:
    """Whether the adapter in `folder` says that it learned none of these sections; True for a bare model."""
    if folder is None:
        return True
    try:
        learned = json.loads((folder / FILE).read_text(encoding="utf-8"))["sections"]
        return not set(sections) & set(learned)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def warning(what: str) -> str:
    """What a reader of the figures must know where `is_unseen` is false."""
    return f"{what} does not say that it never learned these sections: its figures may flatter it"
