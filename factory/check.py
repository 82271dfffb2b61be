"""What `factory check` says: everything loads, and what a run of it would ask for at most.

The plan is an upper bound made of counts, not a forecast: every answer as long as it may be, every
sample through every refiner that uses a model. No model is asked and no server started; what only the
hub can tell is reported as not checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from factory.consistency import steps
from factory.domain import Domain
from factory.load import load
from factory.models.folders import check_adapter_folder, check_model_folder
from factory.ports import TaskCost
from factory.recipe import EndpointServer, Recipe, Role, ScriptedServer
from factory.registry import create, create_with_inner, find
from factory.types import CheckedDraft, GoldItem, Seed, Source

CHARACTERS_PER_TOKEN = 3  # on the safe side: English has about four
PROMPT_OVERHEAD_TOKENS = 200  # instructions, chat template, examples


@dataclass(frozen=True)
class _Work:
    """Calls of one stage to one role, and how many of the teacher's answers stand in their prompts."""

    stage: str
    role: Role
    num_calls: int
    num_quoted: int = 0


def check_recipe(path: Path, profile: str | None = None) -> dict[str, Any]:
    """Loads and validates all; returns the summary as plain data. Raises RecipeError."""
    domain = load(path, profile)
    recipe, folder = domain.recipe, domain.folder
    models = [_model(recipe, folder, role) for role in recipe.models]
    for role, training in recipe.training.items():
        _check_model(folder, training.base, f"training.{role}.base")
    for group, loc, spec in steps(recipe):
        create(group, spec, domain, ".".join(map(str, loc)))
    plan = plan_calls(domain)
    return {
        "recipe": recipe.name,
        "profile": profile,
        "digest": recipe.digest(),
        "strategies": [f"{spec.name} ×{spec.weight:g}" for spec in recipe.strategies],
        "refiners": [spec.name for spec in recipe.refiners],
        "training": {role: f"{spec.name} from {spec.base}" for role, spec in recipe.training.items()},
        "slices": _slices(domain),
        "models": models,
        "plan": plan,
    }


def plan_calls(domain: Domain) -> list[dict[str, Any]]:
    """Calls, tokens and dollars of each stage at most, and their sum as the last row."""
    rows = []
    longest = max((len(source.text) for source in domain.sources), default=0)
    num_sections = max((getattr(each, "num_sections", 1) for each in _strategies(domain)), default=1)
    prompt = num_sections * longest // CHARACTERS_PER_TOKEN + PROMPT_OVERHEAD_TOKENS
    quoted = domain.recipe.models["teacher"].sampling.max_tokens
    for work in _work(domain):
        model = domain.recipe.models[work.role]
        tokens = (
            work.num_calls * prompt + work.num_quoted * quoted,
            work.num_calls * model.sampling.max_tokens,
        )
        dollars = (tokens[0] * model.price.prompt + tokens[1] * model.price.completion) / 1e6
        rows.append({"stage": work.stage, "calls": work.num_calls, "tokens": sum(tokens), "dollars": dollars})
    total: dict[str, Any] = {"stage": "all"}
    for key in ("calls", "tokens", "dollars"):
        total[key] = sum(row[key] for row in rows)
    return [*rows, total]


def _work(domain: Domain) -> list[_Work]:
    recipe = domain.recipe
    num_tasks, costs = recipe.loop.samples_per_round, _costs(domain)
    num_calls = _shared(domain) + recipe.loop.rounds * ceil(
        num_tasks * _most(costs, lambda cost: cost.num_calls)
    )
    # A prompt may hold all that was answered before in its task.
    num_before = _most(costs, lambda cost: cost.num_calls * (cost.num_calls - 1) // 2)
    work = [_Work("generate", "teacher", num_calls, recipe.loop.rounds * ceil(num_tasks * num_before))]
    num_asking = recipe.loop.rounds * sum(find("refiners", spec.name).uses_model for spec in recipe.refiners)
    if num_asking:
        num_answers = ceil(num_tasks * _most(costs, lambda cost: cost.num_answers))
        num_quoted = ceil(num_tasks * _most(costs, lambda cost: cost.num_answers * cost.num_calls))
        work.append(_Work("refine", "refiner", num_asking * num_answers, num_asking * num_quoted))
    if "student" in recipe.training:
        num_students = 1 + recipe.loop.rounds + len(recipe.loop.controls)
        num_items = len(domain.dev) + len(domain.test)
        work.append(_Work("evaluate", "student", num_students * num_items))
    return work


def _shared(domain: Domain) -> int:
    """Calls that tasks share, such as those that grow topics: made once in all rounds."""
    return sum(getattr(strategy, "num_shared_calls", 0) for strategy in _strategies(domain))


def _strategies(domain: Domain) -> list[object]:
    """Every strategy of the recipe, and those that they wrap."""
    specs = domain.recipe.strategies
    return [each for spec in specs for each in create_with_inner("generators", spec, domain)]


def _costs(domain: Domain) -> list[list[tuple[float, TaskCost]]]:
    """For each slice the weight and the cost of every strategy that serves it."""
    made = [(spec.weight, create("generators", spec, domain)) for spec in domain.recipe.strategies]
    served = [(set(each.slices), weight, getattr(each, "cost", TaskCost())) for weight, each in made]
    slices = set[str]().union(*(slices for slices, _, _ in served))
    return [[(weight, cost) for names, weight, cost in served if slice in names] for slice in sorted(slices)]


def _most(costs: Sequence[Sequence[tuple[float, TaskCost]]], count: Callable[[TaskCost], int]) -> float:
    """A count for a task on average, in the slice that takes most of it."""
    means = [sum(w * count(cost) for w, cost in slice) / sum(w for w, _ in slice) for slice in costs]
    return max(means, default=0.0)


def _slices(domain: Domain) -> list[dict[str, Any]]:
    counted: dict[str, Sequence[Source | Seed | GoldItem | CheckedDraft]] = {
        "sources": domain.sources,
        "seeds": domain.seeds,
        "dev": domain.dev,
        "test": domain.test,
        "drafts": domain.drafts,
    }
    rows: list[dict[str, Any]] = []
    for name in domain.slices:
        counts = {key: sum(item.slice == name for item in items) for key, items in counted.items()}
        rows.append({"slice": name, **counts})
    totals = {key: len(items) for key, items in counted.items()}
    return [*rows, {"slice": "all", **totals}]


def _model(recipe: Recipe, folder: Path, role: Role) -> dict[str, Any]:
    spec = recipe.models[role]
    server = recipe.servers[spec.server]
    row = {"role": role, "server": spec.server, "model": spec.model, "adapter": spec.adapter}
    if isinstance(server, ScriptedServer):
        return {**row, "model": f"script {server.script}", "found": "a dry run: no model answers"}
    if isinstance(server, EndpointServer):
        return {**row, "found": f"at {server.base_url}: not asked here"}
    found = _check_model(folder, server.model, f"servers.{spec.server}.model")
    if spec.adapter is not None:
        check_adapter_folder(folder / spec.adapter, server.max_lora_rank, f"models.{role}.adapter")
    return {**row, "model": spec.model or server.model, "found": found}


def _check_model(folder: Path, model: str, key: str) -> str:
    """Says where a model's weights are; raises RecipeError for a folder without them."""
    path = (folder / Path(model).expanduser()).resolve()
    if not path.exists() and not model.startswith((".", "/", "~")) and model.count("/") <= 1:
        return "will be downloaded from the hub when the server starts: not checked here"
    check_model_folder(path, key)
    return "on disk"


def print_summary(summary: dict[str, Any]) -> None:
    """Prints the summary as tables."""
    from factory.screen import print_mapping, print_table, print_text

    tables = ("slices", "models", "plan")
    print_mapping({key: value for key, value in summary.items() if key not in tables})
    for key in tables:
        columns = list(summary[key][0])
        title = "plan: at most" if key == "plan" else key
        print_table(columns, ([row[column] for column in columns] for row in summary[key]), title)
    print_text("\nok: nothing is wrong with this recipe")
