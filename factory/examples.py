"""Training examples as JSONL: one {"messages": […], "tools": […]} a line, whole or not there at all.

The student learns accepted samples as they are, calls of tools in the form of chat templates. The refiner
learns, from drafts that an expert checked, the very prompt it will be asked and the edits that a diff makes
of the correction. Which samples were accepted is the store's to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from factory.domain import Domain
from factory.edits import target
from factory.errors import RecipeError
from factory.partial_files import partial_of
from factory.prompts import render
from factory.tool_calls import chat_of
from factory.types import CheckedDraft, Json, Message, Sample

Example = dict[str, Json]  # {"messages": […]}, and {"tools": […]} where there are some


def student_examples(samples: Iterable[Sample]) -> Iterator[Example]:
    """The conversation of each sample, lazily."""
    return (chat_of(sample.messages, sample.attributes) for sample in samples)


def refiner_examples(domain: Domain, drafts: Iterable[CheckedDraft] | None = None) -> Iterator[Example]:
    """The refiner's question and right answer for each draft, lazily; `drafts` are the recipe's if not given.

    Raises RecipeError for a draft about a section that no source file has.
    """
    sources = domain.source_by_key
    restate = restates(domain)
    style = domain.recipe.domain.answer_style
    for draft in domain.drafts if drafts is None else drafts:
        source = sources.get(draft.source_key)
        if source is None:
            raise RecipeError(
                f"draft '{draft.key}' names no known section: '{draft.source_key}'", where="gold.refiner"
            )
        prompt = render(
            "refiners", "edit", style=style, source=source, question=draft.question, answer=draft.answer
        )
        answer = Message("assistant", refiner_answer(draft, restate=restate))
        yield chat_of([Message("user", prompt), answer], {})


def restates(domain: Domain) -> bool:
    """Whether the recipe's refiner replaces the whole answer each time."""
    return any(step.options().get("restate") for step in domain.recipe.refiners if step.name == "edit")


def refiner_answer(draft: CheckedDraft, *, restate: bool = False) -> str:
    """What the refiner should say, as JSON in the key order of its schema."""
    return json.dumps(target(draft, restate=restate), ensure_ascii=False)


def write_jsonl(examples: Iterable[Example], path: Path) -> int:
    """Writes one line an example and returns their number; an interrupted write leaves nothing at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    num_written = 0
    with partial.open("w", encoding="utf-8", errors="replace") as file:
        for example in examples:
            file.write(json.dumps(example, ensure_ascii=False) + "\n")
            num_written += 1
    partial.replace(path)
    return num_written
