"""What a model is told before a question of a database, and what its answer is.

A strategy makes samples of it and an evaluation asks in the same way, so both have it from here.
"""

from __future__ import annotations

import re
from typing import Final

from factory.prompts import render
from factory.schemas import Schema
from factory.types import Message

FENCED: Final = re.compile(r"\A\s*```\w*\n(.*?)\n?```\s*\Z", re.DOTALL)


def instruct(schema: Schema) -> Message:
    """The system message: one SELECT over the schema's DDL, of whose rows nothing is shown."""
    return Message("system", render("generators", "text_to_sql_system", ddl=schema.ddl))


def plain_sql(text: str) -> str:
    """A statement without the fence and the semicolon that models put around it."""
    fenced = FENCED.match(text)
    return (fenced[1] if fenced else text).strip().removesuffix(";").rstrip()
