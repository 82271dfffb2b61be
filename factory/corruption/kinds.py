"""Corruptions by the kind of fault that they make, a package's own among them, and what they may not give.

A kind's name is the slug that the refiner learns as its reason, and tells which of its scores suffers
(`factory.edits`). Whatever a corruption gives that is no fault after all counts as not applicable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from random import Random

from factory.corruption.case import Case, Corruption, squeezed
from factory.corruption.citations import malformed_citation, wrong_citation
from factory.corruption.forms import broken_form, truncated
from factory.corruption.quantities import wrong_date, wrong_quantity, wrong_unit
from factory.corruption.statements import dropped_condition, negated, wrong_name, wrong_section
from factory.errors import FactoryError
from factory.registry import find, names
from factory.words import words

# What these leave of an answer may well stand in the section as it is.
SHORTENED = frozenset({"truncated", "dropped_condition"})
MIN_WORDS = 4  # of a question that says by itself what it is about
OFF_SOURCE = "off_source"  # a question that the section cannot answer: nothing to correct
BUILT_IN: Mapping[str, Corruption] = {
    each.__name__: each
    for each in (
        wrong_quantity,
        wrong_unit,
        wrong_name,
        wrong_date,
        wrong_citation,
        malformed_citation,
        negated,
        dropped_condition,
        wrong_section,
        broken_form,
        truncated,
    )
}


def corruptions() -> dict[str, Corruption]:
    """All that there are, by kind: ours, and those of installed packages, which may replace one of ours."""
    return {**BUILT_IN, **{name: find("corruptions", name) for name in names("corruptions")}}


def corrupt(kind: str, corruption: Corruption, case: Case, rng: Random, right: Collection[str]) -> str | None:
    """The spoilt answer, or None where the corruption does not apply.

    `right` are all answers known to be right here, squeezed: none of them is ever given, nor what the section
    says word for word, nor nothing at all. Raises FactoryError for a corruption that gives no text.
    """
    found = corruption(case, rng)
    if found is None:
        return None
    if not isinstance(found, str):
        raise FactoryError(f"the corruption '{kind}' must give text or None, not {type(found).__name__}")
    text = squeezed(found)
    if not text or text in right or text == squeezed(case.answer):
        return None
    is_statement = len(words(found)) > 3 and words(found) != words(case.answer)
    if is_statement and kind not in SHORTENED and case.states(found):
        return None
    return found


def mismatched(case: Case, rng: Random, questions: Collection[str]) -> tuple[str, str] | None:
    """A question about another section with an answer, its own or this section's, that must go; or None.

    `questions` are those that this section is known to answer.
    """
    own = (case.source.citation, case.source.title)
    for right in case.elsewhere.other_rights(case, rng):
        is_near = bool(set(own) & {right.source.citation, right.source.title} - {""})
        is_vague = len(words(right.question)) < MIN_WORDS
        if not is_near and not is_vague and squeezed(right.question) not in questions:
            return right.question, rng.choice([right.answer, case.answer])
    return None
