"""PDF to text, page by page, as PDFium extracts it.

PDFium reads the file as it goes and one page is open at a time, so that a large file with pictures costs no
more than its text. No script in it runs. Lines are those of the page; a word that was parted at a line's end
is put together again, and keeps its hyphen where the document writes it so elsewhere. A scanned page has no
text, and no characters are recognised here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from factory.documents import Document, refuse_if_large
from factory.errors import RecipeError

# PDFium writes U+0002 (in older versions U+FFFE) for a hyphen at the end of a line.
PARTED = re.compile(r"(?<!\w)(\w*)[\x02\ufffe]\s*(?=(\w*))|(?<=\d)-\n(?=\d)")
HYPHENATED = re.compile(r"(?<!\w)(\w+)[-\u2010\u2011](?=(\w+))")
WORD = re.compile(r"\w+")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")


def read_pdf(path: Path) -> Document:
    """The text of all pages, each on lines of its own, and where each begins.

    Raises RecipeError for a file that is broken, needs a password, or has no text.
    """
    pages: list[str] = []
    size = 0
    for page in _pages(path):
        pages.append(page)
        size += len(page)
        refuse_if_large(size, path)
    texts: list[str] = []
    starts: list[int] = []
    size = 0
    joints = Joints(pages)
    for page in pages:
        starts.append(size)
        if text := _plain(page, joints):
            texts.append(text)
            size += len(text) + 1
    if not texts:
        hint = "scanned pages must go through character recognition first"
        raise RecipeError("no text in this PDF", where=str(path), hint=hint)
    return Document("\n".join(texts), page_starts=tuple(starts))


def _pages(path: Path) -> Iterator[str]:
    from pypdfium2 import PdfDocument, PdfiumError
    from pypdfium2.raw import FPDF_ERR_PASSWORD

    try:
        with PdfDocument(path) as document:
            for page in document:
                text = page.get_textpage()
                yield text.get_text_bounded().replace("\r\n", "\n")
                text.close()
                page.close()
    except PdfiumError as error:
        if error.err_code == FPDF_ERR_PASSWORD:
            hint = "save it without a password"
            raise RecipeError("this PDF needs a password", where=str(path), hint=hint) from error
        hint = "open it in a viewer and save it anew"
        raise RecipeError("this PDF is broken or not a PDF", where=str(path), hint=hint) from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _plain(text: str, joints: Joints) -> str:
    lines = CONTROL.sub("", PARTED.sub(joints.between, text)).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


class Joints:
    """What stands between two parts of a word at a line's end: nothing, or a hyphen of the word's own.

    The extracted text does not tell which; how the document writes the word within its lines does.
    """

    def __init__(self, pages: Sequence[str]) -> None:
        parted = {_pair(found) for page in pages for found in PARTED.finditer(page)}
        whole = {"".join(pair) for pair in parted}
        pairs = (_pair(found) for page in pages if parted for found in HYPHENATED.finditer(page))
        words = (word.lower() for page in pages if parted for word in WORD.findall(page))
        self._num_hyphenated = Counter(pair for pair in pairs if pair in parted)
        self._num_whole = Counter(word for word in words if word in whole)

    def between(self, parted: re.Match[str]) -> str:
        """The hyphen before a capital or a digit, as in X-Ray or 34-9-80, and where it is usual elsewhere."""
        pair, after = _pair(parted), parted[2] or ""
        is_usual = self._num_hyphenated[pair] > self._num_whole["".join(pair)]
        return (parted[1] or "") + ("" if after[:1].islower() and not is_usual else "-")


def _pair(found: re.Match[str]) -> tuple[str, str]:
    return (found[1] or "").lower(), (found[2] or "").lower()
