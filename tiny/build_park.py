"""Builds the domain town_park: `python -m tiny.build_park` writes its files from park.yaml.

`faults` proves what the experiment rests on: texts hold their facts, questions of dev and test can be
understood by the words that they share with training, and share no run of four words with it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from factory.words import words
from tiny import park
from tiny.generated import write_or_check
from tiny.park import Park, Script, Section

RECIPE = Path(__file__).parents[1] / "recipes" / "town_park"
NOTE = "> House rules of a town park that is made up, in our own words."
RUN = 4  # words in a row that no question of dev or test may share with what is trained on


def runs(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + RUN]) for at in range(len(found) - RUN + 1)}


def scripts(section: Section) -> Iterator[tuple[str, int, Script]]:
    """Split, number and lines of each conversation of dev and test."""
    for split, found in (("dev", section.dev), ("test", section.test)):
        yield from ((split, number, script) for number, script in enumerate(found, 1))


def faults(found: Park) -> list[str]:
    """Every way in which park.yaml breaks its own rules; empty where it keeps them."""
    bad = [fault for section in found.sections for fault in faults_of(found, section)]
    numbers = [section.section for section in found.sections]
    numbers += [section.old for section in found.sections if section.old]
    if len(set(numbers)) < len(numbers):
        bad.append("numbers of sections, old ones too, must be unique")
    asked = [text for s in found.sections for *_, script in scripts(s) for _, text in script]
    if len(set(asked)) < len(asked):
        bad.append("questions must be unique")
    return bad


def faults_of(found: Park, section: Section) -> Iterator[str]:
    phrases = chain(
        (text.format(section.thing) for fact in section.facts for text in found.openings[fact]),
        (text for fact in section.facts for text in found.follow_ups[fact]),
        (section.text, section.title),
    )
    learned = {run for text in phrases for run in runs(text)}
    yield from (
        f"{section.title}: {q!r} is not in its text" for q in section.facts.values() if q not in section.text
    )
    for split, number, script in scripts(section):
        place = f"{section.title} {split} {number}"
        if set(dict(script)) != set(section.facts):
            yield f"{place}: it must ask for each fact once"
        if section.key not in words(script[0][1]):
            yield f"{place}: {section.key!r} is missing in {script[0][1]!r}"
        for fact, text in script:
            hints = {name for name in section.facts if set(found.words[name]) & set(words(text))}
            if hints != {fact}:
                yield f"{place}: {text!r} has words of {sorted(hints)}, and is to ask for {fact}"
            yield from (f"{place}: {text!r} shares {' '.join(run)!r}" for run in runs(text) & learned)


def items(section: Section) -> Iterator[tuple[str, dict[str, Any]]]:
    """Split and line of each question, asked in the conversation up to it."""
    for split, number, script in scripts(section):
        before: list[dict[str, str]] = []
        for turn, (fact, text) in enumerate(script, 1):
            answer = section.answer(fact)
            row = {"id": f"{split}-{section.source_key}-{number}-{turn}", "question": text, "answer": answer}
            tail = {"slice": section.slice, "source": section.source_key}
            yield split, {**row, **tail, **({"before": [*before]} if before else {})}
            before += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]


def build(found: Park) -> dict[str, str]:
    """Path under the recipe → text, the same for the same park.yaml."""
    lines = ["# Town park: the house rules", "", NOTE]
    for name, title in found.slices.items():
        lines += ["", f"## {title}"]
        for section in (section for section in found.sections if section.slice == name):
            lines += ["", f"### {section.citation} {section.title}", "", section.text]
    rows: dict[str, list[str]] = {"dev": [], "test": []}
    for section in found.sections:
        for split, row in items(section):
            rows[split].append(json.dumps(row, ensure_ascii=False))
    gold = {f"gold/{split}.jsonl": "\n".join(texts) + "\n" for split, texts in rows.items()}
    return {"sources/house_rules.md": "\n".join(lines) + "\n", **gold}


def main() -> int:
    found = park.read()
    if bad := faults(found):
        print("tiny/park.yaml:", *bad, sep="\n  ", file=sys.stderr)
        return 1
    files = build(found)
    if not write_or_check(files, RECIPE, "tiny.build_park"):
        return 1
    print(", ".join(f"{name} {text.count(chr(10))}" for name, text in files.items()), "lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
