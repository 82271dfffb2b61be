"""What `factory check` says: everything loads, and what a run of it would ask for at most.

The plan is an upper bound made of counts, not a forecast: every answer as long as it may be, every
sample through every refiner that uses a model. No model is asked and no server started; what only the
hub can tell is reported as not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from factory.consistency import steps
from factory.domain import Domain
from factory.load import load
from factory.models.folders import check_adapter_folder, check_model_folder
from factory.recipe import EndpointServer, Recipe, Role, ScriptedServer
from factory.registry import create, find
from factory.types import CheckedDraft, GoldItem, Seed, Source

CHARACTERS_PER_TOKEN = 3  # on the safe side: English has about four
PROMPT_OVERHEAD_TOKENS = 200  # instructions, chat template, examples
CALLS_PER_SAMPLE = {"seeded": 2}  # a question, then its answer; others ask once


@dataclass(frozen=True)
class _Work:
    """Calls of one stage to one role."""

    stage: str
    role: Role
    num_calls: int


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
    for work in _work(domain):
        model = domain.recipe.models[work.role]
        prompt = longest // CHARACTERS_PER_TOKEN + PROMPT_OVERHEAD_TOKENS
        prompt += (
            model.sampling.max_tokens if work.stage == "refine" else 0
        )  # the draft is part of the prompt
        tokens = (work.num_calls * prompt, work.num_calls * model.sampling.max_tokens)
        dollars = (tokens[0] * model.price.prompt + tokens[1] * model.price.completion) / 1e6
        rows.append({"stage": work.stage, "calls": work.num_calls, "tokens": sum(tokens), "dollars": dollars})
    total: dict[str, Any] = {"stage": "all"}
    for key in ("calls", "tokens", "dollars"):
        total[key] = sum(row[key] for row in rows)
    return [*rows, total]


def _work(domain: Domain) -> list[_Work]:
    recipe = domain.recipe
    num_samples = recipe.loop.rounds * recipe.loop.samples_per_round
    calls_per_round = ceil(recipe.loop.samples_per_round * _calls_per_sample(domain))
    work = [_Work("generate", "teacher", recipe.loop.rounds * calls_per_round)]
    num_asking = sum(find("refiners", spec.name).uses_model for spec in recipe.refiners)
    if num_asking:
        work.append(_Work("refine", "refiner", num_samples * num_asking))
    if "student" in recipe.training:
        num_students = 1 + recipe.loop.rounds + len(recipe.loop.controls)
        num_items = len(domain.dev) + len(domain.test)
        work.append(_Work("evaluate", "student", num_students * num_items))
    return work


def _calls_per_sample(domain: Domain) -> float:
    """Teacher calls for a sample, in the slice that takes most: not every strategy serves every slice."""
    strategies = [(spec, set(create("generators", spec, domain).slices)) for spec in domain.recipe.strategies]
    means = [0.0]
    for slice in set().union(*(served for _, served in strategies)):
        able = [spec for spec, served in strategies if slice in served]
        calls = sum(spec.weight * CALLS_PER_SAMPLE.get(spec.name, 1) for spec in able)
        means.append(calls / sum(spec.weight for spec in able))
    return max(means)


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
