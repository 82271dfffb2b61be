"""Finds the section that a text is about, by the words they share.

Cosine of tf-idf vectors over an inverted index that is built once: a word counts the more, the
fewer sections have it. Meaning beyond shared words is not seen; it needs no model and no download.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from heapq import nsmallest

from factory.types import Source

MIN_COSINE = 0.1  # below it the shared words are the small ones that any two texts share
WORD = re.compile(r"\w+(?:[-.,]\w+)*")


def words(text: str) -> list[str]:
    """Words in lower case; numbers such as 34-9-80 and 1,000 are one word. Plural s is dropped."""
    return [w[:-1] if len(w) > 3 and w.endswith("s") else w for w in WORD.findall(text.casefold())]


class SourceIndex:
    """An index over sections; `find` costs as much as the text has words."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        counts = [Counter(words(f"{source.title} {source.text}")) for source in sources]
        num_with = Counter(word for count in counts for word in count)
        self._idf = {word: math.log(1 + len(sources) / n) for word, n in num_with.items()}
        self._postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for position, count in enumerate(counts):
            for word, weight in self._vector(count).items():
                self._postings[word].append((position, weight))
        self._citations = [
            (_squeeze(source.citation), i) for i, source in enumerate(sources) if source.citation
        ]

    def find(self, text: str, slice: str | None = None) -> Source | None:
        """The nearest section, within `slice` if given; None where none is near.

        A citation in the text narrows the search to the sections that bear it.
        """
        return next(iter(self.rank(text, 1, slice)), None)

    def rank(self, text: str, most: int, slice: str | None = None) -> list[Source]:
        """As `find`, the `most` nearest sections, the nearest first."""
        allowed = {i for i, source in enumerate(self._sources) if slice is None or source.slice == slice}
        cited = self._cited(text) & allowed
        scores = dict.fromkeys(cited, 0.0) | self._scores(text, cited or allowed)
        near = [position for position, score in scores.items() if position in cited or score >= MIN_COSINE]
        return self._best(near, scores, most)

    def neighbours(self, source: Source, most: int) -> list[Source]:
        """The `most` sections nearest to one: those that it cites first, the rest by shared words."""
        text = f"{source.title} {source.text}"
        scores = self._scores(text, range(len(self._sources)))
        scores = {position: score for position, score in scores.items() if score >= MIN_COSINE}
        for position in self._cited(text):
            scores[position] = 1 + scores.get(position, 0.0)
        return self._best([at for at in scores if self._sources[at] != source], scores, most)

    def _scores(self, text: str, allowed: Container[int]) -> dict[int, float]:
        """The cosine of each allowed section that shares a word with the text, by its position."""
        scores: dict[int, float] = defaultdict(float)
        for word, weight in self._vector(Counter(words(text))).items():
            for position, other in self._postings.get(word, ()):
                if position in allowed:
                    scores[position] += weight * other
        return dict(scores)

    def _best(self, positions: Sequence[int], scores: Mapping[int, float], most: int) -> list[Source]:
        best = nsmallest(most, positions, key=lambda position: (-scores[position], position))
        return [self._sources[position] for position in best]

    def _vector(self, count: Counter[str]) -> dict[str, float]:
        """Unit-length tf-idf; words that no section has count towards the length as rare ones."""
        rarest = math.log(1 + len(self._sources))
        vector = {word: (1 + math.log(n)) * self._idf.get(word, rarest) for word, n in count.items()}
        length = math.sqrt(sum(weight * weight for weight in vector.values())) or 1.0
        return {word: weight / length for word, weight in vector.items()}

    def _cited(self, text: str) -> set[int]:
        plain = _squeeze(text)
        found = set()
        for citation, position in self._citations:
            start = plain.find(citation)
            while start >= 0:
                end = start + len(citation)
                if not re.match(r"[-.]?\d", plain[end : end + 2]):
                    found.add(position)
                    break
                start = plain.find(citation, start + 1)
        return found


def _squeeze(text: str) -> str:
    """Without white space, so that "§34-9-80" is "§ 34-9-80"."""
    return "".join(text.casefold().split())
