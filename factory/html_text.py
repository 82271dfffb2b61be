"""HTML to text: paragraphs, list items, table rows and headings, as a reader sees them.

lxml reads the page in pieces and calls for each tag; no tree is built, no script runs, nothing is fetched.
Blocks are set apart by an empty line, items and rows by a line end. What is no part of the text (scripts,
navigation, form controls, what is hidden) is left out; which of the rest is boilerplate is not guessed.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from pathlib import Path

from factory.documents import Document, Heading, refuse_if_large
from factory.errors import RecipeError

PIECE_BYTES = 2**16
SKIPPED = frozenset(
    "script style template noscript nav svg iframe object select button textarea".split()  # noqa: SIM905
)
HEADINGS = {f"h{level}": level for level in range(1, 7)}
LINES = frozenset("li tr dt dd option".split())  # noqa: SIM905 (set apart by one line end)
BLOCKS = LINES.union(
    HEADINGS,
    "p div section article main header footer aside body html ul ol dl table thead tbody tfoot caption "  # noqa: SIM905
    "blockquote pre figure figcaption form fieldset legend address details summary hr center head".split(),
)
CHARSET = re.compile(
    rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w.:-]+)|^\s*<\?xml[^>]+encoding=["']([\w.:-]+)""", re.I
)
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_html(path: Path) -> Document:
    """The text of a page with its headings and title.

    Its encoding is what a byte order mark or the page itself says, else UTF-8. Raises RecipeError.
    """
    from lxml import etree

    reader = _Reader(path)
    parser = etree.HTMLParser(target=reader, no_network=True, remove_comments=True, remove_pis=True)
    try:
        with path.open("rb") as file:
            encoding = _encoding(file.peek(PIECE_BYTES)[:PIECE_BYTES], path)
            decoder = codecs.getincrementaldecoder(encoding)()
            while piece := file.read(PIECE_BYTES):
                parser.feed(decoder.decode(piece))
            parser.feed(
                decoder.decode(b"", final=True) + "\n"
            )  # a page without a byte is a page without text
        parser.close()
    except UnicodeDecodeError as error:
        hint = "save the file as UTF-8, or name its encoding in a <meta charset>"
        raise RecipeError(f"not {encoding} text", where=str(path), hint=hint) from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except etree.LxmlError as error:
        raise RecipeError(f"no HTML: {error}", where=str(path)) from error
    return reader.document()


def _encoding(head: bytes, path: Path) -> str:
    marked = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
    found = CHARSET.search(head)
    name = marked or (found[found.lastindex or 1].decode("ascii") if found else "utf-8")
    try:
        b"    ".decode(name)  # refuses codecs that are no encodings, such as base64
    except LookupError as error:
        raise RecipeError(f"unknown encoding '{name}'", where=str(path), hint="save it as UTF-8") from error
    return name


class _Reader:
    """What lxml calls for each tag and text; gathers a block at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: list[str] = []
        self._size = 0
        self._headings: list[Heading] = []
        self._title: list[str] = []
        self._block: list[str] = []
        self._gap = "\n\n"
        self._num_skipped = 0  # open elements, from the outermost that is left out
        self._level = 0  # of the heading that is open
        self._in_title = False
        self._num_pre = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if self._num_skipped or tag in SKIPPED or "hidden" in attributes:
            self._num_skipped += 1
            return
        if tag in BLOCKS:
            self._end_block(tag)
            self._level = HEADINGS.get(tag, 0)
            self._num_pre += tag == "pre"
            self._block += ["- "] if tag == "li" else []
        elif tag in ("td", "th") and "".join(self._block).strip():
            self._block.append(" | ")
        elif tag == "br":
            self._block.append("\n")
        elif tag == "title":
            self._in_title = True

    def end(self, tag: str) -> None:
        if self._num_skipped:
            self._num_skipped -= 1
        elif tag in BLOCKS:
            self._end_block(tag)
            self._num_pre -= tag == "pre" and self._num_pre > 0
        elif tag == "title":
            self._in_title = False

    def data(self, text: str) -> None:
        if self._in_title:
            self._title.append(text)
        elif not self._num_skipped:
            self._block.append(text if self._num_pre else re.sub(r"\s+", " ", text))

    def close(self) -> None:
        self._end_block("")

    def document(self) -> Document:
        """What was gathered."""
        return Document("".join(self._parts), tuple(self._headings), " ".join("".join(self._title).split()))

    def _end_block(self, tag: str) -> None:
        """Puts the block that was gathered to the text, as a heading where one was open."""
        gathered = "".join(self._block).replace("\r", "").replace("\0", "")
        lines = (
            gathered.split("\n")
            if self._num_pre
            else [" ".join(each.split()) for each in gathered.split("\n")]
        )
        text = "\n".join(lines).strip("\n") if self._num_pre else "\n".join(lines).strip()
        level, self._level, self._block = self._level, 0, []
        if not text.strip() or text == "-":
            self._gap = self._gap if tag in LINES else "\n\n"
            return
        text = " ".join(text.split()) if level else text
        gap = self._gap if self._parts else ""
        start = self._size + len(gap)
        self._parts += [gap, text]
        self._size = start + len(text)
        refuse_if_large(self._size, self._path)
        if level:
            self._headings.append(Heading(level, text, start, self._size))
        self._gap = "\n" if tag in LINES else "\n\n"
