"""The wrong name, the opposite, the missing condition, the answer to something else.

These rest on English function words and on capital letters inside sentences; where a text has none, they do
not apply. What the section says in so many words is never taken for a fault.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from factory.corruption.case import Case, contains, replaced, squeezed
from factory.words import words

_NAME = re.compile(r"[A-Z][\w&'’-]*(?:\s+(?:of\s+|the\s+|and\s+)?[A-Z][\w&'’-]*)*")
_NO_NAME = re.compile(
    "The|A|An|In|On|At|By|For|If|When|Where|Yes|No|It|This|That|These|Those|He|She|They|We|You|I|Under|After|"
    "Before|Each|Every|All|Any|Only|January|February|March|April|May|June|July|August|September|October|"
    "November|December|Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
)
_TURNS = (
    ("must not", "must"),
    ("may not", "may"),
    ("shall not", "shall"),
    ("should not", "should"),
    ("will not", "will"),
    ("cannot", "can"),
    ("is not", "is"),
    ("are not", "are"),
    ("does not need to", "needs to"),
    ("at least", "at most"),
    ("no more than", "no less than"),
    ("more than", "less than"),
    ("no later than", "no earlier than"),
    ("before", "after"),
    ("always", "never"),
    ("allowed", "forbidden"),
    ("with", "without"),
    ("minimum", "maximum"),
    ("highest", "lowest"),
    ("Yes", "No"),
)
_CONDITION = re.compile(
    r"(?:,\s*|\s+|^)(?:but\s+)?\b(?:only\s+(?:if|when|where)|if|unless|provided(?:\s+that)?|except|"
    r"as long as|in case|on condition that|subject to|until|where|when|after|before|within|without)\b"
    r"[^,.;:()]*?(?=\s*(?:[,.;:()]|$))",
    re.IGNORECASE,
)


def wrong_name(case: Case, rng: Random) -> str | None:
    """The answer with a name that other sections bear, which neither its own nor the question does."""
    own = [name for name in _names(case.answer) if not case.is_cited(*name)]
    if not own:
        return None
    start, end = rng.choice(own)
    name = case.answer[start:end]
    others = [name for source in _drawn(case, rng) for name in _name_texts(source)]
    others = [
        other
        for other in dict.fromkeys(others)
        if not case.states(other) and not contains(f"{case.question}\n{case.answer}", other)
    ]
    others.sort(
        key=lambda other: other.isupper() != name.isupper() or len(other.split()) != len(name.split())
    )
    return replaced(case.answer, start, end, rng.choice(others[:3])) if others else None


def negated(case: Case, rng: Random) -> str | None:
    """The answer with one of its words turned into the opposite."""
    made = []
    for pair in _TURNS:
        for old, new in (pair, pair[::-1]):
            for match in re.finditer(rf"\b{old}\b(?!\s+not\b)", case.answer):
                if not case.is_cited(*match.span()):
                    made.append((match.span(), new))
    spans = [span for span, _ in made]  # "must" within "must not" is no match of its own
    made = [(span, new) for span, new in made if not any(_holds(other, span) for other in spans)]
    texts = [replaced(case.answer, *span, new) for span, new in made if not _is_said(case, span, new)]
    return rng.choice(texts) if texts else None


def dropped_condition(case: Case, rng: Random) -> str | None:
    """The answer without one of the clauses that limit it, which the question does not give anyhow."""
    made = []
    for match in _CONDITION.finditer(case.answer):
        clause = words(match[0])
        asked = set(words(case.question))
        if len(clause) < 2 or case.is_cited(*match.span()):
            continue
        if sum(word in asked for word in clause[1:]) * 2 > len(clause) - 1:
            continue
        rest = replaced(case.answer, *match.span(), "")
        rest = re.sub(r"^[\s,;:]+", "", rest)
        rest = re.sub(r"\s+([,.;:])", r"\1", rest)
        bare = re.sub(r"\([^)]*\)", "", rest)
        if len(words(bare)) >= 3:
            made.append(rest[0].upper() + rest[1:] if case.answer[0].isupper() else rest)
    return rng.choice(made) if made else None


def wrong_section(case: Case, rng: Random) -> str | None:
    """The whole answer of another section, which says something that this one does not."""
    for right in case.elsewhere.other_rights(case, rng):
        if squeezed(right.answer) != squeezed(case.answer) and _is_foreign(case, right.answer):
            return right.answer
    return None


def _drawn(case: Case, rng: Random) -> Iterator[str]:
    """Texts of some other sections."""
    sections = case.elsewhere.sources
    for _ in range(12 if sections else 0):
        source = rng.choice(sections)
        if source.key != case.source.key:
            yield source.text


def _name_texts(text: str) -> Iterator[str]:
    return (text[start:end] for start, end in _names(text))


def _names(text: str) -> Iterator[tuple[int, int]]:
    """Stretches in capitals that are not so only because a sentence begins."""
    for match in _NAME.finditer(text):
        start, end = match.span()
        begins = not text[:start].strip() or text[:start].rstrip()[-1] in '.!?:\n"“('
        first = match[0].split()[0]
        if _NO_NAME.fullmatch(first):
            start += len(match[0]) - len(match[0].removeprefix(first).lstrip())
            begins = False
        name = text[start:end]
        if name and (not begins or " " in name or (name.isupper() and len(name) > 1)):
            yield start, end


def _holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer != inner and outer[0] <= inner[0] and inner[1] <= outer[1]


def _is_said(case: Case, span: tuple[int, int], new: str) -> bool:
    """Whether the section says the new words next to one of their neighbours here."""
    before, after = words(case.answer[: span[0]])[-1:], words(case.answer[span[1] :])[:1]
    window = [*before, *words(new), *after]
    return len(window) > 1 and case.states(" ".join(window))


def _is_foreign(case: Case, answer: str) -> bool:
    """Whether something in the answer, a number, citation or word of weight, is not in the section."""
    text = f"{case.source.citation} {case.source.title} {case.source.text}"
    known = set(words(text)) | set(words(case.question))
    return any(word not in known for word in words(answer) if len(word) > 3 or any(map(str.isdigit, word)))
