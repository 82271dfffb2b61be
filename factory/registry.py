"""Finds generators, refiners, trainers, evaluators, corruptions and metrics by name, through entry points.

This is also how a user's own plug-in arrives: a package that declares an entry point in one of
the six groups. Nothing is imported until a recipe names it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from factory.domain import Domain
from factory.errors import RecipeError
from factory.explain import dotted, explain
from factory.recipe import StepSpec

Group = Literal["generators", "refiners", "trainers", "evaluators", "corruptions", "metrics"]


def names(group: Group) -> list[str]:
    """The registered names of a group, sorted."""
    return sorted({point.name for point in _points(group, tuple(sys.path))})


@lru_cache(maxsize=16)
def _points(group: Group, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """A group's entry points; the folders of every installed distribution are read once for each path."""
    return tuple(entry_points(group=f"factory.{group}"))


def find(group: Group, name: str, where: str = "") -> type[Any]:
    """The class registered under `name`; raises RecipeError naming the nearest one that exists."""
    for point in _points(group, tuple(sys.path)):
        if point.name != name:
            continue
        try:
            loaded: type[Any] = point.load()
        except (ImportError, AttributeError) as error:
            raise RecipeError(f"the plug-in '{name}' cannot be loaded: {error}", where=where) from error
        except (Exception, SystemExit) as error:  # importing it runs code of somebody else's
            what = f"the plug-in '{name}' cannot be loaded: {type(error).__name__}: {error}"
            raise RecipeError(what, where=where) from error
        return loaded
    known = names(group)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}"
    raise RecipeError(f"unknown {group.removesuffix('s')} '{name}'", where=where, hint=hint)


def options_of(group: Group, spec: StepSpec, where: str = "") -> BaseModel:
    """The step's options, validated by the class that will get them; raises RecipeError."""
    model: type[BaseModel] = find(group, spec.name, where).Options
    try:
        return model(**spec.options())
    except ValidationError as error:
        finding = explain(error, model)
        key = ".".join(part for part in (where, dotted(finding.loc)) if part)
        raise RecipeError(
            f"{finding.what} (option of '{spec.name}')", where=key, hint=finding.hint
        ) from error


def create(group: Group, spec: StepSpec, domain: Domain, where: str = "") -> Any:
    """An instance for one step of a recipe."""
    return find(group, spec.name, where)(options_of(group, spec, where), domain)


def create_with_inner(group: Group, spec: StepSpec, domain: Domain, where: str = "") -> Iterator[Any]:
    """Instances for one step and for those that it wraps under `of`, the outermost first."""
    yield create(group, spec, domain, where)
    inner = getattr(options_of(group, spec, where), "of", None)
    if isinstance(inner, StepSpec):
        yield from create_with_inner(group, inner, domain, f"{where}.of")
