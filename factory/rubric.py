"""What a judge is asked about one answer, and how its judgement is read: criteria, prompt, schema, scores.

A judgement is one JSON object, its reason before its scores, so that these follow from it (Zheng et al. 2023,
arXiv 2306.05685, section 3.4). Whom to ask, about what, and what becomes of a score is not here: a refiner
judges samples, an evaluation judges answers against their references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from pydantic import BaseModel, Field, ValidationError, field_validator

from factory.prompts import render
from factory.recipe import Slug, Strict
from factory.types import Json

LOWEST: Final = 1
HIGHEST: Final = 5
OVERALL: Final = "overall"
RESERVED: Final = (OVERALL, "prefers_chosen", "position_bias")  # what scores of the judge are called anyway
MEANING: Final = (
    "Criteria, each with `name`, `question` and `weight`, or a text for one overall score; "
    "all are scored from 1 to 5."
)


class Criterion(Strict):
    """One question that the judge answers with a number from 1 to 5."""

    name: Slug = Field(description="Under which the score is stored.")
    question: str = Field(min_length=1, description="What is asked of the sample; 5 is the best answer.")
    weight: float = Field(1.0, gt=0, description="In the overall score, against the others' weights.")


DEFAULT_RUBRIC: Final = [
    Criterion(name="correct", question="Is all of it true, and borne out by the section where one is given?"),
    Criterion(
        name="complete", question="Is all of the question answered, with every condition that matters?"
    ),
    Criterion(name="clear", question="Can the reader act on it as it stands, with no word too many?"),
]


class RubricOptions(Strict):
    """By what is judged."""

    rubric: list[Criterion] | str = Field(DEFAULT_RUBRIC, min_length=1, description=MEANING)

    @field_validator("rubric")
    @classmethod
    def _are_apart(cls, rubric: list[Criterion] | str) -> list[Criterion] | str:
        names = [] if isinstance(rubric, str) else [criterion.name for criterion in rubric]
        for at, name in enumerate(names):
            if name in RESERVED:
                raise ValueError(f"'{name}' is the judge's own; call the criterion otherwise")
            if name in names[:at]:
                raise ValueError(f"'{name}' stands there twice")
        return rubric


class _Reply(BaseModel):
    reason: str = ""
    scores: dict[str, int]


class Judgement(NamedTuple):
    """Scores from 1 to 5 by criterion and `overall`, and the reason; None where there are none."""

    scores: Mapping[str, float] | None
    reason: str | None


class Rubric:
    """Criteria, or one text; ready to be asked and read."""

    def __init__(self, rubric: list[Criterion] | str) -> None:
        self._text = rubric if isinstance(rubric, str) else ""
        self._criteria = [] if isinstance(rubric, str) else rubric
        self.weights = {each.name: each.weight for each in self._criteria} or {OVERALL: 1.0}
        self.schema = schema_of(list(self.weights))

    def prompt(self, answer: str, *, reference: str = "", **material: Json) -> str:
        """What is asked about an answer; `material` is `style`, `sources`, `told` and `turns` before it."""
        rubric = {"criteria": self._criteria, "text": self._text, "names": list(self.weights)}
        return render("factory", "judge", **material, **rubric, answer=answer, reference=reference)

    def read(self, text: str) -> Judgement:
        """The scores of a judgement and their weighted mean `overall`, to three decimals."""
        try:
            reply = _Reply.model_validate_json(text)
        except ValidationError:
            return Judgement(None, None)
        given = {name: reply.scores.get(name, 0) for name in self.weights}
        if not all(LOWEST <= value <= HIGHEST for value in given.values()):
            return Judgement(None, reply.reason)
        weighted = sum(self.weights[name] * value for name, value in given.items())
        overall = round(weighted / sum(self.weights.values()), 3)
        return Judgement({**given, OVERALL: overall}, reply.reason)


def schema_of(names: Sequence[str]) -> Json:
    """The JSON schema of a judgement: a reason, then a whole number from 1 to 5 for each name."""
    score = {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}
    scores = {
        "type": "object",
        "properties": dict.fromkeys(names, score),
        "required": list(names),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"reason": {"type": "string"}, "scores": scores},
        "required": ["reason", "scores"],
        "additionalProperties": False,
    }
