"""What the refiner is taught: the checked examples, among as many from fictional law.

The checked examples alone would be learned by heart, sections and all. Fictional ones in between, each
seen once, keep it reading: it must go on following the source that stands in its prompt.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from factory import edits
from factory.types import CheckedDraft
from tiny import rules, tasks
from tiny.rules import Rule

GOLD = tasks.ROOT / "recipes" / "georgia_workers_comp" / "gold" / "refiner.jsonl"


def source_keys() -> dict[str, Rule]:
    """Rules by the key of their section in the handbook."""
    from tiny.build_domain import source_of

    return {source_of({"section": rule.section, "title": rule.title}): rule for rule in rules.read()}


def checked(path: Path = GOLD) -> list[tasks.Pair]:
    """The refiner's chats for the gold examples, as the product makes them."""
    sources, pairs = source_keys(), []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        draft = CheckedDraft(
            row["id"],
            row["question"],
            row["answer"],
            row["corrected"],
            row["reason"],
            row["source"],
            row["slice"],
        )
        prompt = tasks.render(
            "refiners", "edit", source=sources[row["source"]], question=draft.question, answer=draft.answer
        )
        pairs.append((prompt, json.dumps(edits.target(draft, restate=True), ensure_ascii=False)))
    return pairs


def examples(seed: int = 0, *, fictional: float = 1.0) -> list[tasks.Pair]:
    """All chats the refiner is trained on; `fictional` is their number to each checked one."""
    rng, pairs = Random(seed), checked()
    return pairs + [tasks.edit(rng) for _ in range(round(len(pairs) * fictional))]
