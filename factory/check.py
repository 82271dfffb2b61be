"""What `factory check` says: everything loads, and what a run of it would ask for (`factory.forecast`).

No model is asked and no server started; what only the hub can tell is reported as not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.address import without_password
from factory.consistency import steps
from factory.domain import Domain
from factory.forecast import forecast
from factory.load import load
from factory.models.folders import check_adapter_folder, check_model_folder, find_model
from factory.recipe import EndpointServer, Recipe, Role, ScriptedServer
from factory.registry import create
from factory.types import CheckedDraft, GoldItem, Seed, Source
from factory.waves import ASSUMED_YIELD


def check_recipe(path: Path, profile: str | None = None) -> dict[str, Any]:
    """Loads and validates all; returns the summary as plain data. Raises RecipeError."""
    domain = load(path, profile)
    recipe, folder = domain.recipe, domain.folder
    models = [_model(recipe, folder, role) for role in recipe.models]
    for role, training in recipe.training.items():
        _check_model(folder, training.base, f"training.{role}.base")
    for group, loc, spec in steps(recipe):
        create(group, spec, domain, ".".join(map(str, loc)))
    return {
        "recipe": recipe.name,
        "profile": profile,
        "digest": recipe.digest(),
        "strategies": [f"{spec.name} ×{spec.weight:g}" for spec in recipe.strategies],
        "refiners": [spec.name for spec in recipe.refiners],
        "training": {role: f"{spec.name} from {spec.base}" for role, spec in recipe.training.items()},
        "slices": _slices(domain),
        "models": models,
        "assumed_yield": ASSUMED_YIELD if recipe.loop.accepted else None,
        "plan": forecast(domain),
    }


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
        return {**row, "found": f"at {without_password(server.base_url)}: not asked here"}
    found = _check_model(folder, server.model, f"servers.{spec.server}.model")
    if spec.adapter is not None:
        check_adapter_folder(folder / spec.adapter, server.max_lora_rank, f"models.{role}.adapter")
    return {**row, "model": spec.model or server.model, "found": found}


def _check_model(folder: Path, model: str, key: str) -> str:
    """Says where a model's weights are; raises RecipeError for a folder without them."""
    path, is_folder = find_model(folder, model)
    if not is_folder:
        return "will be downloaded from the hub when the server starts: not checked here"
    check_model_folder(Path(path), key)
    return "on disk"


def print_summary(summary: dict[str, Any]) -> None:
    """Prints the summary as tables."""
    from factory.screen import print_mapping, print_table, print_text

    tables, assumed = ("slices", "models", "plan"), summary["assumed_yield"]
    titles = {"plan": "plan: at most, but for bad answers that are asked again"}
    if assumed:
        titles["plan"] = f"plan: a forecast, ASSUMING that {assumed:.0%} of the samples are accepted"
    print_mapping({key: value for key, value in summary.items() if key not in (*tables, "assumed_yield")})
    for key in tables:
        columns = list(summary[key][0])
        rows = ([row[column] for column in columns] for row in summary[key])
        print_table(columns, rows, titles.get(key, key))
    print_text("\nok: nothing is wrong with this recipe")
