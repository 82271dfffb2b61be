"""Drops a sample with an answer that says the same again and again.

A loop at the end, as of a model that did not stop, is found in an answer of any length. From fifty words on
the repetition rules of Gopher hold (Rae et al., arXiv 2112.11446, appendix A1.1 and table A1): the share of
a text that its most frequent run of two to four words makes up, that repeated runs of five to ten make up,
and that repeated lines do. Answers that are calls of tools or other JSON repeat their keys, and only their
end is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Sample, Score

MIN_WORDS = 50  # of the fewest words that Gopher keeps
TOP_RUN = {2: 0.20, 3: 0.18, 4: 0.16}  # words of a run → most of a text's characters
REPEATED_RUNS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
REPEATED_LINES = 0.30  # of the lines
REPEATED_LINE_CHARS = 0.20  # of the characters
TAIL_CHARS = 400  # at the end of an answer that are searched for a loop
MIN_LOOP_CHARS = 40
MAX_TOLD = 80


class RepetitionOptions(Strict):
    """How much is too much."""

    tolerance: float = Field(
        1.0, gt=0, description="Multiple of Gopher's bounds that is kept; a loop at the end never is."
    )
    loop_times: int = Field(
        4, ge=2, description="How often what stands at the end of an answer makes a loop."
    )


class Finding(NamedTuple):
    """A measure that is over its bound: `ratio` times the bound; of a loop, of the times that make one."""

    measure: str
    ratio: float
    words: str


class Repetition:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = RepetitionOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: RepetitionOptions, domain: Domain) -> None:
        self._options = options

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        worst = 0.0
        for turn, answer in enumerate(sample.texts("assistant"), 1):
            found = find_loop(answer, self._options.loop_times) or worst_repetition(answer)
            worst = max(worst, found.ratio if found else 0.0)
            bound = 1.0 if found and found.measure == "loop" else self._options.tolerance
            if found and found.ratio >= bound:
                evidence = {"measure": found.measure, "value": round(found.ratio, 4), "turn": turn}
                evidence["words"] = found.words
                scores = (Score(sample.id, "repetition", round(worst, 4), "repetition"),)
                return Decision(sample.id, "repetition", "drop", "repetition", None, scores, evidence)
        scores = (Score(sample.id, "repetition", round(worst, 4), "repetition"),)
        return Decision(sample.id, "repetition", "keep", "ok", scores=scores)


def find_loop(text: str, times: int) -> Finding | None:
    """What the end of a text repeats at least so many times, the last of them perhaps cut off.

    The shortest period of each end of the text comes from the failure function of Knuth, Morris and Pratt
    (SIAM J. Comput. 6, 1977) on its reverse, in one pass.
    """
    tail = text.rstrip()[: -TAIL_CHARS - 1 : -1]
    if len(tail) < MIN_LOOP_CHARS:
        return None
    borders, found = [0] * len(tail), None
    for at in range(1, len(tail)):
        border = borders[at - 1]
        while border and tail[at] != tail[border]:
            border = borders[border - 1]
        borders[at] = border + (tail[at] == tail[border])
        length, period = at + 1, at + 1 - borders[at]
        if length < MIN_LOOP_CHARS or length + period <= times * period:
            continue
        unit = tail[length - period : length][::-1]
        gap = len(unit) - len(unit.rstrip())  # which the end of the text may lack
        if length + gap >= times * period and any(map(str.isalnum, unit)):
            found = Finding("loop", (length + gap) / period / times, unit.strip()[:MAX_TOLD])
    return found


def worst_repetition(text: str) -> Finding | None:
    """The measure of Gopher that is nearest to its bound or furthest above; None where none applies."""
    words = text.split()
    if len(words) < MIN_WORDS or text.lstrip()[:1] in ("{", "["):
        return None
    return max((*_runs(words), *_lines(text)), key=lambda found: found.ratio)


def _runs(words: Sequence[str]) -> Iterator[Finding]:
    num_chars = sum(map(len, words))
    for size, bound in TOP_RUN.items():
        counts = Counter(zip(*(words[at:] for at in range(size)), strict=False))
        run, times = max(counts.items(), key=lambda item: (item[1], sum(map(len, item[0]))))
        share = times * sum(map(len, run)) / num_chars if times > 1 else 0.0
        yield Finding(f"top_{size}_words", share / bound, " ".join(run)[:MAX_TOLD])
    if len(set(zip(*(words[at:] for at in range(5)), strict=False))) == len(words) - 4:
        return  # no run of five words stands there twice, so none of more
    for size, bound in REPEATED_RUNS.items():
        num_repeated, first = _repeated(words, size)
        yield Finding(f"repeated_{size}_words", num_repeated / num_chars / bound, first[:MAX_TOLD])


def _repeated(words: Sequence[str], size: int) -> tuple[int, str]:
    """Characters in runs of `size` words that stood there before, counted once, and the first such run."""
    seen: set[tuple[str, ...]] = set()
    at, num_chars, first = 0, 0, ""
    while at <= len(words) - size:
        run = tuple(words[at : at + size])
        if run in seen:
            first = first or " ".join(run)
            num_chars += sum(map(len, run))
            at += size
        else:
            seen.add(run)
            at += 1
    return num_chars, first


def _lines(text: str) -> Iterator[Finding]:
    lines = [line.strip() for line in text.splitlines() if any(map(str.isalnum, line))]
    seen: set[str] = set()
    again = [line for line in lines if line in seen or seen.add(line)]  # type: ignore[func-returns-value]
    if again:
        yield Finding("repeated_lines", len(again) / len(lines) / REPEATED_LINES, again[0][:MAX_TOLD])
        share = sum(map(len, again)) / sum(map(len, lines))
        yield Finding("repeated_line_chars", share / REPEATED_LINE_CHARS, again[0][:MAX_TOLD])
