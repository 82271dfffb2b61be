"""The steps that a command names for a file, and the domain that they are made for.

A step is a registered refiner with its options, as in a recipe. One that asks a model, or judges by material
of a domain, is refused: on a file it would let everything pass.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from factory.domain import Domain
from factory.errors import InputError
from factory.recipe import DomainSpec, GoldSpec, Recipe, StepSpec, StrategySpec
from factory.registry import find
from factory.sample_lines import STRATEGY
from factory.types import Json


def parse_steps(names: str, options: Sequence[str]) -> list[StepSpec]:
    """Steps from 'exact,near' and options from 'near.threshold=0.9', values in YAML. Raises InputError."""
    steps: dict[str, dict[str, Json]] = {name.strip(): {} for name in names.split(",") if name.strip()}
    if not steps:
        raise InputError("no step is named", where="--steps", hint="such as --steps exact,near,pii")
    for option in options:
        key, equals, value = option.partition("=")
        step, dot, name = key.partition(".")
        if not (equals and dot and name) or step not in steps:
            hint = f"STEP.OPTION=VALUE, where STEP is one of {', '.join(steps)}"
            raise InputError(f"'{option}' is no option of a step", where="--option", hint=hint)
        try:
            steps[step][name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"'{value}' is no value", where=f"--option {key}") from error
    return [StepSpec.model_validate({"name": name, **given}) for name, given in steps.items()]


def check_steps(steps: Sequence[StepSpec]) -> None:
    """Raises InputError for the first step that needs more than a file, or an option that stands for it."""
    for spec in steps:
        kind = find("refiners", spec.name, "--steps")
        needs = "a model" if kind.uses_model else getattr(kind, "needs", "")
        instead = getattr(kind, "needs_or", "")
        if needs and not (instead and spec.options().get(instead)):
            what = f"the step '{spec.name}' needs {needs}, which a file does not have"
            hint = "name it under `refiners` of a recipe and run `factory refine RECIPE`"
            if instead:
                hint = f"give --option {spec.name}.{instead}=FILE, or {hint}"
            raise InputError(what, where="--steps", hint=hint)


def domain_of_file(path: Path, steps: Sequence[StepSpec]) -> Domain:
    """A domain without sources, seeds, gold and models: its samples are there already.

    Paths in options start at the current folder, as those of a command do.
    """
    name = re.sub(r"[^a-z0-9_-]+", "_", path.name.casefold()).strip("_-") or "file"
    recipe = Recipe(
        name=name,
        domain=DomainSpec(title=path.name),
        gold=GoldSpec(dev=os.devnull, test=os.devnull),
        servers={},
        models={},
        strategies=[StrategySpec(name=STRATEGY)],
        refiners=list(steps),
    )
    return Domain(recipe, Path.cwd(), (), (), (), (), ())
