"""Writes the files of a first recipe: a made-up domain of five sections that runs as a dry run.

The files lie in factory/template as they are written. Nothing that exists is touched.
"""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from factory.errors import InputError


def write_template(directory: Path) -> list[str]:
    """Writes the template into `directory`; returns the files' names relative to it.

    Raises InputError where the folder holds anything already or cannot be written.
    """
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise InputError("is there already and not empty", where=str(directory), hint="name a new folder")
        return sorted(_copy(resources.files("factory") / "template", directory, ""))
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(directory)) from error


def _copy(template: Traversable, directory: Path, prefix: str) -> list[str]:
    written: list[str] = []
    directory.mkdir(parents=True, exist_ok=True)
    for item in template.iterdir():
        if item.is_dir():
            written += _copy(item, directory / item.name, f"{prefix}{item.name}/")
        else:
            (directory / item.name).write_bytes(item.read_bytes())
            written.append(prefix + item.name)
    return written
