"""What changed between two texts, as pieces that are the same, gone or new: for reading, not for applying.

Words are compared. Long texts are compared up to a limit, and the rest counts as one piece, so that no text
can keep the page busy. Edits that can be applied are in factory.edits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Final, Literal, NamedTuple

MAX_WORDS: Final = 3000  # of each side, between what both begin and end with
CONTEXT: Final = 400  # characters of an unchanged stretch that are shown at each of its ends


class Piece(NamedTuple):
    """A stretch of text: on both sides, gone from the old, or new; of `skipped` the number of characters."""

    kind: Literal["same", "gone", "new", "skipped"]
    text: str


def differences(old_text: str, new_text: str) -> list[Piece]:
    """The pieces in order: without the new ones they give the old text, without the gone ones the new."""
    old, new = _words(old_text), _words(new_text)
    first = _num_shared(old, new)
    last = _num_shared(old[first:][::-1], new[first:][::-1])
    old_middle, new_middle = old[first : len(old) - last], new[first : len(new) - last]
    pieces = [Piece("same", "".join(old[:first]))]
    pieces += _compare(old_middle[:MAX_WORDS], new_middle[:MAX_WORDS])
    pieces += [Piece("gone", "".join(old_middle[MAX_WORDS:])), Piece("new", "".join(new_middle[MAX_WORDS:]))]
    pieces.append(Piece("same", "".join(old[len(old) - last :])))
    return [piece for piece in pieces if piece.text]


def shorten(pieces: list[Piece], most: int) -> list[Piece]:
    """The pieces for display: unchanged stretches keep their ends, others their first `most` characters."""
    shown = []
    for at, (kind, text) in enumerate(pieces):
        if kind != "same":
            shown += [Piece(kind, text[:most]), *_skipped(len(text) - most)]
            continue
        head = CONTEXT if at > 0 else 0
        tail = CONTEXT if at + 1 < len(pieces) else 0
        left_out = len(text) - head - tail
        if left_out <= CONTEXT:
            shown.append(Piece(kind, text))
        else:
            shown += [Piece(kind, text[:head]), *_skipped(left_out), Piece(kind, text[len(text) - tail :])]
    return [piece for piece in shown if piece.text]


def _skipped(number: int) -> list[Piece]:
    return [Piece("skipped", f"{number:,}")] if number > 0 else []


def _compare(old: list[str], new: list[str]) -> Iterator[Piece]:
    for tag, a, b, c, d in SequenceMatcher(None, old, new).get_opcodes():
        if tag == "equal":
            yield Piece("same", "".join(old[a:b]))
        else:
            yield Piece("gone", "".join(old[a:b]))
            yield Piece("new", "".join(new[c:d]))


def _words(text: str) -> list[str]:
    return re.findall(r"\s+|\w+|[^\w\s]", text)


def _num_shared(one: list[str], other: list[str]) -> int:
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
