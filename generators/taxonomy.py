"""Taxonomy-driven generation: a tree or graph of topics is covered evenly, end by end.

Taxonomies steer generation in LAB (arXiv 2403.01081, section 3), whose `qna.yaml` files are read, and in
GLAN (arXiv 2402.13064), where a model writes the taxonomy from its roots. Topics are given, or grown:
a call lists the subtopics of a topic, shared by all tasks below it, and tasks take them in turn. Each task
is then one question with its answer, in one call. A topic whose subtopics cannot be read stays undivided.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, Field, model_validator

from factory.domain import Domain
from factory.errors import RecipeError
from factory.layers import read_layer
from factory.ports import Ask
from factory.prompts import render
from factory.recipe import Strict
from factory.sources import slug
from factory.types import Completion, Message, Sample, Seed, Source, Task, digest
from generators.exchange import make_sample
from generators.fields import read_fields, schema_of
from generators.lists import list_schema, read_list
from generators.qna import Example, Leaf, find_leaves, read_leaf
from generators.topics import TopicPath, read_topics
from generators.turns import take_turns

PAIR = ("question", "answer")
PAIR_SCHEMA = schema_of(PAIR)
TOPICS_SCHEMA = list_schema("topics")
SHARED = 0  # ordinal of a call that many tasks share


class TaxonomyOptions(Strict):
    """Where the topics come from, and how far the teacher divides them."""

    file: str | None = Field(
        None,
        description="YAML file with `tree` or `graph`, an InstructLab qna.yaml, or a folder that holds some.",
    )
    topics: list[str] = Field(
        default_factory=list,
        description="Topics by name; without these and `file`, the slices of the domain.",
    )
    slice_level: int = Field(
        1, ge=1, description="Level of the given topics that makes the slices; 1: the roots."
    )
    grow_levels: int = Field(0, ge=0, le=4, description="Levels that the teacher adds below a topic.")
    num_subtopics: int = Field(
        6, ge=2, le=50, description="Subtopics that it is asked for, wherever it divides a topic."
    )
    num_examples: int = Field(3, ge=1, description="Seed examples of a qna.yaml that are shown.")

    @model_validator(mode="after")
    def _one_origin(self) -> TaxonomyOptions:
        if self.topics and self.file is not None:
            raise ValueError("give `topics` or `file`, not both")
        return self


@dataclass(frozen=True, slots=True)
class _Topic:
    """What one kind of task is about; `seed` stands for it in lineage."""

    seed: Seed
    path: TopicPath
    description: str = ""
    context: Source | None = None
    asks_context: bool = False  # the context is part of the question
    examples: tuple[tuple[Seed, Example], ...] = ()


class Taxonomy:
    """A question about each topic in turn."""

    Options: ClassVar[type[BaseModel]] = TaxonomyOptions

    def __init__(self, options: TaxonomyOptions, domain: Domain) -> None:
        self.options = options
        self.domain = domain
        self._topics = {topic.seed.id: topic for topic in _read(options, domain)}
        self._seeds = [topic.seed for topic in self._topics.values()]
        self._of_sources = {source.slice for source in domain.sources}

    @property
    def slices(self) -> Collection[str]:
        """The topics of `slice_level`, or the domain's own slices."""
        return {seed.slice for seed in self._seeds}

    @property
    def material(self) -> Sequence[Seed | Source]:
        """Topics and examples as seeds, contexts as sources: lineage ends at them."""
        found: list[Seed | Source] = list(self._seeds)
        for topic in self._topics.values():
            found += [seed for seed, _ in topic.examples]
            found += [topic.context] if topic.context else []
        return found

    @property
    def num_shared_calls(self) -> int:
        """Calls that divide topics, at most."""
        levels = range(self.options.grow_levels)
        num_grown = sum(not topic.examples for topic in self._topics.values())
        return num_grown * sum(int(self.options.num_subtopics**level) for level in levels)

    def plan(self, allocation: Mapping[str, int], round_number: int) -> Iterator[Task]:
        """Lazily, the tasks of a round; a slice without topics gets none."""
        for turn in take_turns(self._seeds, allocation, round_number):
            topic = self._topics[turn.material.id]
            shown = sorted(topic.examples, key=lambda example: digest([turn.ordinal, example[0].id]))
            seeds = (topic.seed, *(seed for seed, _ in shown[: self.options.num_examples]))
            chosen = {"lap": str(turn.lap)}
            yield Task("taxonomy", round_number, turn.ordinal, turn.slice, topic.context, seeds, chosen)

    async def make(self, task: Task, ask: Ask) -> list[Sample]:
        """One sample, with `malformed` among its attributes where the answer was not as asked."""
        topic = self._topics[task.seeds[0].id]
        path, calls = await self._divide(topic, int(task.attributes["lap"]), ask)
        examples = dict(topic.examples)
        prompt = render(
            "generators",
            "taxonomy",
            title=self.domain.recipe.domain.title,
            style=self.domain.recipe.domain.answer_style,
            path=path,
            description=topic.description,
            context=topic.context.text if topic.context else "",
            examples=[examples[seed] for seed in task.seeds[1:]],
        )
        call = await ask([Message("user", prompt)], schema=PAIR_SCHEMA, ordinal=task.ordinal)
        values, malformed = read_fields(call, PAIR)
        question = values.get("question", "")
        source = topic.context or self._source(task, question)
        if question and topic.context and topic.asks_context:
            question = f"{topic.context.text}\n\n{question}"
        return [
            make_sample(
                task,
                question,
                call.text if malformed else values["answer"],
                [*calls, call],
                source=source,
                malformed=malformed,
                attributes={"topic": " > ".join(path)},
            )
        ]

    async def _divide(self, topic: _Topic, lap: int, ask: Ask) -> tuple[TopicPath, list[Completion]]:
        """The path of the subtopic whose turn it is, and the calls that led there."""
        path, calls = topic.path, list[Completion]()
        for _ in range(0 if topic.examples else self.options.grow_levels):
            prompt = render(
                "generators",
                "taxonomy_grow",
                title=self.domain.recipe.domain.title,
                path=path,
                count=self.options.num_subtopics,
            )
            call = await ask([Message("user", prompt)], schema=TOPICS_SCHEMA, ordinal=SHARED)
            calls.append(call)
            names, _malformed = read_list(call, "topics", self.options.num_subtopics, besides=path)
            if not names:
                break
            path = (*path, names[lap % len(names)])
            lap //= len(names)
        return path, calls

    def _source(self, task: Task, question: str) -> Source | None:
        """The section that the question is about: in the task's slice, if the sources have that slice."""
        if not question:
            return None
        return self.domain.nearest_source(question, task.slice if task.slice in self._of_sources else None)


def _read(options: TaxonomyOptions, domain: Domain) -> list[_Topic]:
    """The topics to cover; raises RecipeError."""
    if options.file is None:
        if not options.topics:
            return [_topic((name.replace("_", " "),), name) for name in domain.slices]
        return [_topic((name,), _slice((name,), 1, f"topics[{i}]")) for i, name in enumerate(options.topics)]
    path = domain.folder / Path(options.file).expanduser()
    if path.is_dir():
        return [topic for leaf in find_leaves(path) for topic in _of_leaf(leaf, options, path)]
    layer = read_layer(path)
    if "seed_examples" in layer.data:
        leaf = read_leaf(layer, (path.absolute().parent.name,))
        return list(_of_leaf(leaf, options, path))
    if "tree" not in layer.data and "graph" not in layer.data:
        hint = "`tree`, `graph` or, as in InstructLab, `seed_examples`"
        raise RecipeError("no topics in this file", where=str(path), hint=hint)
    if "graph" in layer.data and options.slice_level > 1:
        raise RecipeError("a graph has slices at level 1 only", where="strategies taxonomy.slice_level")
    return [_topic(found, _slice(found, options.slice_level, str(path))) for found in read_topics(layer)]


def _topic(path: TopicPath, slice: str) -> _Topic:
    return _Topic(Seed.create("/".join(path), " > ".join(path), slice), path)


def _slice(path: TopicPath, level: int, where: str) -> str:
    """The slice of a path: its topic at `level`, or its last one."""
    name = slug(path[min(level, len(path)) - 1], "_")
    if not name:
        raise RecipeError(f"'{' > '.join(path)}' makes no name of a slice", where=where)
    return name


def _of_leaf(leaf: Leaf, options: TaxonomyOptions, where: Path) -> Iterator[_Topic]:
    """A topic for each group of examples of a qna.yaml."""
    slice = _slice(leaf.path, options.slice_level, str(where))
    place = "/".join(leaf.path)
    for number, group in enumerate(leaf.groups):
        key = f"{place}#{number}"
        context = None
        if group.context:
            context = Source.create(key, f"{place}/qna.yaml", "", leaf.path[-1], group.context, slice)
        examples = [
            (
                Seed.create(f"{key}.{index}", example.question, slice, context.key if context else None),
                example,
            )
            for index, example in enumerate(group.examples)
        ]
        seed = Seed.create(key, " > ".join(leaf.path), slice)
        yield _Topic(seed, leaf.path, leaf.description, context, not leaf.is_knowledge, tuple(examples))
