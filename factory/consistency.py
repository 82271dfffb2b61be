"""What no single key of a recipe can tell: whether its parts fit together.

Servers and models, steps and their options, ranks and controls. Steps are looked up and their
options validated, nothing is created; no file of the domain is read. Each check names the key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import cast

from pydantic import BaseModel

from factory.address import without_password
from factory.asking import judging_role, role_of, who_answers
from factory.embedding.options import find_misfit
from factory.errors import RecipeError
from factory.explain import Loc, did_you_mean, dotted, undotted
from factory.recipe import Recipe, Role, StepSpec
from factory.registry import Group, find, options_of
from factory.servers import EndpointServer, ScriptedServer, Server, VllmServer

# max_lora_rank of vLLM; an adapter may have any rank up to it.
SERVED_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class Inconsistency(RecipeError):
    """A part of a recipe that does not fit; `loc` is its key, for whoever knows the file."""

    def __init__(self, loc: Loc, what: str, hint: str = "") -> None:
        super().__init__(what, where=dotted(loc), hint=hint)
        self.loc = loc


def check_consistency(recipe: Recipe) -> None:
    """Raises Inconsistency for the first part that does not fit."""
    _check_models(recipe)
    _check_servers(recipe)
    for group, loc, spec in steps(recipe):
        _check_options(group, loc, spec)
    _check_material(recipe)
    _check_refiners(recipe)
    _check_training(recipe)
    _check_controls(recipe)
    _check_evaluation(recipe)


def steps(recipe: Recipe) -> Iterator[tuple[Group, Loc, StepSpec]]:
    """Every step of a recipe with its group and key."""
    for index, strategy in enumerate(recipe.strategies):
        yield "generators", ("strategies", index), strategy
    for index, refiner in enumerate(recipe.refiners):
        yield "refiners", ("refiners", index), refiner
    for role, training in recipe.training.items():
        yield "trainers", ("training", role), training
    yield "evaluators", ("evaluation",), recipe.evaluation


def _check_models(recipe: Recipe) -> None:
    if "teacher" not in recipe.models:
        raise Inconsistency(("models", "teacher"), "'teacher' is missing", "name the server that generates")
    for role, model in recipe.models.items():
        server = recipe.servers.get(model.server)
        if server is None:
            hint = did_you_mean(model.server, list(recipe.servers))
            raise Inconsistency(("models", role, "server"), f"there is no server '{model.server}'", hint)
        if isinstance(server, EndpointServer) and not model.model:
            hint = f"the endpoint '{model.server}' must be told which of its models to use"
            raise Inconsistency(("models", role, "model"), "'model' is missing", hint)
        if model.adapter is not None:
            _check_loads_adapters(recipe, role, "adapter")


def _check_loads_adapters(recipe: Recipe, role: Role, key: str) -> None:
    name = recipe.models[role].server
    server = recipe.servers[name]
    if isinstance(server, EndpointServer) and not server.can_load_adapters:
        hint = (
            f"set servers.{name}.can_load_adapters where it is a vLLM that may, or use a server of kind vllm"
        )
        raise Inconsistency(("models", role, key), f"the endpoint '{name}' loads no adapters", hint)


def _check_servers(recipe: Recipe) -> None:
    for name, server in recipe.servers.items():
        if isinstance(server, VllmServer) and server.max_lora_rank not in SERVED_RANKS:
            ranks = ", ".join(map(str, SERVED_RANKS))
            what = f"vLLM cannot serve rank {server.max_lora_rank}"
            raise Inconsistency(("servers", name, "max_lora_rank"), what, f"one of {ranks}")
        if isinstance(server, EndpointServer):
            _check_addresses(name, server.addresses)
        _check_batches(name, server)


def _check_addresses(name: str, addresses: list[str]) -> None:
    for index, address in enumerate(addresses):
        loc: Loc = ("servers", name, "base_url")
        if index > 0:
            loc = ("servers", name, "further_base_urls", index - 1)
        shown = without_password(address)
        if not address.startswith(("http://", "https://")):
            raise Inconsistency(loc, f"'{shown}' is no http address", "for example http://127.0.0.1:8000/v1")
        if shown.rstrip("/") in [without_password(earlier).rstrip("/") for earlier in addresses[:index]]:
            raise Inconsistency(loc, f"'{shown}' stands there twice", "name each replica once")


def _check_batches(name: str, server: Server) -> None:
    """A batch is handed over at one place and comes back from there, perhaps to a later process."""
    if isinstance(server, EndpointServer) and server.batch and server.further_base_urls:
        what = "a batch comes back from the address that got it, so there can be no others"
        hint = "keep `base_url` alone, or set `batch: false`"
        raise Inconsistency(("servers", name, "further_base_urls"), what, hint)
    if isinstance(server, VllmServer) and server.run_as in ("batch", "files") and server.replicas > 1:
        what = f"with `run_as: {server.run_as}` one process answers the whole file"
        hint = "set `replicas: 1`, or run it as `server` or `in_process`"
        raise Inconsistency(("servers", name, "replicas"), what, hint)


def _check_options(group: Group, loc: Loc, spec: StepSpec) -> None:
    try:
        find(group, spec.name)
    except RecipeError as error:
        raise Inconsistency((*loc, "name"), error.what, error.hint) from error
    try:
        options = options_of(group, spec)
    except RecipeError as error:
        raise Inconsistency((*loc, *undotted(error.where)), error.what, error.hint) from error
    if isinstance(inner := getattr(options, "of", None), StepSpec):
        _check_options(group, (*loc, "of"), inner)


def _check_material(recipe: Recipe) -> None:
    names: set[str] = set()
    for index, strategy in enumerate(recipe.strategies):
        loc: Loc = ("strategies", index)
        if strategy.name in names:
            raise Inconsistency(
                (*loc, "name"), f"'{strategy.name}' stands in the list twice", "keep one of them"
            )
        names.add(strategy.name)
        _check_needs(recipe, loc, strategy)


def _check_needs(recipe: Recipe, loc: Loc, strategy: StepSpec) -> None:
    """Raises Inconsistency where a strategy, or the one that it wraps, lacks what it makes samples from."""
    options = options_of("generators", strategy)
    about = getattr(options, "about", None)
    name = strategy.name
    if (name in ("seeded", "evolved") or about == "seeds") and recipe.seeds is None:
        raise Inconsistency(
            (*loc, "name"), f"'{name}' has no seeds", "set `seeds` to a JSONL file of prompts"
        )
    if (name == "grounded" or about == "sources") and not recipe.sources.paths:
        hint = "set `sources.paths` to your documents"
        raise Inconsistency((*loc, "name"), f"'{name}' has no sources", hint)
    if name == "persona" and recipe.seeds is None and not recipe.sources.paths:
        hint = "set `sources.paths` to your documents, or `seeds` to a JSONL file of prompts"
        raise Inconsistency((*loc, "name"), "'persona' has neither sources nor seeds", hint)
    server = recipe.models["teacher"].server
    if name == "magpie" and not getattr(recipe.servers[server], "can_open_turns", True):
        hint = f"set servers.{server}.can_open_turns where it is a vLLM; hosted APIs cannot do it"
        what = f"'magpie' lets the teacher write the user's turn, which the endpoint '{server}' may not do"
        raise Inconsistency((*loc, "name"), what, hint)
    if isinstance(inner := getattr(options, "of", None), StepSpec):
        _check_needs(recipe, (*loc, "of"), inner)


def _check_refiners(recipe: Recipe) -> None:
    names: set[str] = set()
    for index, refiner in enumerate(recipe.refiners):
        loc = ("refiners", index, "name")
        if refiner.name in names:
            raise Inconsistency(loc, f"'{refiner.name}' stands in the list twice", "keep one of them")
        names.add(refiner.name)
        if refiner.name == "likelihood":
            _check_likelihood(recipe, loc, names)
        role = role_of(find("refiners", refiner.name))
        if role and role not in recipe.models:
            raise Inconsistency(loc, f"'{refiner.name}' needs a model", f"add `models.{role}`")
        embedder = getattr(options_of("refiners", refiner), "embedder", None)
        if embedder is not None and (misfit := find_misfit(embedder, recipe)):
            raise Inconsistency(("refiners", index, "embedder"), *misfit)
    selection = recipe.loop.selection
    if selection is not None and (misfit := find_misfit(selection.embedder, recipe)):
        raise Inconsistency(("loop", "selection", "embedder"), *misfit)
    for index, strategy in enumerate(recipe.strategies):
        if "sql" not in names and _asks_databases(strategy):
            what = f"'{strategy.name}' passes queries on that fail, and no refiner 'sql' executes them"
            raise Inconsistency(("strategies", index, "name"), what, "add it to `refiners`, after 'edit'")


def _check_likelihood(recipe: Recipe, loc: Loc, before: Collection[str]) -> None:
    from factory.models.batched import is_batched  # which reads recipes

    if "edit" not in before:
        raise Inconsistency(loc, "'likelihood' judges edits, and none come to it", "put it after 'edit'")
    student = recipe.models.get("student")
    if student and is_batched(recipe.servers[student.server]):
        what = f"'likelihood' asks the student, whose server '{student.server}' is asked in batches"
        raise Inconsistency(loc, what, "how likely a given answer is can only be asked call by call")


def _asks_databases(strategy: StepSpec) -> bool:
    options = options_of("generators", strategy)
    inner = getattr(options, "of", None)
    return hasattr(options, "schemas") or (isinstance(inner, StepSpec) and _asks_databases(inner))


def _check_training(recipe: Recipe) -> None:
    if "refiner" in recipe.training and recipe.gold.refiner is None:
        raise Inconsistency(("training", "refiner"), "nothing to train it on", "set `gold.refiner`")
    for role, spec in recipe.training.items():
        model = recipe.models.get(cast("Role", role))
        if model is None:
            hint = f"add `models.{role}`, which says who serves it"
            raise Inconsistency(("training", role), f"there is no model '{role}'", hint)
        if role == "student":
            _check_loads_adapters(recipe, role, "server")
        if role == "refiner" and getattr(options_of("trainers", spec), "early_stopping", None):
            what = "dev holds questions for the student, and none for the refiner"
            raise Inconsistency(("training", role, "early_stopping"), what, "leave it out")
        server = recipe.servers[model.server]
        rank = _highest_rank(options_of("trainers", spec))
        if isinstance(server, VllmServer) and rank > server.max_lora_rank:
            what = f"rank {rank} is more than server '{model.server}' serves, {server.max_lora_rank}"
            fit = next((served for served in SERVED_RANKS if served >= rank), None)
            hint = f"set its max_lora_rank to {fit}" if fit else f"vLLM serves {SERVED_RANKS[-1]} at most"
            raise Inconsistency(("training", role, "rank"), what, hint)


def _highest_rank(options: BaseModel) -> int:
    """Of any module of the adapter that would be trained; 0 where the trainer has no such option."""
    from factory.models.folders import find_rank  # which knows the ranks served from here

    pattern = getattr(options, "lora", {}).get("rank_pattern")
    return find_rank({"r": getattr(options, "rank", None), "rank_pattern": pattern})


def _check_controls(recipe: Recipe) -> None:
    names = [refiner.name for refiner in recipe.refiners]
    if recipe.loop.controls and "student" not in recipe.training:
        hint = "a control trains a student: add it, or drop the controls"
        raise Inconsistency(("loop", "controls"), "there is no `training.student`", hint)
    for control, kept in recipe.loop.controls.items():
        for index, name in enumerate(kept):
            if name not in names:
                loc = ("loop", "controls", control, index)
                raise Inconsistency(loc, f"'{name}' is no refiner of this recipe", did_you_mean(name, names))


def _check_evaluation(recipe: Recipe) -> None:
    """Whether answers can be scored: by a judge that is another model, by calls that the server reads.

    A vLLM of ours gives calls of tools back as text unless it is told how the model writes them.
    """
    options, student = options_of("evaluators", recipe.evaluation), recipe.models.get("student")
    if student is not None and (role := judging_role(recipe)):
        _check_judge(recipe, role)
    if getattr(options, "metric", None) != "calls" or student is None:
        return
    server = recipe.servers[student.server]
    if isinstance(server, VllmServer) and server.tool_call_parser is None:
        what = f"the student is asked with tools, and the server '{student.server}' reads no calls"
        hint = "set it to vLLM's name for how the model writes calls, for example hermes"
        raise Inconsistency(("servers", student.server, "tool_call_parser"), what, hint)


def _check_judge(recipe: Recipe, role: Role) -> None:
    """Raises Inconsistency where nobody scores answers, or the student its own; a script is no model."""
    if role not in recipe.models:
        what = f"the metric needs a model, and there is no '{role}'"
        raise Inconsistency(("evaluation", "metric"), what, f"add `models.{role}`")
    is_script = isinstance(recipe.servers[recipe.models[role].server], ScriptedServer)
    if not is_script and who_answers(recipe, role) == who_answers(recipe, "student"):
        hint = "name another model: one that scores its own answers tends to like them"
        raise Inconsistency(("models", role), f"the {role} is the student itself", hint)
