"""How one text repeats another, word by word: what must be found between what is learned and what is tested.

Measures over words: equality, a common run of 13 (Brown et al. 2020, arXiv 2005.14165, appendix C), runs
of 8 that cover more than half of the shorter text, and where one text is shorter than 8 words the longest
common run. A paraphrase in other words is found by factory.paraphrases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from itertools import pairwise
from typing import NamedTuple

from factory.words import words

LONG, GRAM, SHORTEST = 13, 8, 4
MAX_COVERAGE = 0.5
MAX_RUN_SHARE = 0.8
SHORT_SIZES = (4, 5, 6)  # of the runs that are a hit for a text of 4 to 7 words
Words = tuple[str, ...]


class Hit(NamedTuple):
    """How a text repeats another: the measure and its value."""

    measure: str
    value: float


class Texts:
    """Texts by their runs of words, so that a text is compared with those alone that it may well repeat."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = [tuple(words(text)) for text in texts]
        self._whole: dict[Words, list[int]] = {}
        self._runs_of_8: dict[Words, list[tuple[int, int]]] = {}  # text, and where in it
        # Runs that are a hit with whatever text has them: those of short texts, and what short ones need.
        self._of_short: dict[Words, list[int]] = {}
        self._for_short: dict[Words, list[int]] = {}
        for index, text in enumerate(self._texts):
            self._whole.setdefault(text, []).append(index)
            for at, run in enumerate(_runs(text, GRAM)):
                self._runs_of_8.setdefault(run, []).append((index, at))
            if SHORTEST <= len(text) < GRAM:
                for run in _runs(text, _needed(len(text))):
                    self._of_short.setdefault(run, []).append(index)
            for size in {_needed(num_words) for num_words in range(SHORTEST, min(len(text), GRAM))}:
                for run in _runs(text, size):
                    self._for_short.setdefault(run, []).append(index)

    def find(self, text: str) -> tuple[int, Hit] | None:
        """One of the texts that `text` repeats, and how; None where there is none."""
        return next(self.find_all(text), None)

    def find_all(self, text: str) -> Iterator[tuple[int, Hit]]:
        """Each of the texts that `text` repeats, once, and how."""
        given = tuple(words(text))
        seen = set[int]()
        for index in self._candidates(given) if given else ():
            if index not in seen and (hit := overlap(given, self._texts[index])):
                yield index, hit
            seen.add(index)

    def _candidates(self, given: Words) -> Iterator[int]:
        yield from self._whole.get(given, ())
        if len(given) >= GRAM:
            yield from self._of_like_length(given)
        elif len(given) >= SHORTEST:
            yield from _found(self._for_short, _runs(given, _needed(len(given))))
        for size in SHORT_SIZES:
            yield from _found(self._of_short, _runs(given, size))

    def _of_like_length(self, given: Words) -> Iterator[int]:
        """Texts of 8 words and more whose shared runs cover enough, or are enough for a run of 13."""
        shared: dict[int, tuple[list[int], list[int]]] = {}
        for at, run in enumerate(_runs(given, GRAM)):
            for index, there in self._runs_of_8.get(run, ()):
                ours, theirs = shared.setdefault(index, ([], []))
                ours.append(at)
                theirs.append(there)
        for index, (ours, theirs) in shared.items():
            text = self._texts[index]
            covered = [_num_covered(ours)] if len(given) <= len(text) else []
            covered += [_num_covered(theirs)] if len(text) <= len(given) else []
            num_words = min(len(given), len(text))
            if len(ours) > LONG - GRAM or max(covered) > MAX_COVERAGE * num_words:
                yield index


def _found(indexes_by_run: dict[Words, list[int]], runs: Iterable[Words]) -> Iterator[int]:
    return (index for run in runs for index in indexes_by_run.get(run, ()))


def overlap(left: Words, right: Words) -> Hit | None:
    """How one text repeats the other, by the strictest measure that finds it; None where it does not."""
    if not left or not right:
        return None
    if left == right:
        return Hit("equal", 1.0)
    shorter, longer = sorted((left, right), key=len)
    if len(shorter) < GRAM:
        share = _longest_run(shorter, longer) / len(shorter)
        return Hit("longest_run", share) if len(shorter) >= SHORTEST and share > MAX_RUN_SHARE else None
    if set(_runs(left, LONG)) & set(_runs(right, LONG)):
        return Hit("run_of_13", 1.0)
    coverage = _coverage(shorter, longer)
    if len(shorter) == len(longer):  # a text that repeats itself may be covered better than it covers
        coverage = max(coverage, _coverage(longer, shorter))
    return Hit("coverage_by_8", coverage) if coverage > MAX_COVERAGE else None


def _coverage(text: Words, other: Words) -> float:
    """The share of `text` that runs of 8 of `other` cover."""
    theirs = set(_runs(other, GRAM))
    starts = [at for at, run in enumerate(_runs(text, GRAM)) if run in theirs]
    return _num_covered(starts) / len(text)


def longest_match(left: str, right: str) -> Words:
    """The longest run of words that both texts have, the first where there are several; for evidence."""
    ours = words(left)
    found = SequenceMatcher(None, ours, words(right), autojunk=False).find_longest_match()
    return tuple(ours[found.a : found.a + found.size])


def _num_covered(starts: Iterable[int]) -> int:
    """Words that runs of 8 with these beginnings cover."""
    ordered = sorted(set(starts))
    return sum(min(GRAM, later - at) for at, later in pairwise(ordered)) + (GRAM if ordered else 0)


def _needed(num_words: int) -> int:
    """The shortest common run that is a hit for a text of 4 to 7 words."""
    return int(MAX_RUN_SHARE * num_words) + 1


def _runs(text: Words, size: int) -> Iterator[Words]:
    return (text[at : at + size] for at in range(len(text) - size + 1))


def _longest_run(left: Words, right: Words) -> int:
    """Length of the longest run of words that both have."""
    best, lengths = 0, [0] * (len(right) + 1)
    for word in left:
        lengths = [0, *(lengths[at] + 1 if word == other else 0 for at, other in enumerate(right))]
        best = max(best, *lengths)
    return best
