"""Unanswerable questions: about the matter of a section, in its words, and yet not answered by it.

The questions of SQuAD 2.0 (arXiv 1806.03822): relevant to the text and likely to be asked, but beyond it; a
student learns from them to say so instead of inventing. The answer is the recipe's, word for word. As the
student will not see the section, the question must not be answered by the sections that it leads to either:
the teacher checks these along with the section (generators/sufficiency.py). Sections that share no word with
the question are not looked at.
"""

from __future__ import annotations

from factory.domain import Domain
from factory.ports import Ask
from factory.prompts import render
from factory.types import Message, Sample, Source, Task
from generators.exchange import make_sample
from generators.fields import read_fields, schema_of
from generators.sufficiency import check_sections

NAMES = ("question", "missing")
SCHEMA = schema_of(NAMES)
NUM_CHECKED = 3  # the section and those nearest to the question


async def ask_beyond(
    task: Task, source: Source, domain: Domain, manner: str, answer: str, ask: Ask
) -> Sample:
    """A question that the section does not answer, with the recipe's answer."""
    prompt = render("generators", "grounded_unanswerable", style=manner, source=source)
    call = await ask([Message("user", prompt)], schema=SCHEMA, ordinal=task.ordinal)
    values, malformed = read_fields(call, NAMES)
    question, calls = values.get("question", ""), [call]
    if malformed:
        answer = call.text
    else:
        near = domain.nearest_sources(question, NUM_CHECKED)
        sections = list(dict.fromkeys([source, *near]))[:NUM_CHECKED]
        check = await check_sections(question, sections, task.ordinal, ask)
        calls.append(check.call)
        malformed = check.malformed or ("answerable" if check.is_answered else "")
    attributes = {"kind": "unanswerable", "answerable": "no"}
    if "missing" in values:
        attributes["missing"] = values["missing"]
    return make_sample(
        task, question, answer, calls, source=source, malformed=malformed, attributes=attributes
    )
