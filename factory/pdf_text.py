"""PDF to text, page by page, as PDFium extracts it.

PDFium reads the file as it goes and one page is open at a time, so that a large file with pictures costs no
more than its text. No script in it runs. Lines are those of the page; a word that was parted at a line's end
is put together again. A scanned page has no text, and no characters are recognised here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from factory.documents import Document, refuse_if_large
from factory.errors import RecipeError

# PDFium writes U+0002 (in older versions U+FFFE) for a hyphen at the end of a line.
PARTED = re.compile(r"[\x02\ufffe]\s*(?=(\w?))|(?<=\d)-\n(?=\d)")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]")


def read_pdf(path: Path) -> Document:
    """The text of all pages, each on lines of its own, and where each begins.

    Raises RecipeError for a file that is broken, needs a password, or has no text.
    """
    texts: list[str] = []
    starts: list[int] = []
    size = 0
    for text in _pages(path):
        starts.append(size)
        if text:
            texts.append(text)
            size += len(text) + 1
            refuse_if_large(size, path)
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
                yield _plain(text.get_text_bounded())
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


def _plain(text: str) -> str:
    lines = CONTROL.sub("", PARTED.sub(_joint, text.replace("\r\n", "\n"))).split("\n")
    return "\n".join(line.rstrip() for line in lines).strip()


def _joint(parted: re.Match[str]) -> str:
    """Nothing between two parts of a word; the hyphen where it is one by itself, as in 34-9-80 or X-Ray."""
    return "" if parted[1] and parted[1].islower() else "-"
