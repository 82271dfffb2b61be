"""What `factory refiner data` shows and writes: the refiner's drafts, counted by origin and kind of fault.

Counting alone: the drafts are made in `factory.labels`, their chats in `factory.examples`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from factory.corruption.kinds import OFF_SOURCE, corruptions
from factory.domain import Domain
from factory.examples import refiner_examples, write_jsonl
from factory.labels import ORIGINS, Labelled, Mixture, label
from factory.store.trace import Selects
from factory.stored_labels import StoredLabels
from factory.types import CheckedDraft, Json


def gather(
    domain: Domain, mixture: Mixture, store: Selects | None = None
) -> tuple[list[Labelled], Counter[str]]:
    """The drafts of a recipe and of a workspace, if given; and how many of it were left out, by reason."""
    seeded = replace(mixture, seed=domain.recipe.seed)
    if store is None:
        return label(domain, seeded), Counter()
    stored = StoredLabels(store, domain)
    return label(domain, seeded, stored.read()), stored.left_out


def for_training(labelled: Iterable[Labelled]) -> list[CheckedDraft]:
    """The drafts that the refiner learns."""
    return [each.draft for each in labelled if not each.is_held_out]


def held_out(labelled: Iterable[Labelled]) -> list[CheckedDraft]:
    """The drafts that it is measured by."""
    return [each.draft for each in labelled if each.is_held_out]


def summary(labelled: Sequence[Labelled], left_out: Mapping[str, int]) -> dict[str, Any]:
    """Counts as plain data. `kinds` has a row for each origin and kind, with one draft as an example.

    `inapplicable` are the corruptions that found nothing to spoil.
    """
    sections: dict[bool, set[str]] = {False: set(), True: set()}
    for each in labelled:
        sections[each.is_held_out].add(each.draft.source_key)
    corrupted = {each.draft.reason for each in labelled if each.origin == "corrupted"}
    return {
        "training": sum(not each.is_held_out for each in labelled),
        "held_out": sum(each.is_held_out for each in labelled),
        "training_sections": len(sections[False]),
        "held_out_sections": len(sections[True]),
        "inapplicable": sorted({*corruptions(), OFF_SOURCE} - corrupted),
        "left_out": dict(sorted(left_out.items())),
        "kinds": _rows(labelled),
    }


def write_chats(domain: Domain, labelled: Iterable[Labelled], path: Path) -> int:
    """The training part as chats, one a line; returns their number."""
    return write_jsonl(refiner_examples(domain, for_training(labelled)), path)


def write_drafts(drafts: Iterable[CheckedDraft], path: Path) -> int:
    """Drafts in the form of `gold.refiner`, one a line; returns their number."""
    return write_jsonl(map(draft_row, drafts), path)


def draft_row(draft: CheckedDraft) -> dict[str, Json]:
    """A draft as a line of `gold.refiner`."""
    return {
        "id": draft.key,
        "question": draft.question,
        "answer": draft.answer,
        "corrected": draft.corrected,
        "reason": draft.reason,
        "slice": draft.slice,
        "source": draft.source_key,
    }


def print_summary(found: Mapping[str, Any]) -> None:
    """Prints the counts, a line for each kind, with its example on one line."""
    from factory.printable import printable_line
    from factory.screen import print_mapping, print_table

    print_mapping({key: value for key, value in found.items() if key != "kinds"})
    rows = [
        (
            row["origin"],
            row["kind"],
            row["training"],
            row["held_out"],
            printable_line(row["example"]["answer"], 44),
            "(drop)"
            if row["example"]["corrected"] is None
            else "(as it is)"
            if row["example"]["corrected"] == row["example"]["answer"]
            else printable_line(row["example"]["corrected"], 44),
        )
        for row in found["kinds"]
    ]
    total = ("all", "", found["training"], found["held_out"], "", "")
    print_table(("origin", "kind", "training", "held out", "such as", "becomes"), [*rows, total], "drafts")


def _rows(labelled: Iterable[Labelled]) -> list[dict[str, Any]]:
    counts: Counter[tuple[str, str, bool]] = Counter()
    examples: dict[tuple[str, str], CheckedDraft] = {}
    for draft, origin, is_held_out in labelled:
        counts[origin, draft.reason, is_held_out] += 1
        examples.setdefault((origin, draft.reason), draft)
    order = {origin: place for place, origin in enumerate(ORIGINS)}
    return [
        {
            "origin": origin,
            "kind": kind,
            "training": counts[origin, kind, False],
            "held_out": counts[origin, kind, True],
            "example": draft_row(examples[origin, kind]),
        }
        for origin, kind in sorted(examples, key=lambda pair: (order[pair[0]], pair[1]))  # type: ignore[index]
    ]
