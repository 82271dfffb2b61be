"""Questions as people put them: a little story with the keywords in it, and then what they want to know.

A grammar of a few patterns over everyday words (stories.yaml). Each keyword stands where its part of
speech belongs; all else is chance, so a model that reads these learns to look for what matters. In
`STRAYS` a third of the other words come from words.yaml: they may be keywords elsewhere and are not here.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import yaml


def read(name: str) -> dict[str, list[str]]:
    """The words of one file beside this one, by kind; a hyphen stands for a space."""
    kinds = yaml.safe_load((Path(__file__).parent / name).read_text())
    return {kind: [word.replace("-", " ") for word in text.split()] for kind, text in kinds.items()}


WORDS = read("stories.yaml")
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


class Stories:
    """A teller of stories; `words` are its words by kind."""

    def __init__(self, words: dict[str, list[str]]) -> None:
        self._words = words

    def pick(self, rng: Random, kind: str) -> str:
        return rng.choice(self._words[kind])

    def person(self, rng: Random) -> str:
        article = rng.choice(["a", "the", "some", "one", "this", "our", "another"])
        if rng.random() < 0.5:
            return f"{article} {self.pick(rng, 'manner')} {self.pick(rng, 'occupations')}"
        return (
            f"{article if rng.random() < 0.6 else rng.choice(['my', 'his', 'her'])} {self.pick(rng, 'folk')}"
        )

    def subject(self, rng: Random) -> str:
        return rng.choice(SUBJECTS) if rng.random() < 0.6 else self.person(rng)

    def thing(self, rng: Random) -> str:
        adjective = f"{self.pick(rng, 'manner')} " if rng.random() < 0.4 else ""
        return f"{rng.choice(DETERMINERS)} {adjective}{self.pick(rng, 'stuff')}"

    def aside(self, rng: Random) -> str:
        """A clause that has nothing to do with the matter."""
        return rng.choice(
            [
                f"{self.subject(rng)} {self.pick(rng, 'past')} {self.thing(rng)}",
                f"{self.subject(rng)} {self.pick(rng, 'past')} {self.pick(rng, 'plainly')}",
                f"{rng.choice(PLACES)} {self.thing(rng)}",
                f"{self.thing(rng)} is {self.pick(rng, 'manner')}",
            ]
        )

    def clause(self, rng: Random, key: str, kind: str) -> str:
        """A clause with the keyword where its part of speech belongs."""
        who, what, how = self.subject(rng), self.thing(rng), self.pick(rng, "plainly")
        if kind == "verbs":
            patterns = [
                f"{who} {rng.choice(CAN)} {key} {what}",
                f"to {key} {what}",
                f"{who} {self.pick(rng, 'past')} to {key}",
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
                f"{rng.choice(DETERMINERS)} {key} {self.pick(rng, 'stuff')}",
                f"{what} is {key}",
                f"{what} looks {how} {key}",
                f"{who} {self.pick(rng, 'past')} something {key}",
                f"only {key}",
            ]
        else:
            name = f"{rng.choice([*DETERMINERS, self.pick(rng, 'manner')])} {key}"
            patterns = [
                f"{who} {self.pick(rng, 'past')} {name}",
                f"{name} {self.pick(rng, 'past')} {how}",
                f"{name} {rng.choice(PLACES)} {what}",
                f"{rng.choice(PLACES)} {name}",
                f"there is {name}",
                f"{who} {rng.choice(CAN)} {self.pick(rng, 'base')} {name}",
            ]
        return rng.choice(patterns)

    def opening(self, rng: Random) -> str:
        return rng.choice(
            [
                "",
                "",
                rng.choice(STARTS),
                f"{rng.choice([*ORDERS, self.pick(rng, 'base')])} {self.person(rng)} {rng.choice(ASKS)}",
                f"{rng.choice(ORDERS)} {self.person(rng)} whose"
                f" {self.pick(rng, 'stuff')} {self.pick(rng, 'past')}",
                f"{self.subject(rng)} {self.pick(rng, 'past')} that",
                f"{self.subject(rng)} {self.pick(rng, 'past')} {rng.choice(ASKS)}",
            ]
        )

    def ending(self, rng: Random) -> str:
        return rng.choice(
            [
                "?",
                ".",
                "?",
                ".",
                f"; {rng.choice(ASKS)} {rng.choice(CAN)} {self.subject(rng)} {self.pick(rng, 'base')}?",
                f"; {rng.choice(ASKS)} {rng.choice(CAN)} {self.thing(rng)} {self.pick(rng, 'base')} "
                f"{self.pick(rng, 'plainly')}?",
                f"; is {self.thing(rng)} {self.pick(rng, 'manner')}?",
                f", so {self.pick(rng, 'base')} {self.thing(rng)}.",
                f"; {self.pick(rng, 'base')} {rng.choice(ASKS)}.",
                f"; which {self.pick(rng, 'stuff')} {rng.choice(['counts', 'applies', 'holds', 'follows'])}?",
            ]
        )

    def story(self, rng: Random, keywords: list[tuple[str, str]]) -> str:
        """A question about the keywords, each given with its part of speech, in the order given."""
        text = self.opening(rng)
        for index, (key, kind) in enumerate(keywords):
            if rng.random() < 0.25:
                text += f" {self.aside(rng)}{rng.choice(GLUE)}"
            text += f"{rng.choice(GLUE) if index else ''} {self.clause(rng, key, kind)}"
        if rng.random() < 0.3:
            text += f" {rng.choice(PLACES)} {self.thing(rng)}"
        text = text.strip()
        return text[0].upper() + text[1:] + self.ending(rng)


def stray(words: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same kinds, a third of each being any words of words.yaml."""
    others = read("words.yaml")
    any_word = others["law"] + others["common"]
    return {kind: own * (2 * len(any_word) // len(own)) + any_word for kind, own in words.items()}


PLAIN = Stories(WORDS)
STRAYS = Stories(stray(WORDS))
