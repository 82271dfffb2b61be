"""From files to values: a recipe with its profile, and the material that it names.

Whatever is wrong is a RecipeError with the file, the line, the key and what to do. Loading reads no
model, opens no connection and writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from factory.consistency import Inconsistency, check_consistency
from factory.domain import Domain
from factory.errors import RecipeError
from factory.explain import explain
from factory.gold import DraftLine, GoldLine, Line, Placed, SeedLine, check_apart, read_lines
from factory.layers import Layer, locate, merge, read_layer
from factory.recipe import Recipe
from factory.registry import create
from factory.sources import read_sources


def load(path: Path, profile: str | None = None) -> Domain:
    """The recipe at `path` with everything that it names.

    `path` is recipe.yaml or its folder, `profile` a name in profiles/ beside it, or a path.
    Raises RecipeError.
    """
    recipe, folder = load_recipe(path, profile)
    with placed(path, profile):
        return load_domain(recipe, folder)


@contextmanager
def placed(path: Path, profile: str | None = None) -> Iterator[None]:
    """Makes an Inconsistency that is raised within a RecipeError with the file and line of its key."""
    try:
        yield
    except Inconsistency as error:
        raise _placed(error, _layers(path, profile)) from error


def load_recipe(path: Path, profile: str | None = None) -> tuple[Recipe, Path]:
    """The recipe alone, with its profile laid over, and its folder. Raises RecipeError."""
    layers = _layers(path, profile)
    folder = layers[0].path.parent
    data = layers[0].data if len(layers) == 1 else merge(layers[0].data, layers[1].data)
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        raise _told(error, layers, folder, profile) from error
    except RecursionError as error:
        raise RecipeError("nested too deeply", where=str(layers[0].path)) from error
    try:
        check_consistency(recipe)
    except Inconsistency as error:
        raise _placed(error, layers) from error
    return recipe, folder


def load_domain(recipe: Recipe, folder: Path) -> Domain:
    """Reads and checks everything that a recipe names.

    Raises Inconsistency with the key of a file that is not there, else RecipeError naming file and line.
    """
    sources = read_sources(recipe.sources, folder, recipe.domain.citation_pattern)
    slices = {source.key: source.slice for source in sources}
    seeds = _lines(SeedLine, recipe.seeds, "seeds", folder, slices)
    dev = _lines(GoldLine, recipe.gold.dev, "gold.dev", folder, slices)
    test = _lines(GoldLine, recipe.gold.test, "gold.test", folder, slices)
    drafts = _lines(DraftLine, recipe.gold.refiner, "gold.refiner", folder, slices)
    trained_on = [(item.place, item.line.question) for item in drafts]
    trained_on += [(item.place, item.line.prompt) for item in seeds]
    check_apart([("dev", dev), ("test", test)], trained_on)
    domain = Domain(
        recipe,
        folder,
        sources,
        tuple(item.line.value() for item in seeds),
        tuple(item.line.value() for item in dev),
        tuple(item.line.value() for item in test),
        tuple(item.line.value() for item in drafts),
    )
    _check_slices(domain, [*dev, *test])
    _ = domain.evaluator  # refuses items that it cannot score
    return domain


def _check_slices(domain: Domain, held_out: Sequence[Placed[GoldLine]]) -> None:
    """Raises RecipeError for the first item in a slice of which nothing makes samples."""
    known = {source.slice for source in domain.sources} | {seed.slice for seed in domain.seeds}
    if all(item.line.slice in known for item in held_out):
        return
    # Some strategies take every slice of the domain, and its gold is not to vouch for itself.
    learned = replace(domain, dev=(), test=()) if known else domain
    for index, spec in enumerate(domain.recipe.strategies):
        known |= set(create("generators", spec, learned, f"strategies[{index}]").slices)
    for item in held_out:
        if item.line.slice not in known:
            what = (
                f"no source or seed is in the slice '{item.line.slice}', and no strategy makes samples of it"
            )
            hint = f"the slices are: {', '.join(sorted(known))}"
            raise RecipeError(what, where=f"{item.place} slice", hint=hint)


def profiles(folder: Path) -> list[str]:
    """Names of the profiles beside a recipe, sorted."""
    return sorted(path.stem for path in (folder / "profiles").glob("*.yaml"))


def _layers(path: Path, profile: str | None) -> list[Layer]:
    """The files that make the recipe, the lowest first."""
    file = path / "recipe.yaml" if path.is_dir() else path
    if not file.exists():
        hint = "`factory init DIR` writes one to start from"
        raise RecipeError("there is no recipe here", where=str(file), hint=hint)
    layers = [read_layer(file)]
    if profile is not None:
        layers.append(read_layer(_profile_path(file.parent, profile)))
    return layers


def _placed(error: Inconsistency, layers: list[Layer]) -> RecipeError:
    """The error with the file and line of its key."""
    return RecipeError(error.what, where=locate(layers, error.loc), hint=error.hint)


def _profile_path(folder: Path, profile: str) -> Path:
    named = folder / "profiles" / f"{profile}.yaml"
    for path in (named, Path(profile).expanduser()):
        if path.is_file():
            return path
    there = profiles(folder)
    hint = f"there are: {', '.join(there)}" if there else f"there is none in {folder / 'profiles'}"
    raise RecipeError(f"there is no profile '{profile}'", where="--profile", hint=hint)


def _told(error: ValidationError, layers: list[Layer], folder: Path, profile: str | None) -> RecipeError:
    finding = explain(error, Recipe)
    hint = finding.hint
    there = profiles(folder)
    if profile is None and there and finding.kind == "missing" and finding.loc in (("servers",), ("models",)):
        hint = f"give --profile; there are: {', '.join(there)}"
    return RecipeError(finding.what, where=locate(layers, finding.loc), hint=hint)


def _lines(
    kind: type[Line], name: str | None, key: str, folder: Path, sources: Mapping[str, str]
) -> list[Placed[Line]]:
    """The lines of the file that the recipe names under `key`; none where it names none."""
    if name is None:
        return []
    path = folder / Path(name).expanduser()
    if not path.is_file():
        loc = tuple(key.split("."))
        raise Inconsistency(loc, f"there is no file '{path}'", "paths start at the recipe's folder")
    found = read_lines(kind, path, sources)
    if not found:
        raise RecipeError(f"no {key.removeprefix('gold.')}: the file is empty", where=str(path))
    return found
