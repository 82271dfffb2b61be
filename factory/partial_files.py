"""Where a file or a folder is written before it takes its name: what stands under a name is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from factory.errors import InputError, WorkspaceError


def partial_of(path: Path) -> Path:
    """A hidden neighbour of `path`.

    Raises InputError where `path` is there and is no file: replacing a device would destroy it.
    """
    check_replaceable(path)
    return path.with_name(f".{path.name}.partial")


def check_replaceable(path: Path) -> None:
    """Raises InputError where `path` is there and is no file."""
    if path.exists() and not path.is_file():
        raise InputError("is there and is no file", where=str(path), hint="name a new file or one to replace")


@contextmanager
def new_folder(directory: Path, what: str) -> Iterator[Path]:
    """A folder to fill, which is `directory` once the body is through, and gone where the body fails.

    Raises InputError where `directory` is no folder or holds something, WorkspaceError, which says that
    `what` cannot be written, where the disk refuses.
    """
    directory = directory.resolve()
    partial = directory.with_name(f".{directory.name}.{token_hex(4)}.partial")
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            hint = "name a new or empty folder"
            raise InputError("there is something already", where=str(directory), hint=hint)
        partial.mkdir(parents=True)
        yield partial
        partial.replace(directory)
    except OSError as error:
        reason = f"{what} cannot be written: {error.strerror or error}"
        raise WorkspaceError(reason, where=str(directory)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
