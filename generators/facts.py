"""Questions about every fact of a section: a call lists the facts, then each question asks about one.

Choosing what is worth an answer before asking about it covers a text evenly, where free questions keep to its
first sentences: PAQ (arXiv 2102.07033) extracts answers and then writes a question for each;
facts that stand by themselves are the atomic facts of FActScore (arXiv 2305.14251). The list is
one call that all questions about a section share. A fact with a number that the section does not have is
left out; whether the others are right is the refiners' business.
"""

from __future__ import annotations

import re

from factory.ports import Ask
from factory.prompts import render
from factory.types import Completion, Message, Sample, Source, Task
from generators.exchange import make_sample
from generators.fields import read_fields, schema_of
from generators.lists import list_schema, read_list

PAIR = ("question", "answer")
PAIR_SCHEMA = schema_of(PAIR)
FACTS_SCHEMA = list_schema("facts")
SHARED = 0  # ordinal of a call that many tasks share


async def ask_about_fact(task: Task, source: Source, num_facts: int, style: str, ask: Ask) -> Sample:
    """A question about the fact whose turn it is, and its answer; where none could be listed it says so."""
    calls, facts, malformed = await _list_facts(task, source, num_facts, ask)
    if not facts:
        attributes = {"kind": "facts"}
        return make_sample(
            task, "", calls[-1].text, calls, source=source, malformed=malformed, attributes=attributes
        )
    fact = facts[int(task.attributes.get("lap", "0")) % len(facts)]
    prompt = render("generators", "grounded_fact", style=style, source=source, fact=fact)
    call = await ask([Message("user", prompt)], schema=PAIR_SCHEMA, ordinal=task.ordinal)
    values, malformed = read_fields(call, PAIR)
    return make_sample(
        task,
        values.get("question", ""),
        call.text if malformed else values["answer"],
        [*calls, call],
        source=source,
        malformed=malformed,
        attributes={"kind": "facts", "fact": fact},
    )


async def _list_facts(
    task: Task, source: Source, num_facts: int, ask: Ask
) -> tuple[list[Completion], list[str], str]:
    """The calls that listed facts, the facts, and how the list is malformed.

    The first call is the same for all tasks of the section; where it failed, a task tries for itself.
    """
    prompt = render("generators", "grounded_facts", source=source, count=num_facts)
    known = _numbers(f"{source.citation} {source.title} {source.text}")
    calls: list[Completion] = []
    for ordinal in (SHARED, task.ordinal):
        calls.append(await ask([Message("user", prompt)], schema=FACTS_SCHEMA, ordinal=ordinal))
        listed, malformed = read_list(calls[-1], "facts", num_facts)
        facts = [fact for fact in listed if _numbers(fact) <= known]
        if facts:
            break
    return calls, facts, malformed or "unknown_number"


def _numbers(text: str) -> set[str]:
    return set(re.findall(r"\d+", text))
