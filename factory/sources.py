"""Cuts documents into sections: the unit that samples are grounded in and cited by.

In Markdown and HTML a heading of one level opens a section, a heading of a higher level names its slice; what
stands before the first section (title, disclaimer) is no section. Plain text, PDF and a page without such
headings are one section. A section that is too long becomes several. Each knows where in its document
it stands; how a format becomes text is not known here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from factory.consistency import Inconsistency
from factory.documents import HTML, MARKDOWN, Document, read_document
from factory.errors import RecipeError
from factory.parts import Span, split
from factory.recipe import SourcesSpec
from factory.types import Source

# "§ 34-9-80", "4.2", "12(b)": what a heading starts with where the recipe gives no pattern.
CITATION = re.compile(r"(?:§+\s*[\w.()-]*\d[\w.()-]*|\d[\w.()-]*)(?=\s)")


class _Section(NamedTuple):
    """A stretch of a document under a heading; `place` is where errors say that it is."""

    place: str
    key: str
    citation: str
    title: str
    slice: str
    span: Span


def slug(text: str, separator: str = "-") -> str:
    """Letters and digits of any script in lower case, all else a single separator.

    A dot between digits stays, so that § 34-9-200.1 and § 34-9-2001 remain apart.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"(?:(?<!\d)\.|\.(?!\d)|[^\w.]|_)+", separator, plain).strip(separator)


def read_sources(spec: SourcesSpec, folder: Path, citation_pattern: str = "") -> tuple[Source, ...]:
    """All sections of all files that `spec.paths` names, in order.

    Raises Inconsistency for a path that leads nowhere, and RecipeError naming the file (and line) for
    an unreadable file, one without sections, a section without text, and two sections with the same key.
    """
    pattern = re.compile(citation_pattern) if citation_pattern else CITATION
    sources: list[Source] = []
    places: dict[str, str] = {}
    for path in _paths(spec.paths, folder):
        for place, source in _read(path, folder, spec, pattern):
            if source.key in places:
                what = f"the section '{source.key}' is also at {places[source.key]}"
                raise RecipeError(what, where=place, hint="give one of them another title")
            places[source.key] = place
            sources.append(source)
    return tuple(sources)


def _paths(names: Sequence[str], folder: Path) -> list[Path]:
    """The files behind names and globs, each once."""
    found: dict[Path, None] = {}
    for index, name in enumerate(names):
        path = folder / Path(name).expanduser()
        root = Path(path.anchor) if path.is_absolute() else Path()
        pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else str(path)
        matches = [path] if path.is_file() else sorted(p for p in root.glob(pattern) if p.is_file())
        if not matches:
            what, hint = f"there is no file '{path}'", "paths start at the recipe's folder"
            raise Inconsistency(("sources", "paths", index), what, hint)
        found.update(dict.fromkeys(matches))
    return list(found)


def _read(
    path: Path, folder: Path, spec: SourcesSpec, pattern: re.Pattern[str]
) -> Iterator[tuple[str, Source]]:
    """The sources of a file, each with its place for error messages."""
    document = read_document(path)
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    sections = list(_cut(document, path, spec, pattern))
    if path.suffix.lower() in MARKDOWN:
        _check_markdown(sections, document, path, spec)
    sections = sections or [_whole(document, path)]
    if not any(document.text[each.span.start : each.span.end].strip() for each in sections):
        raise RecipeError("the file is empty: no section has text", where=str(path))
    taken: Counter[str] = Counter()
    for section in sections:
        taken[section.key] += 1
        # Who wrote a Markdown file can rename a section; who got a page from elsewhere cannot.
        again = taken[section.key] if path.suffix.lower() in HTML else 1
        for source in _sources(section, document, name, spec.section_chars, again):
            yield section.place, source


def _cut(document: Document, path: Path, spec: SourcesSpec, pattern: re.Pattern[str]) -> Iterator[_Section]:
    """The sections under headings; the file's name is the slice until a heading names another."""
    slice = slug(path.stem, "_")
    # Pages of one site have many an "Overview": there the file's name is part of the key.
    prefix = path.stem if path.suffix.lower() in HTML else ""
    bounds = [heading for heading in document.headings if heading.level <= spec.section_heading]
    ends = [heading.start for heading in bounds[1:]] + [len(document.text)]
    for heading, end in zip(bounds, ends, strict=False):
        if heading.level == spec.slice_heading:
            slice = slug(heading.title, "_")
        if heading.level == spec.section_heading:
            found = pattern.match(heading.title)
            citation = found[0].strip() if found else ""
            title = heading.title[found.end() :].strip(" \t:.—–-") if found else heading.title
            key = slug(f"{prefix} {citation} {title}") or f"section-{heading.line}"
            place = f"{path}:{heading.line}" if heading.line else f"{path} '{heading.title}'"
            yield _Section(place, key, citation, title, slice, Span(heading.end, end))


def _whole(document: Document, path: Path) -> _Section:
    """A document without sections, as one; its folder is the slice."""
    title = document.title or path.stem.replace("_", " ")
    slice = slug(path.parent.name, "_")
    return _Section(f"{path}:1", slug(path.stem), "", title, slice, Span(0, len(document.text)))


def _check_markdown(sections: Sequence[_Section], document: Document, path: Path, spec: SourcesSpec) -> None:
    """Raises RecipeError for a handbook without sections, or with sections that hold nothing."""
    if not sections:
        marks = "#" * spec.section_heading
        raise RecipeError(
            f"no section: no heading starts with '{marks} '",
            where=str(path),
            hint="`sources.section_heading` sets the level of the headings that open a section",
        )
    empty = [each.place for each in sections if not document.text[each.span.start : each.span.end].strip()]
    if empty:
        lines = ", ".join(place.rpartition(":")[2] for place in empty[:10])
        more = " and more" if len(empty) > 10 else ""
        raise RecipeError(f"sections without text, at lines {lines}{more}", where=empty[0])


def _sources(
    section: _Section, document: Document, path: str, max_chars: int, again: int
) -> Iterator[Source]:
    """The section, or its parts where it is too long; the first part has the section's own key and title."""
    key = section.key + (f"-{again}" if again > 1 else "")
    for number, span in enumerate(split(document.text, section.span, max_chars), 1):
        source = Source.create(
            key + (f"-part-{number}" if number > 1 else ""),
            path,
            section.citation,
            section.title + (f" (part {number})" if number > 1 else ""),
            document.text[span.start : span.end],
            section.slice,
        )
        page = document.page_at(span.start)
        yield replace(source, start_char=span.start, end_char=span.end, page=page)
