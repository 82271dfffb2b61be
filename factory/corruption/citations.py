"""Citations that lead elsewhere, and citations that nobody could look up.

The wrong one is another section's own, so it exists; one that the section itself refers to is never taken.
The malformed one names the right section in a form that the domain's pattern does not know.
"""

from __future__ import annotations

import re
from random import Random

from factory.corruption.case import Case, contains, replaced, squeezed


def wrong_citation(case: Case, rng: Random) -> str | None:
    """The answer with the citation of another section."""
    places, known = case.citations(), case.elsewhere.citations
    if not places or not known:
        return None
    start, end = rng.choice(places)
    cited = squeezed(case.answer[start:end])
    for _ in range(20):
        other = rng.choice(known)
        if squeezed(other) in (cited, squeezed(case.source.citation)) or contains(case.question, other):
            continue
        if not case.states(other):
            return replaced(case.answer, start, end, other)
    return None


def malformed_citation(case: Case, rng: Random) -> str | None:
    """The answer with its citation in bad form: no sign, other marks, an open bracket."""
    places = case.citations()
    if not places:
        return None
    start, end = rng.choice(places)
    made = [replaced(case.answer, start, end, text) for text in _spoilt(case.answer[start:end])]
    before, after = case.answer[start - 1 : start], case.answer[end : end + 1]
    if (before, after) in (("(", ")"), ("[", "]")):
        made.append(replaced(case.answer, end, end + 1, ""))
        made.append(replaced(case.answer, start - 1, start, ""))
    right = _well_formed(case, case.answer)
    made = [text for text in made if _well_formed(case, text) < right or text.count("(") != text.count(")")]
    return rng.choice(made) if made else None


def _spoilt(citation: str) -> list[str]:
    """Other ways to write a citation, none of them equal to it."""
    sign, number = re.match(r"([^\w\s]*\s*)(.*)", citation, re.DOTALL).groups()  # type: ignore[union-attr]
    made = [
        number,
        f"{sign.rstrip()}{number}",
        f"Sec. {number}",
        citation.replace("-", " ").replace("–", " "),
        citation.replace("-", "."),
    ]
    return [text for text in dict.fromkeys(made) if text.strip() and squeezed(text) != squeezed(citation)]


def _well_formed(case: Case, text: str) -> int:
    """How often the text cites as the domain does."""
    return len(case._replace(answer=text).citations())
