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
from factory.embedding.options import create_embedder
from factory.forecast import forecast
from factory.load import load, placed
from factory.models.folders import find_model
from factory.needs import check_needs, needs_of_all
from factory.recipe import Recipe, Role
from factory.registry import create
from factory.servers import EndpointServer, ScriptedServer
from factory.types import CheckedDraft, GoldItem, Seed, Source
from factory.waves import ASSUMED_YIELD

HUB = "will be downloaded from the hub when the server starts: not checked here"


def check_recipe(path: Path, profile: str | None = None) -> dict[str, Any]:
    """Loads and validates all; returns the summary as plain data. Raises RecipeError."""
    domain = load(path, profile)
    recipe = domain.recipe
    with placed(path, profile):
        check_needs(domain, needs_of_all(recipe))
    for group, loc, spec in steps(recipe):
        create(group, spec, domain, ".".join(map(str, loc)))
    if recipe.loop.selection:
        create_embedder(recipe.loop.selection.embedder, domain)
    return {
        "recipe": recipe.name,
        "profile": profile,
        "digest": recipe.digest(),
        "strategies": [f"{spec.name} ×{spec.weight:g}" for spec in recipe.strategies],
        "refiners": [spec.name for spec in recipe.refiners],
        "training": {role: f"{spec.name} from {spec.base}" for role, spec in recipe.training.items()},
        "slices": _slices(domain),
        "models": [_model(recipe, domain.folder, role) for role in recipe.models],
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
        how = "in batches " if server.batch else ""
        addresses = ", ".join(map(without_password, server.addresses))
        return {**row, "found": f"{how}at {addresses}: not asked here"}
    _, is_folder = find_model(folder, server.model)
    found = "on disk" if is_folder else HUB
    return {**row, "model": spec.model or server.model, "found": found}


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
