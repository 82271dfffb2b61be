"""What every part of a recipe is: a frozen value that is read strictly."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Strict(BaseModel):
    """A frozen model that refuses unknown keys and does not coerce strings to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class KeyedError(ValueError):
    """What a validator finds wrong with a key below the one that it validates, and what to do."""

    def __init__(self, loc: tuple[str | int, ...], what: str, hint: str = "") -> None:
        super().__init__(what)
        self.loc = loc
        self.hint = hint


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]  # a regular expression
