"""Samplers: what varies from sample to sample besides its material, drawn by hash and not by chance.

A category, whole number, number or date is drawn from a fraction that is a hash of the task's ordinal and
the sampler's name, so the same task draws the same values for ever. A conditional sampler hands over to
another one by the value of a category before it. Categories that are `covered` are not drawn: their
combinations are taken in turn. Drawn values are text, as SQL sees them; templates get numbers back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from factory.recipe import Strict
from factory.types import Json, digest

GOLDEN = 0.6180339887498949  # steps of this share of a circle spread most evenly over it
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Weight = Annotated[float, Field(gt=0)]


def _weights(values: Any) -> Any:
    """A list of values as a mapping to equal weights."""
    if not isinstance(values, list):
        return values
    if not all(isinstance(value, str) for value in values):
        raise ValueError("values must be text: put numbers, yes and no in quotes")
    if len(set(values)) < len(values):
        raise ValueError("a value stands here twice; a mapping of values to weights makes one more likely")
    return dict.fromkeys(values, 1.0)


def _day(value: Any) -> Any:
    """A date that stands in quotes."""
    if isinstance(value, str):
        try:
            return date.fromisoformat(value)
        except ValueError as error:
            raise ValueError(f"'{value}' is no date such as 2026-01-31") from error
    if isinstance(value, datetime):
        raise ValueError("must be a date without a time")
    return value


Day = Annotated[date, BeforeValidator(_day)]


class CategorySampler(Strict):
    """One of several texts, each as likely as its weight."""

    kind: Literal["category"]
    values: Annotated[dict[str, Weight], BeforeValidator(_weights), Field(min_length=1)]

    def draw(self, fraction: float) -> str:
        """The value whose share of [0, 1) holds `fraction`."""
        left = fraction * sum(self.values.values())
        for value, weight in self.values.items():
            left -= weight
            if left < 0:
                return value
        return list(self.values)[-1]


class IntegerSampler(Strict):
    """A whole number from `low` to `high`, both included."""

    kind: Literal["integer"]
    low: int
    high: int

    @model_validator(mode="after")
    def _ordered(self) -> IntegerSampler:
        _check_order(self.low <= self.high, "low", "high")
        return self

    def draw(self, fraction: float) -> str:
        return str(self.low + int(fraction * (self.high - self.low + 1)))


class NumberSampler(Strict):
    """A number from `low` to `high`, rounded to `digits` after the point."""

    kind: Literal["number"]
    low: float
    high: float
    digits: int = Field(2, ge=0, le=12)

    @model_validator(mode="after")
    def _ordered(self) -> NumberSampler:
        _check_order(self.low <= self.high, "low", "high")
        return self

    def draw(self, fraction: float) -> str:
        return f"{self.low + fraction * (self.high - self.low):.{self.digits}f}"


class DateSampler(Strict):
    """A day from `first` to `last`, both included, as in 2026-01-31."""

    kind: Literal["date"]
    first: Day
    last: Day

    @model_validator(mode="after")
    def _ordered(self) -> DateSampler:
        _check_order(self.first <= self.last, "first", "last")
        return self

    def draw(self, fraction: float) -> str:
        num_days = (self.last - self.first).days + 1
        return (self.first + timedelta(days=int(fraction * num_days))).isoformat()


class ConditionalSampler(Strict):
    """Another sampler, by the value that the sampler `by` has drawn."""

    kind: Literal["conditional"]
    by: Name
    cases: dict[str, Sampler] = Field(min_length=1)
    otherwise: Sampler | None = None


Sampler = Annotated[
    CategorySampler | IntegerSampler | NumberSampler | DateSampler | ConditionalSampler,
    Field(discriminator="kind"),
]
ConditionalSampler.model_rebuild()


def _check_order(is_ordered: bool, first: str, last: str) -> None:
    if not is_ordered:
        raise ValueError(f"`{first}` must not be above `{last}`")


def check_samplers(samplers: Mapping[str, Sampler], cover: Sequence[str]) -> None:
    """Raises ValueError for a condition that cannot be decided, and for what cannot be covered."""
    values: dict[str, frozenset[str] | None] = {}
    for name, sampler in samplers.items():
        values[name] = _possible(name, sampler, values)
    for name in cover:
        sampler_of = samplers.get(name)
        if not isinstance(sampler_of, CategorySampler):
            raise ValueError(f"cover: '{name}' is no sampler of kind category")
        if len(set(sampler_of.values.values())) > 1:
            raise ValueError(f"cover: '{name}' has weights, and covering evenly would ignore them")
    if len(set(cover)) < len(cover):
        raise ValueError("cover: a name stands here twice")


def _possible(
    name: str, sampler: Sampler, before: Mapping[str, frozenset[str] | None]
) -> frozenset[str] | None:
    """All values that a sampler may draw; None where they are not few texts."""
    if isinstance(sampler, CategorySampler):
        return frozenset(sampler.values)
    if not isinstance(sampler, ConditionalSampler):
        return None
    known = before.get(sampler.by)
    if known is None:
        raise ValueError(f"samplers.{name}: `by` must name a category that stands before it")
    if unknown := sorted(sampler.cases.keys() - known):
        raise ValueError(f"samplers.{name}: '{unknown[0]}' is no value of '{sampler.by}'")
    if sampler.otherwise is None and (open_ := sorted(known - sampler.cases.keys())):
        raise ValueError(f"samplers.{name}: no case for '{open_[0]}', and no `otherwise`")
    inner = [*sampler.cases.values(), *([sampler.otherwise] if sampler.otherwise else [])]
    found = [_possible(name, each, before) for each in inner]
    return None if None in found else frozenset().union(*(each for each in found if each))


def num_combinations(samplers: Mapping[str, Sampler], cover: Sequence[str]) -> int:
    """Of the values of the samplers that are covered; 1 where none is."""
    return math.prod(len(_categories(samplers[name])) for name in cover)


def draw_all(
    samplers: Mapping[str, Sampler], cover: Sequence[str], combination: int, key: Json
) -> dict[str, str]:
    """A value of each sampler. `combination` counts the turns of the covered ones, `key` names the task.

    Any `num_combinations` turns in a row bring up each combination once; those next to each other differ in
    most of their parts.
    """
    place = _spread(combination, num_combinations(samplers, cover))
    drawn: dict[str, str] = {}
    for name in cover:
        values = _categories(samplers[name])
        place, index = divmod(place, len(values))
        drawn[name] = values[index]
    for name, sampler in samplers.items():
        if name not in drawn:
            drawn[name] = _settle(sampler, drawn).draw(_fraction([key, name]))
    return {name: drawn[name] for name in samplers}


def typed(samplers: Mapping[str, Sampler], drawn: Mapping[str, str]) -> dict[str, str | int | float]:
    """The drawn texts, with numbers as numbers."""
    found: dict[str, str | int | float] = {}
    for name, sampler in samplers.items():
        settled = _settle(sampler, drawn)
        kind = {IntegerSampler: int, NumberSampler: float}.get(type(settled), str)
        found[name] = kind(drawn[name])
    return found


_Drawn = CategorySampler | IntegerSampler | NumberSampler | DateSampler


def _settle(sampler: Sampler, drawn: Mapping[str, str]) -> _Drawn:
    """The sampler that draws, under conditions that `drawn` settles."""
    while isinstance(sampler, ConditionalSampler):
        chosen = sampler.cases.get(drawn[sampler.by], sampler.otherwise)
        if chosen is None:
            raise ValueError(f"no case for '{drawn[sampler.by]}'")  # check_samplers has seen to it
        sampler = chosen
    return sampler


def _categories(sampler: Sampler) -> list[str]:
    return list(sampler.values) if isinstance(sampler, CategorySampler) else []


def _fraction(key: Json) -> float:
    """A number in [0, 1) that is a hash of `key`."""
    return int(digest(key, 13), 16) / 16**13


def _spread(turn: int, size: int) -> int:
    """A permutation of range(size) that repeats, in strides that share no divisor with `size`."""
    golden = max(1, round(size * GOLDEN))
    strides = (stride for away in range(size) for stride in (golden - away, golden + away) if stride > 0)
    return turn * next(stride for stride in strides if math.gcd(stride, size) == 1) % size
