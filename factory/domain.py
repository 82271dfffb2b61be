"""The material of a recipe, held in memory: sections, seed prompts, gold items.

These are small (a handbook, a few hundred prompts); generated samples are not here but in the
store. `factory.load` reads and checks it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from factory.nearest import SourceIndex
from factory.recipe import Recipe
from factory.types import CheckedDraft, GoldItem, Json, Seed, Source, digest

if TYPE_CHECKING:
    from factory.ports import Evaluator


@dataclass(frozen=True)
class Domain:
    """A recipe with everything that it names, and the folder its paths are relative to."""

    recipe: Recipe
    folder: Path
    sources: tuple[Source, ...]
    seeds: tuple[Seed, ...]
    dev: tuple[GoldItem, ...]
    test: tuple[GoldItem, ...]
    drafts: tuple[CheckedDraft, ...]

    @cached_property
    def slices(self) -> tuple[str, ...]:
        """All slice names, sorted."""
        names = {source.slice for source in self.sources} | {seed.slice for seed in self.seeds}
        return tuple(sorted(names | {item.slice for item in (*self.dev, *self.test)}))

    @cached_property
    def evaluator(self) -> Evaluator:
        """The recipe's, made once: to see that it can score every item may take a while.

        Raises RecipeError for an item that it cannot score.
        """
        from factory.registry import create

        return cast("Evaluator", create("evaluators", self.recipe.evaluation, self, "evaluation"))

    @cached_property
    def source_by_key(self) -> Mapping[str, Source]:
        return {source.key: source for source in self.sources}

    def run_digest(self) -> str:
        """Twenty hexadecimal digits: the recipe's run digest and every text that a run rests on.

        Drafts are not among them, since they train the refiner outside of any run.
        """
        material = (self.sources, self.seeds, self.dev, self.test)
        return digest(
            [self.recipe.run_digest(), [[content_of(item) for item in items] for items in material]]
        )

    def nearest_source(self, text: str, slice: str | None = None) -> Source | None:
        """The section that shares most with `text`, weighted by how rare the words are.

        A citation in the text narrows the search to the sections that bear it; `slice`, if given, to
        that slice. None where nothing is near.
        """
        return self._index.find(text, slice)

    def nearest_sources(self, text: str, most: int) -> list[Source]:
        """The sections that share most with `text`, at most `most` of them, the nearest first."""
        return self._index.rank(text, most)

    def neighbours(self, source: Source, most: int) -> list[Source]:
        """Other sections that a section cites or shares words with, at most `most`, the nearest first."""
        return self._index.neighbours(source, most)

    @cached_property
    def _index(self) -> SourceIndex:
        return SourceIndex(self.sources)


POSITION = ("start_char", "end_char", "page")


def content_of(item: Source | Seed | GoldItem) -> Json:
    """What of a piece of material a run rests on: all but where a section stands in its document.

    An item without a conversation before it counts as it did when there were none. dataclasses.astuple
    would copy each deeply, at ten times the cost.
    """
    names = [name for name in item.__slots__ if name not in POSITION]
    return [getattr(item, name) for name in names if name != "before" or getattr(item, name)]
