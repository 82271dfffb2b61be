"""Cuts documents into sections: the unit that samples are grounded in and cited by.

A Markdown heading of one level opens a section, a heading of a higher level names its slice; what
stands before the first section (title, disclaimer) is no section. A plain text file is one section. PDF,
HTML and the like are not read: convert them first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from factory.consistency import Inconsistency
from factory.errors import RecipeError
from factory.layers import read_text
from factory.recipe import SourcesSpec
from factory.types import Source

MARKDOWN = (".md", ".markdown")
HEADING = re.compile(r"^(#{1,6})\s+(.*?)\s*#*$")
FENCE = re.compile(r"^\s{0,3}(```|~~~)")
# "§ 34-9-80", "4.2", "12(b)": what a heading starts with where the recipe gives no pattern.
CITATION = re.compile(r"(?:§+\s*[\w.()-]*\d[\w.()-]*|\d[\w.()-]*)(?=\s)")


@dataclass
class _Section:
    line: int
    heading: str
    slice: str
    lines: list[str] = field(default_factory=list)


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
        for line, source in _read(path, folder, spec, pattern):
            place = f"{path}:{line}"
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
) -> Iterator[tuple[int, Source]]:
    text = read_text(path)
    if "\0" in text:
        raise RecipeError("this is no text", where=str(path), hint="convert it to Markdown or plain text")
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    if path.suffix.lower() not in MARKDOWN:
        if not text.strip():
            raise RecipeError("the file is empty", where=str(path))
        title = path.stem.replace("_", " ")
        yield 1, Source.create(slug(path.stem), name, "", title, text.strip(), slug(path.parent.name, "_"))
        return
    sections = _cut(text, spec, slug(path.stem, "_"))
    if not sections:
        marks = "#" * spec.section_heading
        raise RecipeError(
            f"no section: no heading starts with '{marks} '",
            where=str(path),
            hint="`sources.section_heading` sets the level of the headings that open a section",
        )
    empty = [section.line for section in sections if not "".join(section.lines).strip()]
    if empty:
        lines = ", ".join(map(str, empty[:10])) + (" and more" if len(empty) > 10 else "")
        raise RecipeError(f"sections without text, at lines {lines}", where=f"{path}:{empty[0]}")
    for section in sections:
        yield section.line, _source(section, name, pattern)


def _cut(text: str, spec: SourcesSpec, slice: str) -> list[_Section]:
    """The sections of a Markdown text; `slice` holds until a heading names another."""
    sections: list[_Section] = []
    open_section: _Section | None = None
    fence = ""
    for number, line in enumerate(text.split("\n"), 1):
        mark = FENCE.match(line)
        if mark and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        heading = None if fence or mark else HEADING.match(line)
        level = len(heading[1]) if heading else 99
        if heading and level == spec.section_heading:
            open_section = _Section(number, heading[2], slice)
            sections.append(open_section)
        elif heading and level < spec.section_heading:
            open_section = None
            slice = slug(heading[2], "_") if level == spec.slice_heading else slice
        elif open_section is not None:
            open_section.lines.append(line)
    return sections


def _source(section: _Section, path: str, pattern: re.Pattern[str]) -> Source:
    found = pattern.match(section.heading)
    citation = found[0].strip() if found else ""
    title = section.heading[found.end() :].strip(" \t:.—–-") if found else section.heading
    text = "\n".join(section.lines).strip()
    key = slug(f"{citation} {title}") or f"section-{section.line}"
    return Source.create(key, path, citation, title, text, section.slice)
