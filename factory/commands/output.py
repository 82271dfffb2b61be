"""What a command tells as --json and --log-format say: progress on stderr, what it found on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from factory.commands.arguments import LogFormat

if TYPE_CHECKING:
    from factory.progress import Progress


def open_progress(json: bool, log: LogFormat) -> Progress:
    """Progress with bars, or with plain lines beside JSON."""
    from factory.progress import Progress

    return Progress(bars=not json, as_json=log is LogFormat.json)


def print_found(found: dict[str, Any], json: bool) -> None:
    """One JSON object, or a line for each key and tables below."""
    from factory.screen import print_json, print_mapping

    if json:
        print_json(found)
    else:
        print_mapping(found)
