"""Where a file that takes the place of another is written first: what stands under a name is whole."""

from __future__ import annotations

from pathlib import Path

from factory.errors import InputError


def partial_of(path: Path) -> Path:
    """A hidden neighbour of `path`.

    Raises InputError where `path` is there and is no file: replacing a device would destroy it.
    """
    if path.exists() and not path.is_file():
        raise InputError("is there and is no file", where=str(path), hint="name a new file or one to replace")
    return path.with_name(f".{path.name}.partial")
