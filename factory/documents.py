"""A document as its text, with what its format says about it: headings, title, pages.

Every position is a count of characters into `Document.text`, the text as it was extracted: of Markdown and
plain text the file's own (line ends as \\n), of HTML and PDF what `factory.html_text` and `factory.pdf_text`
make of it. The suffix says which format a file has. Nothing in a document is run, and nothing that it points
to is fetched. Where sections begin and end is decided in `factory.sources`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from factory.errors import RecipeError
from factory.layers import read_text

MARKDOWN = (".md", ".markdown")
HTML = (".html", ".htm", ".xhtml")
PDF = (".pdf",)
MAX_CHARS = 64 * 2**20  # of one document's text: about a hundred thick books
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
FENCE = re.compile(r"^\s{0,3}(```|~~~)")


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of level 1 to 6: it stands from `start` to before `end`, in a line counted from 1."""

    level: int
    title: str
    start: int
    end: int
    line: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """Text, headings in order, the title that the format states, and where each page begins."""

    text: str
    headings: tuple[Heading, ...] = ()
    title: str = ""
    page_starts: tuple[int, ...] = ()

    def page_at(self, position: int) -> int | None:
        """The page that holds a position, counted from 1; None where there are no pages."""
        return bisect_right(self.page_starts, position) or None


def read_document(path: Path) -> Document:
    """The document in a file.

    Raises RecipeError naming the file where it cannot be read, is broken, encrypted, no text or too large.
    """
    kind = path.suffix.lower()
    if kind in PDF:
        from factory.pdf_text import read_pdf

        return read_pdf(path)
    if kind in HTML:
        from factory.html_text import read_html

        return read_html(path)
    refuse_if_large(path.stat().st_size if path.exists() else 0, path)
    text = read_text(path)
    if "\0" in text:
        raise RecipeError("this is no text", where=str(path), hint="convert it to Markdown or plain text")
    return Document(text, tuple(_headings(text)) if kind in MARKDOWN else ())


def refuse_if_large(num_chars: int, path: Path) -> None:
    """Raises RecipeError for more text than one document may have."""
    if num_chars > MAX_CHARS:
        what = f"more than {MAX_CHARS:,} characters of text in one file"
        raise RecipeError(what, where=str(path), hint="split it into several files")


def _headings(text: str) -> Iterator[Heading]:
    """The headings of a Markdown text; a line in a fenced block is none."""
    fence, start = "", 0
    for number, line in enumerate(text.split("\n"), 1):
        mark = FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        found = None if fence or mark else HEADING.match(line)
        if found:
            yield Heading(len(found[1]), found[2], start, start + len(line), number)
        start += len(line) + 1
