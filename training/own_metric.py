"""A metric of somebody's own: a function of reference and answer that an installed package names.

It is called as `function(expected, answer)`, and gives a number from 0 to 1, 1 for the reference itself. Its
further parameters are its options, by name, type and default. It is called in the event loop, once an answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from numbers import Real
from typing import Any

from pydantic import BaseModel, PydanticUserError, create_model

from factory.consistency import Inconsistency
from factory.domain import Domain
from factory.errors import FactoryError, RecipeError
from factory.registry import find
from factory.strict import Strict
from factory.types import GoldItem
from training.metrics import Scored
from training.scored import Asked, check_answers

NEAR = 1e-9  # what sums of floats may be off
Metric = Callable[..., float]
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Own(Asked):
    """The function's score; refuses gold that is not right by its own reference."""

    def __init__(self, name: str, function: Metric, options: BaseModel, domain: Domain) -> None:
        super().__init__(options, domain)
        self._name, self._function = name, function
        self._options = {key: getattr(options, key) for key in type(options).model_fields}
        check_answers(domain, self._fault, "an answer must be right by its own reference")

    def _fault(self, answer: str) -> str:
        try:
            value = self._call(answer, answer)
        except FactoryError as error:
            return error.what
        return (
            "" if value > 1 - NEAR else f"the metric '{self._name}' scores it {value:g} against itself, not 1"
        )

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """From 0 to 1; raises FactoryError where the function fails or gives anything else."""
        try:
            return Scored(self._call(item.answer, answer))
        except FactoryError as error:
            raise FactoryError(error.what, where=f"item '{item.key}'", hint=error.hint) from error

    def _call(self, expected: str, answer: str) -> float:
        try:
            value = self._function(expected, answer, **self._options)
        except (Exception, SystemExit) as error:
            what = f"the metric '{self._name}' failed: {type(error).__name__}: {error}"
            raise FactoryError(what, hint="the package that it is of must mend it") from error
        if not isinstance(value, Real) or not -NEAR <= value <= 1 + NEAR:
            what = f"the metric '{self._name}' gave {value!r:.80}, which is no number from 0 to 1"
            raise FactoryError(what, hint="the package that it is of must mend it")
        return min(1.0, max(0.0, float(value)))


def find_own(name: str) -> tuple[type[BaseModel], Callable[[BaseModel, Domain], Own]]:
    """What may stand in `metric_options`, and what makes the metric; raises RecipeError where it is none."""
    try:
        function = find("metrics", name)
    except RecipeError as error:
        raise Inconsistency(("evaluation", "metric"), error.what, error.hint) from error
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    except (TypeError, ValueError, NameError) as error:
        raise _misfit(name, f"cannot be looked into: {error}") from error
    if len([each for each in parameters[:2] if each.kind in POSITIONAL]) < 2:
        raise _misfit(name, "takes no reference and answer")
    if inspect.iscoroutinefunction(function):
        raise _misfit(name, "is a coroutine function")
    try:
        options = create_model("Options", __base__=Strict, **dict(_fields(parameters[2:])))
    except (PydanticUserError, TypeError) as error:
        what = str(error).partition(". ")[0]
        raise _misfit(name, f"has a parameter that can be no option: {what}") from error
    return options, partial(Own, name, function)


def _fields(parameters: list[inspect.Parameter]) -> Iterator[tuple[str, Any]]:
    for each in parameters:
        if each.kind in NAMED:
            kind = Any if each.annotation is each.empty else each.annotation
            yield each.name, (kind, ... if each.default is each.empty else each.default)


def _misfit(name: str, what: str) -> Inconsistency:
    hint = "an entry point of `factory.metrics` names a function of (expected, answer)"
    return Inconsistency(("evaluation", "metric"), f"the metric '{name}' {what}", hint)
