"""Choices beside a task's section or seed prompt, made in turn and not by lot.

What a plan chooses for each task (a persona, a method, a combination of values) goes round like its
material does: every choice gets its turn before one gets a second, and in time every material meets
every choice equally often, whatever the two counts. Where the round begins differs by round and slice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from factory.types import digest
from generators.plans import Material, spread


@dataclass(frozen=True, slots=True)
class Turn(Generic[Material]):
    """A task of a plan: its material, and which turn of its slice it is, from 0."""

    ordinal: int
    slice: str
    material: Material
    number: int
    num_materials: int  # of the slice
    start: int  # where choices begin in this round

    @property
    def lap(self) -> int:
        """How often the material had its turn before, plus where choices begin."""
        return self.number // self.num_materials + self.start

    def choose(self, num_choices: int) -> int:
        """One of `num_choices`, from 0."""
        # Both counts start anew together after as many turns as their least common multiple; from then
        # on the choice is moved by one, so that another pairing comes up.
        moved = self.number // math.lcm(self.num_materials, num_choices)
        return (self.number + moved + self.start) % num_choices


def take_turns(
    materials: Sequence[Material], allocation: Mapping[str, int], round_number: int
) -> Iterator[Turn[Material]]:
    """Lazily, the turns of a round as `generators.plans.spread` orders them."""
    num_materials = Counter(item.slice for item in materials)
    start = {slice: int(digest([round_number, slice], 8), 16) for slice in num_materials}
    taken: Counter[str] = Counter()
    for ordinal, slice, item in spread(materials, allocation, round_number):
        yield Turn(ordinal, slice, item, taken[slice], num_materials[slice], start[slice])
        taken[slice] += 1
