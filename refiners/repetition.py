"""Drops a sample whose answer says the same again and again.

Three measures: the share of a text that its most frequent run of words makes up and the share of its lines
that stood in it before (both with the bounds of Rae et al., "Scaling Language Models: Gopher", arXiv
2112.11446, table A1, which are for texts of fifty words and more), and a loop at the end, as of a model that
did not stop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Json, Sample

MIN_WORDS = 50
TOP_RUN = {2: 0.20, 3: 0.18, 4: 0.16}  # words of a run → share of the characters at most
MAX_LINES_AGAIN = 0.30  # share of the lines
TAIL = 1200  # characters that are searched for a loop
LOOP = re.compile(r"(.{4,200}?)\1{3,}.{0,200}$", re.DOTALL)  # four times at least
MIN_LOOP = 40  # characters; a ruler of dashes is shorter, or no words


class RepetitionOptions(Strict):
    """None."""


class Repetition:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = RepetitionOptions
    uses_model: ClassVar[bool] = False
    works_alone: ClassVar[bool] = True

    def __init__(self, options: RepetitionOptions, domain: Domain) -> None:
        """Nothing of the domain is looked at."""

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        for turn, answer in enumerate(sample.texts("assistant"), 1):
            if found := repetition(answer):
                return Decision(
                    sample.id, "repetition", "drop", "repetition", evidence={**found, "turn": turn}
                )
        return Decision(sample.id, "repetition", "keep", "ok")


def repetition(text: str) -> dict[str, Json]:
    """The first measure that is over its bound, with what is repeated; empty where none is."""
    return _loop(text) or _lines(text) or _runs(text)


def _loop(text: str) -> dict[str, Json]:
    tail = text[-TAIL:].rstrip()
    found = LOOP.search(tail)
    if found and len(found[0]) >= MIN_LOOP and any(map(str.isalnum, found[1])):
        return {"measure": "loop", "words": found[1].strip()[:80], "chars": len(found[0])}
    return {}


def _lines(text: str) -> dict[str, Json]:
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    if len(lines) < 4:
        return {}
    again = 1 - len(set(lines)) / len(lines)
    if again <= MAX_LINES_AGAIN:
        return {}
    return {
        "measure": "lines",
        "value": round(again, 4),
        "words": Counter(lines).most_common(1)[0][0][:80],
    }


def _runs(text: str) -> dict[str, Json]:
    words = text.split()
    if len(words) < MIN_WORDS:
        return {}
    num_chars = sum(map(len, words))
    for size, most in TOP_RUN.items():
        counts = Counter(zip(*(words[at:] for at in range(size)), strict=False))
        run, times = max(counts.items(), key=lambda item: (item[1] * sum(map(len, item[0])), item[0]))
        share = times * sum(map(len, run)) / num_chars
        if times > 1 and share > most:
            return {"measure": f"{size} words", "value": round(share, 4), "words": " ".join(run)[:80]}
    return {}
