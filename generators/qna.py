"""InstructLab's `qna.yaml` files, read as they are: the leaves of its taxonomy, with seed examples.

The place of a file is its topic (knowledge/science/astronomy/qna.yaml). Skills hold questions and
answers, some with a context that belongs to the question; knowledge holds contexts with three questions each
(version 3) or plain pairs. The method is LAB (arXiv 2403.01081); the fields are those of instructlab/schema.
The documents that knowledge files point to in git repositories are not fetched: put them among the sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.errors import RecipeError
from factory.explain import dotted
from factory.layers import Layer, read_layer
from factory.types import Json

FILE_NAME = "qna.yaml"


@dataclass(frozen=True, slots=True)
class Example:
    """A question with its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Group:
    """Examples that share a context, or have none; a skill's context is part of each question."""

    examples: tuple[Example, ...]
    context: str = ""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One file: where it stands below the folder that was named, what it is about, its examples."""

    path: tuple[str, ...]
    description: str
    is_knowledge: bool
    groups: tuple[Group, ...]


def find_leaves(folder: Path) -> list[Leaf]:
    """Every qna.yaml below a folder, sorted by place; raises RecipeError where there is none."""
    files = sorted(folder.rglob(FILE_NAME))
    if not files:
        raise RecipeError(f"no {FILE_NAME} in this folder", where=str(folder))
    return [
        read_leaf(read_layer(file), file.parent.relative_to(folder).parts or (folder.name,)) for file in files
    ]


def read_leaf(layer: Layer, path: tuple[str, ...]) -> Leaf:
    """One file; keys that say nothing about what to write are passed over.

    Raises RecipeError naming file and line for a missing or empty text and for a file without examples.
    """
    entries = layer.data.get("seed_examples")
    if not isinstance(entries, list) or not entries:
        raise RecipeError("must be a list of examples", where=_place(layer, ("seed_examples",)))
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise RecipeError("must be a mapping", where=_place(layer, ("seed_examples", index)))
    knowledge = "document" in layer.data or any("questions_and_answers" in entry for entry in entries)
    said = [layer.data.get(key) for key in ("domain", "task_description", "document_outline")]
    description = " ".join(" ".join(text.split()) for text in said if isinstance(text, str) and text.strip())
    return Leaf(path, description, knowledge, tuple(_groups(layer, entries)))


def _groups(layer: Layer, entries: list[Mapping[str, Json]]) -> Iterator[Group]:
    """A group for each context, and one for all examples without."""
    plain: list[Example] = []
    for index, entry in enumerate(entries):
        loc: tuple[str | int, ...] = ("seed_examples", index)
        if "questions_and_answers" in entry:
            pairs = entry["questions_and_answers"]
            loc = (*loc, "questions_and_answers")
            if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs) or not pairs:
                raise RecipeError("must be a list of questions and answers", where=_place(layer, loc))
            examples = [_example(layer, pair, (*loc, number)) for number, pair in enumerate(pairs)]
            yield Group(tuple(examples), _text(layer, entry, "context", loc[:2]))
        elif entry.get("context"):
            yield Group((_example(layer, entry, loc),), _text(layer, entry, "context", loc))
        else:
            plain.append(_example(layer, entry, loc))
    if plain:
        yield Group(tuple(plain))


def _example(layer: Layer, pair: Mapping[str, Json], loc: tuple[str | int, ...]) -> Example:
    return Example(_text(layer, pair, "question", loc), _text(layer, pair, "answer", loc))


def _text(layer: Layer, mapping: Mapping[str, Json], key: str, loc: tuple[str | int, ...]) -> str:
    text = mapping.get(key)
    if isinstance(text, str) and text.strip():
        return text.strip()
    what = f"'{key}' must be a text that is not empty"
    raise RecipeError(what, where=_place(layer, (*loc, key)), hint="" if text is None else "put it in quotes")


def _place(layer: Layer, loc: tuple[str | int, ...]) -> str:
    lines = [layer.lines[loc[:length]] for length in range(len(loc) + 1) if loc[:length] in layer.lines]
    return f"{layer.path}:{lines[-1] if lines else 1} {dotted(loc)}"
