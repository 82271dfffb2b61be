"""The key of an endpoint: from the environment, never from a recipe."""

from __future__ import annotations

import os

from factory.errors import RecipeError


def read_key(variable: str | None, where: str) -> str | None:
    """The value of an environment variable that holds a key; raises RecipeError where it is not set."""
    if variable is None:
        return None
    value = os.environ.get(variable, "").strip()
    if not value:
        raise RecipeError(
            f"the environment variable {variable} is not set", where=where, hint="export it first"
        )
    return value
