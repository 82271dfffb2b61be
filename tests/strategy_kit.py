"""What tests of strategies share: a small domain, a scripted teacher, a run through real engine and store."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import yaml

from factory.budget import Budget
from factory.domain import Domain
from factory.engine import Engine
from factory.models.scripted import ScriptedModel
from factory.recipe import BudgetSpec, DomainSpec, GoldSpec, ModelSpec, Recipe, SamplingSpec, StrategySpec
from factory.registry import create, find
from factory.store.store import Store
from factory.types import Completion, GoldItem, Request, Sample, Seed, Source, Task

ROOT = Path(__file__).parents[1]
SOURCES = tuple(
    Source.create(f"rule-{n}", "handbook.md", f"§ {n}", f"Rule {n}", f"The {word} limit is {n} days.", slice)
    for n, (word, slice) in enumerate(
        [("notice", "claims"), ("filing", "claims"), ("appeal", "claims"), ("wage", "benefits")]
    )
)
SEEDS = tuple(
    Seed.create(f"seed-{n}", prompt, slice, source_key)
    for n, (prompt, slice, source_key) in enumerate(
        [
            ("When must notice of an injury be given?", "claims", "rule-0"),
            ("Until when may a claim be filed?", "claims", "rule-1"),
            ("How is the weekly wage found?", "benefits", None),
        ]
    )
)
GOLD = (GoldItem("dev-1", "What is due?", "Notice.", "claims"),)
Reply = Callable[[str], str | Completion]


def domain_of(folder: Path = Path(), sources=SOURCES, seeds=SEEDS) -> Domain:
    recipe = Recipe(
        name="small",
        domain=DomainSpec(title="Small law", answer_style="Cite the rule."),
        gold=GoldSpec(dev="dev.jsonl", test="test.jsonl"),
        servers={},
        models={},
        strategies=[StrategySpec(name="grounded")],
    )
    return Domain(recipe, folder, tuple(sources), tuple(seeds), GOLD, (), ())


def build(name: str, domain: Domain | None = None, /, **options: Any) -> Any:
    """The strategy as a recipe would make it, options validated."""
    spec = StrategySpec.model_validate({"name": name, **options})
    return create("generators", spec, domain or domain_of(), "strategies[0]")


class Teacher(ScriptedModel):
    """Answers by a rule over the prompt, and remembers its requests but for those that are asked again."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(self.follow)
        self.reply = reply
        self.requests: list[Request] = []

    @property
    def prompts(self) -> list[str]:
        return [request.messages[-1].content for request in self.requests]

    def follow(self, request: Request) -> str | Completion:
        if not request.instead_of:  # bad answers are the engine's matter, and tested there
            self.requests.append(request)
        return self.reply(request.messages[-1].content)


def answer(**values: Any) -> str:
    return json.dumps(values, ensure_ascii=False)


async def generate(
    workspace: Path, strategy: Any, teacher: Teacher, allocation: dict[str, int], round_number: int = 1
) -> list[tuple[Task, list[Sample]]]:
    """Every task of a round with its samples, in the order of the plan; a failed task fails the test."""
    spec = ModelSpec(server="local", concurrency=4, sampling=SamplingSpec(temperature=0.7))
    with Store.open(workspace) as store:
        engine = Engine(store, Budget(BudgetSpec()), "run_1")
        ask = engine.ask("teacher", teacher, spec, "generate", round_number)
        made = []
        tasks = strategy.plan(allocation, round_number)
        async with aclosing(engine.run_tasks(strategy, tasks, ask, spec.concurrency)) as outcomes:
            async for task, outcome in outcomes:
                if isinstance(outcome, Exception):
                    raise outcome
                made.append((task, outcome))
    return sorted(made, key=lambda pair: pair[0].ordinal)


async def check_repeats(workspace: Path, strategy: Any, teacher: Teacher, allocation: dict[str, int]) -> None:
    """Running again asks nothing, and makes the same samples."""
    first = await generate(workspace, strategy, teacher, allocation)
    num_calls = len(teacher.requests)
    again = await generate(workspace, strategy, teacher, allocation)
    assert again == first and len(teacher.requests) == num_calls
    assert len({request.id for request in teacher.requests}) == num_calls
    ids = [sample.id for _, samples in first for sample in samples]
    assert len(set(ids)) == len(ids)


async def fate(sample: Sample) -> str:
    """What the refiner `form` says of a sample."""
    form: Any = create("refiners", StrategySpec(name="form"), domain_of())

    async def no_ask(*_: Any, **__: Any) -> Completion:
        raise AssertionError

    (decision,) = await form.refine([sample], no_ask)
    return decision.reason


def relations(sample: Sample) -> list[str]:
    return [parent.relation for parent in sample.parents]


def check_page(name: str, folder: Path) -> list[Any]:
    """The page in docs/strategies names paper and options, and its recipes work; returns the strategies.

    Blocks that begin with `# FILE` are files; those named `recipe.yaml` hold strategies.
    """
    text = (ROOT / "docs" / "strategies" / f"{name}.md").read_text("utf-8")
    strategy = find("generators", name)
    module = __import__(strategy.__module__, fromlist=["x"])
    papers = set(re.findall(r"arXiv (\d{4}\.\d{5})", module.__doc__))
    assert papers and all(paper in text for paper in papers)
    table = text[text.index("| option | type | default | meaning |") :].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(strategy.Options.model_fields)
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    made, recipes = [], [body for file, body in blocks if file == "recipe.yaml"]
    for file, body in blocks:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body, encoding="utf-8")
    for body in recipes:
        for spec in yaml.safe_load(body)["strategies"]:
            assert spec["name"] == name
            parsed = StrategySpec.model_validate(spec)
            made.append(create("generators", parsed, domain_of(folder), "strategies[0]"))
    assert made
    return made
