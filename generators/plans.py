"""How many of what in which order: spreads the tasks of a round over slices and their material.

Slices are interleaved in proportion, so that a round that is cut short has kept its allocation.
Within a slice every source or seed gets its turn before one gets a second; which come first differs from
round to round. Nothing is listed in advance.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import TypeVar

from factory.recipe import MAX_SAMPLES_PER_ROUND
from factory.types import Seed, Source, digest

Material = TypeVar("Material", Source, Seed)


def spread(
    materials: Sequence[Material], allocation: Mapping[str, int], round_number: int
) -> Iterator[tuple[int, str, Material]]:
    """Ordinal, slice and material of each task; a slice without material gets none."""
    queues = [
        _of_slice(slice, [item for item in materials if item.slice == slice], allocation[slice], round_number)
        for slice in sorted(allocation)
    ]
    for index, (_, slice, item) in enumerate(heapq.merge(*queues, key=lambda entry: entry[:2])):
        yield round_number * MAX_SAMPLES_PER_ROUND + index, slice, item


def _of_slice(
    slice: str, items: Sequence[Material], num_tasks: int, round_number: int
) -> Iterator[tuple[float, str, Material]]:
    shuffled = sorted(items, key=lambda item: digest([round_number, item.key]))
    for position, item in enumerate(islice(cycle(shuffled), num_tasks)):
        yield (position + 0.5) / num_tasks, slice, item
