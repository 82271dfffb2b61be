"""Which models a command asks or trains, and whether they can be had, before anything is paid for.

Folders with weights, adapters that the server can take, keys in the environment, scripts: a look at names
and small files, which costs nothing. No weights are read, no server is started and the hub is not asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from factory.asking import roles_asked, roles_evaluating
from factory.consistency import SERVED_RANKS, Inconsistency
from factory.domain import Domain
from factory.errors import RecipeError
from factory.models.api_key import read_key
from factory.models.folders import (
    TRAINABLE_WEIGHTS,
    check_adapter_folder,
    check_model_folder,
    find_model,
)
from factory.models.scripted import check_script
from factory.recipe import Recipe, Role
from factory.servers import EndpointServer, ScriptedServer

Stage = Literal["generate", "refine", "train", "evaluate"]


class Needs(NamedTuple):
    """Roles whose models are asked, and roles whose models are trained."""

    asked: tuple[Role, ...] = ()
    trained: tuple[Literal["student", "refiner"], ...] = ()


def needs_of_all(recipe: Recipe) -> Needs:
    """Everything that a recipe names, used or not."""
    return Needs(tuple(recipe.models), tuple(recipe.training))


def needs_until(recipe: Recipe, last: Stage) -> Needs:
    """What the stages of a round up to `last` need; with the last of them, what a whole run needs."""
    asked: list[Role] = ["teacher"]
    refines = last != "generate" or recipe.loop.accepted is not None
    if refines:
        asked += roles_asked(recipe)
    if "student" not in recipe.training or last in ("generate", "refine"):
        return Needs(tuple(asked))
    if last == "evaluate":
        asked += roles_evaluating(recipe)
    return Needs(tuple(dict.fromkeys(asked)), ("student",))


def needs_of_base(recipe: Recipe) -> Needs:
    """What the evaluation of the base needs, with which every stage of a later round begins."""
    return needs_of_evaluation(recipe) if "student" in recipe.training else Needs()


def needs_of_evaluation(recipe: Recipe) -> Needs:
    """What the evaluation of one student needs."""
    return Needs(tuple(roles_evaluating(recipe)))


def check_needs(domain: Domain, needs: Needs) -> None:
    """Raises Inconsistency with the key of the first model that cannot be had."""
    for role in needs.asked:
        _check_asked(domain.recipe, domain.folder, role)
    for trained in needs.trained:
        spec = domain.recipe.training.get(trained)
        if spec is None:
            raise Inconsistency(
                ("training", trained), f"no {trained} is trained here", "add it to the profile"
            )
        base, is_folder = find_model(domain.folder, spec.base)
        with _at("training", trained, "base"):
            if is_folder:
                check_model_folder(Path(base), weights=TRAINABLE_WEIGHTS)


def _check_asked(recipe: Recipe, folder: Path, role: Role) -> None:
    spec = recipe.models.get(role)
    if spec is None:
        raise Inconsistency(("models", role), "no model for this role", "add it to the profile")
    server, max_rank = recipe.servers[spec.server], SERVED_RANKS[-1]
    if isinstance(server, ScriptedServer):
        with _at("servers", spec.server, "script"):
            check_script(server.script)
        return
    if isinstance(server, EndpointServer):
        with _at("servers", spec.server, "api_key_env"):
            read_key(server.api_key_env, "")
    else:
        max_rank = server.max_lora_rank
        model, is_folder = find_model(folder, server.model)
        with _at("servers", spec.server, "model"):
            if is_folder:
                check_model_folder(Path(model))
    if spec.adapter is not None:
        with _at("models", role, "adapter"):
            check_adapter_folder((folder / Path(spec.adapter).expanduser()).resolve(), max_rank)


@contextmanager
def _at(*loc: str) -> Iterator[None]:
    """Gives an error the key of the recipe that it is about."""
    try:
        yield
    except RecipeError as error:
        raise Inconsistency(loc, error.what, error.hint) from error
