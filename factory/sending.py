"""The order in which tasks are sent: those about the same material one after another, so that prefixes hit.

A server that caches prefixes (vLLM does, by blocks of tokens from the prompt's beginning) computes a section
once for all prompts that begin with the same words up to it, if they come before it is forgotten. A plan goes
round its materials and meets each of them once a lap. So tasks are taken from it in windows and sent by
material; they are refined in the order of the plan all the same (`factory.feed`). Prompts are not looked at:
in our templates the material stands before what varies.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar

from factory.types import Task

MAX_WINDOW: Final = 512  # tasks; their samples may wait for one that is planned first and sent last
WINDOW_SHARE: Final = 8  # so many windows at least, since refining waits for the first of them

Item = TypeVar("Item")


def window_of(num_tasks: int) -> int:
    """How many tasks of a plan of so many are put into order at a time."""
    return max(1, min(MAX_WINDOW, num_tasks // WINDOW_SHARE))


def in_windows(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lazily, so many items at a time."""
    remaining = iter(items)
    while window := list(islice(remaining, size)):
        yield window


def by_material(tasks: Sequence[Task]) -> list[Task]:
    """The same tasks: materials in the order of their first task, within one those that are asked alike."""
    groups: dict[Hashable, list[Task]] = {}
    for task in tasks:
        groups.setdefault(_material(task), []).append(task)
    for group in groups.values():
        if len(group) > 1:
            group.sort(key=_manner)
    return [task for group in groups.values() for task in group]


def _material(task: Task) -> Hashable:
    """What a prompt shows first: the strategy's instruction, then the section or the first seed prompt."""
    seed = task.seeds[0].id if task.seeds else None
    return task.strategy, task.source.id if task.source else seed


def _manner(task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What else a prompt depends on: kind, manner, sections beside; numbers, such as laps, do not count."""
    chosen = (value for _, value in sorted(task.attributes.items()) if not value.isdecimal())
    return tuple(chosen), tuple(source.id for source in task.beside)
