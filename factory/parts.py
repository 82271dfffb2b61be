"""Cuts a long stretch of text into parts: between paragraphs, else sentences, lines, words, else anywhere.

Parts are stretches of the text itself, so that their positions point at their words; white space between two
parts belongs to neither. What the text says is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# From the best place to cut to the worst; a cut is made where the match ends.
BREAKS = tuple(
    map(re.compile, (r"\n[^\S\n]*\n\s*", r"[.!?…。！？]['\"”’)\]]*\s+|[。！？]", r"\n\s*", r"\s+"))
)


class Span(NamedTuple):
    """Characters from `start` to before `end`."""

    start: int
    end: int


def split(text: str, span: Span, max_chars: int) -> Iterator[Span]:
    """Spans without white space around them, in order, each of `max_chars` characters at most.

    None where the span holds nothing but white space. No part is shorter than a quarter of `max_chars`
    unless all is, or white space makes it so.
    """
    start, end = _stripped(text, span)
    while end - start > max_chars:
        # The rest is to be worth a part, too.
        last = min(start + max_chars, end - max_chars // 2)
        cut = _cut(text, start + max_chars // 4, max(last, start + max_chars // 4 + 1))
        part = _stripped(text, Span(start, cut))
        if part.start < part.end:
            yield part
        start = _stripped(text, Span(cut, end)).start
    if start < end:
        yield Span(start, end)


def _cut(text: str, first: int, last: int) -> int:
    """The last of the best places to cut between `first` and `last`."""
    for pattern in BREAKS:
        found = [match.end() for match in pattern.finditer(text, first, last) if match.end() <= last]
        if found:
            return found[-1]
    return last


def _stripped(text: str, span: Span) -> Span:
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while start < end and text[end - 1].isspace():
        end -= 1
    return Span(start, end)
