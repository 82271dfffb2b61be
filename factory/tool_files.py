"""Functions in files: read as sources, and found through the recipe by who must offer them.

A file is a JSON list of functions, in OpenAI's wrapping or without. The strategy that makes samples of them
and the metric that scores calls read the same file, so a student knows the functions that it is asked with;
but a sample offers `num_offered` of them, shuffled, and an item all, in the file's order. What a call is and
when it is valid stands in `factory.tool_calls`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from factory.domain import Domain
from factory.errors import RecipeError
from factory.layers import read_text
from factory.recipe import StepSpec
from factory.registry import options_of
from factory.tool_calls import check_tool
from factory.types import Json, Source


def read_tools(folder: Path, name: str) -> Iterator[Source]:
    """Each function of the file `name`, a path from `folder`, as a source with its name as key and slice.

    Raises RecipeError naming the tool.
    """
    path = folder / Path(name).expanduser()
    try:
        found = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"not JSON: {error}", where=str(path)) from error
    if not isinstance(found, list) or not found:
        raise RecipeError("must be a list of tools", where=str(path))
    names = set[str]()
    for number, tool in enumerate(found, 1):
        where = f"{path} tool {number}"
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecipeError("must be a function with a name", where=where)
        if function["name"] in names or not function["name"].strip():
            raise RecipeError(f"the name '{function['name']}' is taken or empty", where=where)
        if wrong := check_tool(function):
            raise RecipeError(wrong, where=f"{where} '{function['name']}'")
        names.add(function["name"])
        text = json.dumps(function, ensure_ascii=False)
        key = f"tool:{function['name']}"
        yield Source.create(key, name, function["name"], function["name"], text, function["name"])


def as_tool(source: Source) -> Json:
    """The function of a source in OpenAI's form, whole and in the order in which vLLM hands it to a template.

    vLLM leaves out other keys and writes a missing description as null, so with anything less a student
    would be asked with other tokens than it was trained on.
    """
    function = json.loads(source.text)
    parts = {"name": function["name"], "description": "", "parameters": function["parameters"]}
    return {"type": "function", "function": parts | {key: function[key] for key in parts if key in function}}


def tools_of(domain: Domain) -> list[Json]:
    """All functions that the recipe's strategies make samples of, each once, in the order of their files.

    Empty where no strategy has any. Raises RecipeError for a file that holds none, and where two functions
    have one name, since a call could mean either.
    """
    files: dict[Path, str] = {}
    for spec in domain.recipe.strategies:
        for file in _files_of(spec):
            files.setdefault((domain.folder / Path(file).expanduser()).resolve(), file)
    found: dict[str, tuple[Json, str]] = {}
    for path, file in files.items():
        for source in read_tools(domain.folder, file):
            tool = as_tool(source)
            other, there = found.setdefault(source.slice, (tool, file))
            if other != tool:
                what = f"two functions are called '{source.slice}', the other in {there}"
                raise RecipeError(what, where=str(path), hint="rename one")
    return [tool for tool, _ in found.values()]


def _files_of(strategy: StepSpec) -> Iterator[str]:
    """The files of tools that a strategy names, or the one that it wraps."""
    options = options_of("generators", strategy)
    if isinstance(file := getattr(options, "tools", None), str):
        yield file
    if isinstance(inner := getattr(options, "of", None), StepSpec):
        yield from _files_of(inner)
