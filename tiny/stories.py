"""Questions as people put them: a little story with the keywords in it, and then what they want to know.

A grammar of a few patterns over everyday words (stories.yaml). Each keyword stands where its part of
speech belongs; all else is chance, so a model that reads these learns to look for what matters.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import yaml

WORDS = {
    kind: [word.replace("-", " ") for word in text.split()]
    for kind, text in yaml.safe_load((Path(__file__).parent / "stories.yaml").read_text()).items()
}
SUBJECTS = ["I", "we", "she", "he", "they", "you", "somebody", "nobody"]
DETERMINERS = [
    "the",
    "the",
    "a",
    "my",
    "her",
    "his",
    "our",
    "their",
    "this",
    "that",
    "some",
    "any",
    "no",
    "one",
]
PLACES = [
    "in",
    "on",
    "at",
    "by",
    "near",
    "from",
    "for",
    "with",
    "without",
    "after",
    "before",
    "during",
    "about",
]
GLUE = [
    " and",
    " but",
    ",",
    ", and",
    ", but",
    ";",
    " because",
    " while",
    " when",
    " yet",
    " so",
    " since",
    " if",
]
STARTS = ["Suppose", "Say", "Imagine", "Assume", "If", "When", "Because", "Since", "Now that", "Although"]
ORDERS = ["tell", "advise", "remind", "warn", "show", "help", "teach", "inform", "ask", "answer"]
ASKS = [
    "what",
    "how",
    "when",
    "where",
    "until when",
    "how long",
    "how much",
    "how far",
    "why",
    "which",
    "whether",
]
CAN = ["can", "may", "should", "must", "will", "would", "could", "does", "did", "do", "might"]


def pick(rng: Random, kind: str) -> str:
    return rng.choice(WORDS[kind])


def person(rng: Random) -> str:
    article = rng.choice(["a", "the", "some", "one", "this", "our", "another"])
    if rng.random() < 0.5:
        return f"{article} {pick(rng, 'manner')} {pick(rng, 'occupations')}"
    return f"{article if rng.random() < 0.6 else rng.choice(['my', 'his', 'her'])} {pick(rng, 'folk')}"


def subject(rng: Random) -> str:
    return rng.choice(SUBJECTS) if rng.random() < 0.6 else person(rng)


def thing(rng: Random) -> str:
    adjective = f"{pick(rng, 'manner')} " if rng.random() < 0.4 else ""
    return f"{rng.choice(DETERMINERS)} {adjective}{pick(rng, 'stuff')}"


def aside(rng: Random) -> str:
    """A clause that has nothing to do with the matter."""
    return rng.choice(
        [
            f"{subject(rng)} {pick(rng, 'past')} {thing(rng)}",
            f"{subject(rng)} {pick(rng, 'past')} {pick(rng, 'plainly')}",
            f"{rng.choice(PLACES)} {thing(rng)}",
            f"{thing(rng)} is {pick(rng, 'manner')}",
        ]
    )


def clause(rng: Random, key: str, kind: str) -> str:
    """A clause with the keyword where its part of speech belongs."""
    who, what, how = subject(rng), thing(rng), pick(rng, "plainly")
    if kind == "verbs":
        patterns = [
            f"{who} {rng.choice(CAN)} {key} {what}",
            f"to {key} {what}",
            f"{who} {pick(rng, 'past')} to {key}",
            f"{what} {rng.choice(CAN)} {how} {key}",
            f"{who} will {key}",
        ]
    elif kind == "verbed":
        patterns = [
            f"{what} was {key}",
            f"{who} {key} {what}",
            f"{what} has been {key} {how}",
            f"{key} {rng.choice(PLACES)} {what}",
            f"{who} got {how} {key}",
        ]
    elif kind == "adjectives":
        patterns = [
            f"{rng.choice(DETERMINERS)} {key} {pick(rng, 'stuff')}",
            f"{what} is {key}",
            f"{what} looks {how} {key}",
            f"{who} {pick(rng, 'past')} something {key}",
            f"only {key}",
        ]
    else:
        name = f"{rng.choice([*DETERMINERS, pick(rng, 'manner')])} {key}"
        patterns = [
            f"{who} {pick(rng, 'past')} {name}",
            f"{name} {pick(rng, 'past')} {how}",
            f"{name} {rng.choice(PLACES)} {what}",
            f"{rng.choice(PLACES)} {name}",
            f"there is {name}",
            f"{who} {rng.choice(CAN)} {pick(rng, 'base')} {name}",
        ]
    return rng.choice(patterns)


def opening(rng: Random) -> str:
    return rng.choice(
        [
            "",
            "",
            rng.choice(STARTS),
            f"{rng.choice([*ORDERS, pick(rng, 'base')])} {person(rng)} {rng.choice(ASKS)}",
            f"{rng.choice(ORDERS)} {person(rng)} whose {pick(rng, 'stuff')} {pick(rng, 'past')}",
            f"{subject(rng)} {pick(rng, 'past')} that",
            f"{subject(rng)} {pick(rng, 'past')} {rng.choice(ASKS)}",
        ]
    )


def ending(rng: Random) -> str:
    return rng.choice(
        [
            "?",
            ".",
            "?",
            ".",
            f"; {rng.choice(ASKS)} {rng.choice(CAN)} {subject(rng)} {pick(rng, 'base')}?",
            f"; {rng.choice(ASKS)} {rng.choice(CAN)} {thing(rng)} {pick(rng, 'base')} "
            f"{pick(rng, 'plainly')}?",
            f"; is {thing(rng)} {pick(rng, 'manner')}?",
            f", so {pick(rng, 'base')} {thing(rng)}.",
            f"; {pick(rng, 'base')} {rng.choice(ASKS)}.",
            f"; which {pick(rng, 'stuff')} {rng.choice(['counts', 'applies', 'holds', 'follows'])}?",
        ]
    )


def story(rng: Random, keywords: list[tuple[str, str]]) -> str:
    """A question about the keywords, each given with its part of speech, in the order given."""
    text = opening(rng)
    for index, (key, kind) in enumerate(keywords):
        if rng.random() < 0.25:
            text += f" {aside(rng)}{rng.choice(GLUE)}"
        text += f"{rng.choice(GLUE) if index else ''} {clause(rng, key, kind)}"
    if rng.random() < 0.3:
        text += f" {rng.choice(PLACES)} {thing(rng)}"
    text = text.strip()
    return text[0].upper() + text[1:] + ending(rng)
