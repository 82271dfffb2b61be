"""Whether a text goes round in circles, by words alone.

The measure is the share of words that stand in a run of five which the text has had before, one of the
repetition rules of Gopher (arXiv 2112.11446, appendix A.1.1). There a web page goes above 0.15; an
instruction may hold code or a table that rightly repeats, and models that loop come close to 1, so the limit
is higher.
"""

from __future__ import annotations

from typing import Final

from factory.nearest import words
from generators.elimination import UNSPACED

RUN_WORDS: Final = 5
MAX_SHARE: Final = 0.4
MIN_WORDS: Final = 20  # in fewer there is nothing to tell from


def is_repetitive(text: str) -> bool:
    """Whether more than MAX_SHARE of the words repeat what was said before."""
    found = words_of(text)
    return len(found) >= MIN_WORDS and share_repeated(found) > MAX_SHARE


def words_of(text: str) -> list[str]:
    """The words of a text; a character of a script that puts no space between words is one."""
    return words(UNSPACED.sub(r" \1 ", text))


def share_repeated(found: list[str]) -> float:
    """Words within runs that came before, as a share of all, in [0, 1]."""
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for at in range(len(found) - RUN_WORDS + 1):
        run = tuple(found[at : at + RUN_WORDS])
        if run in seen:
            repeated.update(range(at, at + RUN_WORDS))
        seen.add(run)
    return len(repeated) / len(found) if found else 0.0
