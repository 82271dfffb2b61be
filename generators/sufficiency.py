"""Whether sections alone answer a question: the teacher is asked, without being shown any answer.

The check that MuSiQue (arXiv 2108.00573) and SQuAD 2.0 (arXiv 1806.03822) rest on: a
question that is to need several sections must not be answerable from one of them, and one that is to be
unanswerable not at all. What follows from it is decided where it is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from factory.ports import Ask
from factory.prompts import render
from factory.types import Completion, Json, Message, Source
from generators.fields import read_fields, schema_of

NAMES = ("evidence", "answerable")
# The evidence comes first: the verdict is to follow from it.
SCHEMA: Json = {
    **schema_of(NAMES),
    "properties": {"evidence": {"type": "string"}, "answerable": {"type": "string", "enum": ["yes", "no"]}},
}


class Check(NamedTuple):
    """The call, whether the sections answer the question, and how the reply is malformed or ''."""

    call: Completion
    is_answered: bool
    malformed: str


async def check_sections(question: str, sections: Sequence[Source], ordinal: int, ask: Ask) -> Check:
    """Whether these sections, and nothing else, hold all that the answer needs; errors are those of `ask`."""
    prompt = render("generators", "grounded_check", sections=sections, question=question)
    call = await ask([Message("user", prompt)], schema=SCHEMA, ordinal=ordinal)
    values, malformed = read_fields(call, NAMES)
    verdict = values.get("answerable", "").casefold()
    if not malformed and verdict not in ("yes", "no"):
        malformed = "unknown_verdict"
    return Check(call, verdict == "yes", malformed)
