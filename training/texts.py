"""Metrics that compare an answer's text with the reference's, as `training.metrics` and `json_fields` do."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field

from factory.consistency import Inconsistency
from factory.domain import Domain
from factory.errors import RecipeError
from factory.strict import Strict
from factory.types import GoldItem
from training import metrics
from training.json_fields import compare_fields, read_fields
from training.metrics import Scored
from training.scored import Asked, check_answers


class Exact(Asked):
    """The same text but for case, white space and a final full stop."""

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """0 or 1."""
        return Scored(metrics.exact(item.answer, answer))


class Facts(Asked):
    """The reference's citations and quantities and no others."""

    def __init__(self, options: BaseModel, domain: Domain) -> None:
        super().__init__(options, domain)
        self._pattern = domain.recipe.domain.citation_pattern
        try:
            re.compile(self._pattern)
        except re.error as error:
            what = f"not a regular expression: {error}"
            raise RecipeError(what, where="domain.citation_pattern") from error

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """0 or 1."""
        return Scored(metrics.facts(item.answer, answer, self._pattern))


class Normalized(Asked):
    """The same text but for case, punctuation, articles and space; refuses gold that is nothing else."""

    def __init__(self, options: BaseModel, domain: Domain) -> None:
        super().__init__(options, domain)
        check_answers(domain, _fault_of_words, "use the metric 'exact' for such answers")

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """0 or 1."""
        return Scored(metrics.normalized(item.answer, answer))


class TokenF1(Normalized):
    """The F1 of the answer's words against the reference's."""

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """From 0 to 1."""
        return Scored(metrics.token_f1(item.answer, answer))


def _fault_of_words(answer: str) -> str:
    return (
        "" if metrics.normalise(answer) else "nothing is left of the answer without articles and punctuation"
    )


class NumericOptions(Strict):
    """How far a number may be off; the larger of the two holds."""

    relative: float = Field(0.0, ge=0, lt=1, description="As a share of the reference's number.")
    absolute: float = Field(0.0, ge=0, description="In the number's own unit.")


class Numeric(Asked):
    """The reference's numbers, all of them and no others; refuses gold without a number."""

    Options: ClassVar[type[BaseModel]] = NumericOptions
    options: NumericOptions

    def __init__(self, options: NumericOptions, domain: Domain) -> None:
        super().__init__(options, domain)
        self._pattern = domain.recipe.domain.citation_pattern
        check_answers(domain, self._fault, "numbers written in words are not read")

    def _fault(self, answer: str) -> str:
        return "" if metrics.numbers(answer, self._pattern) else "no number in the answer"

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """0 or 1."""
        tolerance = self.options.relative, self.options.absolute
        return metrics.numeric(item.answer, answer, *tolerance, self._pattern)


class Citation(Asked):
    """The F1 of the answer's citations against the reference's; refuses gold without a citation."""

    def __init__(self, options: BaseModel, domain: Domain) -> None:
        super().__init__(options, domain)
        self._pattern = domain.recipe.domain.citation_pattern
        if not self._pattern:
            what = "the metric 'citation' does not know what a citation is"
            raise Inconsistency(("evaluation", "metric"), what, "set `domain.citation_pattern`")
        check_answers(domain, self._fault, "`domain.citation_pattern` says what one is")

    def _fault(self, answer: str) -> str:
        return "" if metrics.extract(answer, self._pattern).citations else "no citation in the answer"

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """From 0 to 1."""
        return metrics.citation(item.answer, answer, self._pattern)


class JsonFieldsOptions(Strict):
    """Which fields count."""

    fields: list[Annotated[str, Field(min_length=1)]] | None = Field(
        None,
        min_length=1,
        description="Paths such as `address.city`, each with what lies below it; null: all, and one that the "
        "reference does not have counts as wrong.",
    )


class JsonFields(Asked):
    """The share of right fields of a JSON object; refuses gold that is none."""

    Options: ClassVar[type[BaseModel]] = JsonFieldsOptions

    def __init__(self, options: JsonFieldsOptions, domain: Domain) -> None:
        super().__init__(options, domain)
        self._names = options.fields or ()
        check_answers(domain, self._fault)

    def _fault(self, answer: str) -> str:
        try:
            found = read_fields(answer, self._names)
        except ValueError as error:
            return str(error)
        named = f"none of the fields {', '.join(self._names)}" if self._names else "an object without fields"
        return "" if found else named

    async def score(self, item: GoldItem, answer: str) -> Scored:
        """From 0 to 1."""
        return compare_fields(item.answer, answer, self._names)
