"""Builds the domain beekeeping: `python -m tiny.build_beekeeping` writes its files from beekeeping.yaml.

A sentence of the handbook marks what is a fact in it and what may be wrong about that fact; answers, short
and long, and drafts with one known fault each follow from the marks. `faults` proves what the experiment
rests on.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import yaml

from factory.sources import slug
from factory.words import words
from tiny.generated import write_or_check

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "beekeeping"
NOTE = "> Rules of a beekeeping club that is made up, in our own words. No advice on keeping bees."
MARK = re.compile(r"\{(?P<kind>[qundxc])\|(?P<values>[^{}]+)\}")
KINDS = {  # the rarest first, and so taken first
    "x": "negated",
    "d": "wrong_date",
    "c": "dropped_condition",
    "u": "wrong_unit",
    "q": "wrong_quantity",
    "n": "wrong_name",
}
FRAMES = [
    "",
    "A beginner asks: ",
    "For the club, ",
    "At the apiary, ",
    "Quick question, ",
    "Please tell me, ",
]
NUM_CLEAN = NUM_FAULTY = 5  # drafts of each fact
MAX_SLIPS = 3  # of the faulty ones, those with another fact; the others are broken, or about something else
RUN = 4  # words in a row that no question of dev or test may share with what is trained on


class Draft(NamedTuple):
    """A question, a draft answer, what is right (None: it has to go), and what is wrong with the draft."""

    question: str
    answer: str
    corrected: str | None
    reason: str


@dataclass(frozen=True)
class Fact:
    """A sentence as it was marked, and the questions that ask for it."""

    marked: str
    ask: str
    split: str
    held_out: str

    def text(self, *, long: bool, slip: tuple[re.Match[str], str] | None = None) -> str:
        """The sentence without its full stop, or the short answer in it; `slip` is a mark and its value."""
        whole = self.marked.removesuffix(".")
        begin, end = (0, len(whole)) if long else (whole.index("[") + 1, whole.index("]"))
        parts, at = [], begin
        for mark in MARK.finditer(whole, begin, end):
            right = mark["values"].split("|")[0]
            parts += [whole[at : mark.start()], slip[1] if slip and mark.span() == slip[0].span() else right]
            at = mark.end()
        return re.sub(r"[\[\]]", "", "".join([*parts, whole[at:end]]))

    def slips(self, *, long: bool) -> list[tuple[re.Match[str], str]]:
        """Every mark with every wrong value; a condition's is that it is missing."""
        whole = self.marked.removesuffix(".")
        begin, end = (0, len(whole)) if long else (whole.index("[") + 1, whole.index("]"))
        return [
            (mark, wrong)
            for mark in MARK.finditer(whole, begin, end)
            for wrong in (mark["values"].split("|")[1:] if mark["kind"] != "c" else [""])
        ]


@dataclass(frozen=True)
class Section:
    """One section of the handbook, such as "HB 4.12"."""

    slice: str
    citation: str
    title: str
    marked: tuple[str, ...]
    facts: tuple[Fact, ...]

    @property
    def key(self) -> str:
        return slug(f"{self.citation} {self.title}")

    @property
    def text(self) -> str:
        plain = (MARK.sub(lambda mark: mark["values"].split("|")[0], each) for each in self.marked)
        return re.sub(r"[\[\]]", "", " ".join(plain))

    def answer(self, fact: Fact, *, long: bool = False, **slip: Any) -> str:
        """What is right about a fact, with its citation."""
        return f"{fact.text(long=long, **slip)} ({self.citation})" + ("." if long else "")


def read(path: Path = HERE / "beekeeping.yaml") -> tuple[dict[str, str], list[Section]]:
    """Titles of the slices, and the sections in order."""
    chapters = yaml.safe_load(path.read_text(encoding="utf-8"))
    sections = []
    for chapter, each in enumerate(chapters, 1):
        for number, found in enumerate(each["sections"], 1):
            splits = [("dev", found["dev"]), ("test", found["test"])]
            marked = [text for text in found["text"] if "[" in text]
            facts = [
                Fact(text, ask, *split) for text, ask, split in zip(marked, found["ask"], splits, strict=True)
            ]
            citation = f"HB {chapter}.{number}"
            sections.append(
                Section(
                    slug(each["title"], "_"), citation, found["title"], tuple(found["text"]), tuple(facts)
                )
            )
    return {slug(each["title"], "_"): each["title"] for each in chapters}, sections


def runs(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + RUN]) for at in range(len(found) - RUN + 1)}


def faults(sections: list[Section]) -> list[str]:
    """Every way in which beekeeping.yaml breaks its own rules; empty where it keeps them."""
    facts = [(section, fact) for section in sections for fact in section.facts]
    asked = [text for _, fact in facts for text in (fact.ask, fact.held_out)]
    learned = {run for section, fact in facts for text in (section.text, fact.ask) for run in runs(text)}
    bad = [] if len(set(asked)) == len(asked) else ["questions must be unique"]
    for section in sections:
        if not 2 <= len(section.marked) <= 5 or len({section.key for section in sections}) < len(sections):
            bad.append(f"{section.key}: 2 to 5 sentences, and a key of its own")
        if not section.text.isascii() or re.search(r"[{}|]", section.text):
            bad.append(f"{section.key}: a mark that is none, or a sign that is not ASCII: {section.text}")
    for section, fact in facts:
        bad += [
            f"{section.key}: {wrong!r} stands in the text"
            for mark, wrong in fact.slips(long=True)
            if wrong and mark["kind"] != "x" and re.search(rf"\b{re.escape(wrong)}\b", section.text)
        ]
        shared = runs(fact.held_out) & learned
        bad += [f"{section.key}: {fact.held_out!r} shares {' '.join(run)!r}" for run in shared]
    return bad


def malformed(section: Section, right: str, rng: Random) -> str:
    """The answer with its citation in bad form."""
    number = section.citation.removeprefix("HB ")
    cites = [f"({number})", f"HB {number}", f"(HB{number})", f"(Handbook {number})", f"[HB {number}]"]
    cites += [f"(HB {number.replace('.', '-')})", f"(HB {number}", f"(section {number})"]
    return right.replace(f"({section.citation})", rng.choice(cites))


def truncated(section: Section, right: str, rng: Random) -> str:
    """The beginning of the answer, its citation incomplete or absent."""
    body = right.partition(" (")[0].split(" ")
    stubs = [" ".join(body[: rng.randint(1, len(body))]), right.partition(" (")[0], f"{' '.join(body)} (HB"]
    return rng.choice([*stubs, f"{' '.join(body)} ({section.citation.partition('.')[0]}."])


def broken(section: Section, fact: Fact, sections: list[Section], rng: Random) -> list[Draft]:
    """A draft of each kind that has nothing to do with what the fact says."""
    ask, right = fact.ask, section.answer(fact, long=rng.random() < 0.5)
    far = rng.choice([other for other in sections if other.slice != section.slice])
    theirs = rng.choice(far.facts)
    stray = section.answer(fact) if rng.random() < 0.5 else far.answer(theirs)
    cited = right.replace(
        f"({section.citation})", f"({rng.choice(sections_but(section, sections)).citation})"
    )
    return [
        Draft(ask, cited, right, "wrong_citation"),
        Draft(ask, malformed(section, right, rng), right, "malformed_citation"),
        Draft(ask, truncated(section, right, rng), right, "truncated"),
        Draft(theirs.ask, stray, None, "off_source"),
    ]


def sections_but(section: Section, sections: list[Section]) -> list[Section]:
    return [other for other in sections if other is not section]


def slipped(section: Section, fact: Fact, rng: Random) -> list[Draft]:
    """A draft of each kind that says something else, in the order of KINDS, then further ones at random."""
    found = []
    for long in (True, False):
        for slip in fact.slips(long=long):
            right = section.answer(fact, long=long)
            wrong = section.answer(fact, long=long, slip=slip)
            found.append(Draft(fact.ask, wrong, right, KINDS[slip[0]["kind"]]))
    rng.shuffle(found)
    first = {draft.reason: draft for draft in found}
    chosen = [first[kind] for kind in KINDS.values() if kind in first]
    return [*chosen, *(draft for draft in found if draft not in chosen)]


def drafts(section: Section, fact: Fact, sections: list[Section], rng: Random) -> Iterator[Draft]:
    """As many clean as faulty drafts about a fact, in frames that tell nothing."""
    slips, others = slipped(section, fact, rng), broken(section, fact, sections, rng)
    faulty = slips[:MAX_SLIPS]
    faulty += rng.sample(others, NUM_FAULTY - len(faulty))
    first = rng.random() < 0.5
    rights = [section.answer(fact, long=first ^ bool(number % 2)) for number in range(NUM_CLEAN)]
    clean = [Draft(fact.ask, right, right, "ok") for right in rights]
    for part in (clean, faulty):
        for frame, draft in zip(rng.sample(FRAMES, len(part)), part, strict=True):
            ask = draft.question
            yield draft._replace(question=frame + (ask[0].lower() + ask[1:] if frame[-2:] == ", " else ask))


def build(slices: dict[str, str], sections: list[Section]) -> dict[str, str]:
    """Path under the recipe -> text, the same for the same beekeeping.yaml."""
    lines = ["# Handbook of the beekeeping club", "", NOTE]
    for name, title in slices.items():
        lines += ["", f"## {title}"]
        for section in (section for section in sections if section.slice == name):
            lines += ["", f"### {section.citation} {section.title}", "", section.text]
    rows: dict[str, list[dict[str, Any]]] = {"refiner": [], "dev": [], "test": []}
    for section in sections:
        tail = {"slice": section.slice, "source": section.key}
        rng = Random(section.key)
        made = [draft for fact in section.facts for draft in drafts(section, fact, sections, rng)]
        for number, (question, answer, corrected, reason) in enumerate(made, 1):
            row = {"id": f"{section.key}-{number}", "question": question, "answer": answer}
            rows["refiner"].append({**row, "corrected": corrected, "reason": reason, **tail})
        for fact in section.facts:
            row = {"id": f"{fact.split}-{section.key}", "question": fact.held_out}
            rows[fact.split].append({**row, "answer": section.answer(fact), **tail})
    text = {k: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in v) for k, v in rows.items()}
    return {
        "sources/handbook.md": "\n".join(lines) + "\n",
        **{f"gold/{k}.jsonl": v for k, v in text.items()},
    }


def main() -> int:
    slices, sections = read()
    if bad := faults(sections):
        print("tiny/beekeeping.yaml:", *bad, sep="\n  ", file=sys.stderr)
        return 1
    files = build(slices, sections)
    if not write_or_check(files, RECIPE, "tiny.build_beekeeping"):
        return 1
    counts = ", ".join(f"{name} {text.count(chr(10))}" for name, text in files.items() if name.endswith("l"))
    print(f"{len(sections)} sections, {len(slices)} slices; {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
