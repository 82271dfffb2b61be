"""Multi-hop questions: one that needs two or three sections at once, and its answer.

Sections that share rare words or cite one another are put together, as MultiHop-RAG (arXiv 2401.15391)
bridges documents by what both name. The teacher copies the words of each section that the answer rests on
before it answers, which is the evidence of 2WikiMultiHopQA (arXiv 2011.01060). Words that do not stand in
their section, and a question that one section answers alone (generators/sufficiency.py), make the sample
malformed. Whether the answer follows from the evidence is the refiners' business.
"""

from __future__ import annotations

from collections.abc import Sequence

from factory.domain import Domain
from factory.gold import normalise
from factory.ports import Ask
from factory.prompts import render
from factory.types import Message, Sample, Source, Task
from generators.exchange import make_sample
from generators.fields import read_fields, schema_of
from generators.sufficiency import check_sections

MAX_PARTNERS = 6  # of a section: those further away make contrived questions


def partners_of(source: Source, domain: Domain) -> Sequence[Source]:
    """Sections that a question may need besides `source`: near ones of any slice, then others of its own."""
    near = domain.neighbours(source, MAX_PARTNERS)
    same = [other for other in domain.sources if other.slice == source.slice and other != source]
    return list(dict.fromkeys([*near, *same]))[:MAX_PARTNERS]


async def ask_across(task: Task, source: Source, style: str, ask: Ask) -> Sample:
    """A question that needs all sections of the task; all are parents of the sample."""
    sections = (source, *task.beside)
    quotes = [f"evidence_{number}" for number in range(1, len(sections) + 1)]
    names = ["question", *quotes, "answer"]
    prompt = render("generators", "grounded_multi_hop", style=style, sections=sections, quotes=quotes)
    call = await ask([Message("user", prompt)], schema=schema_of(names), ordinal=task.ordinal)
    values, malformed = read_fields(call, names)
    question, calls = values.get("question", ""), [call]
    answer = call.text if malformed else values["answer"]
    if not malformed:
        evidence = [values[name] for name in quotes]
        pairs = zip(evidence, sections, strict=True)
        malformed = "" if all(_stands_in(text, section) for text, section in pairs) else "evidence_not_found"
    for section in sections:
        if malformed:
            break
        check = await check_sections(question, [section], task.ordinal, ask)
        calls.append(check.call)
        malformed = check.malformed or ("one_section_enough" if check.is_answered else "")
    attributes = {"kind": "multi_hop", **{name: values[name] for name in quotes if name in values}}
    return make_sample(
        task, question, answer, calls, source=source, malformed=malformed, attributes=attributes
    )


def _stands_in(quote: str, section: Source) -> bool:
    """Whether the section has these words in this order; case and punctuation do not count."""
    words, text = normalise(quote), normalise(f"{section.citation} {section.title} {section.text}")
    return bool(words) and f" {words} " in f" {text} "
