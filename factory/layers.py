"""YAML files as layers: read strictly, laid over one another, each value traceable to file and line.

Strict means the safe loader, no key twice, and a mapping at the top. Mappings merge key by key; lists and
scalars replace what lies below. Of the keys only `kind` is known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from factory.errors import RecipeError
from factory.explain import Loc, dotted


@dataclass(frozen=True)
class Layer:
    """A YAML file: its mapping, and the line of each key in it."""

    path: Path
    data: Mapping[str, Any]
    lines: Mapping[Loc, int]


def read_layer(path: Path) -> Layer:
    """Reads a YAML file; raises RecipeError naming file and line."""
    text = read_text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = {} if node is None else loader.construct_document(node)
        lines = dict(_lines(node, ())) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise RecipeError(f"{error.problem or 'not YAML'}", where=f"{path}{line}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"not YAML: {error}", where=str(path)) from error
    except RecursionError as error:
        raise RecipeError("nested too deeply, or an anchor holds itself", where=str(path)) from error
    if not isinstance(data, dict):
        raise RecipeError("must be a mapping of keys to values", where=str(path))
    return Layer(path, data, lines)


def read_text(path: Path) -> str:
    """A UTF-8 file's text; raises RecipeError where it is missing, unreadable or not UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise RecipeError("not UTF-8 text", where=f"{path}:{line}", hint="save the file as UTF-8") from error
    except FileNotFoundError as error:
        raise RecipeError("there is no such file", where=str(path)) from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from error


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings merge, everything else replaces. Changes neither.

    A mapping of another `kind` replaces too: keys of a script mean nothing to an endpoint.
    """
    merged = dict(below)
    for key, value in above.items():
        old: Any = merged.get(key)
        mergeable = isinstance(old, dict) and isinstance(value, dict) and _same_kind(old, value)
        merged[key] = merge(old, value) if mergeable else value
    return merged


def _same_kind(below: Mapping[str, Any], above: Mapping[str, Any]) -> bool:
    return "kind" not in above or above["kind"] == below.get("kind")


def locate(layers: Sequence[Layer], loc: Loc) -> str:
    """Where a key stands, as `file:line key`: in the topmost layer that holds most of its place."""
    best, depth, line = layers[0], 0, 0
    for layer in layers:
        held = max((n for n in range(1, len(loc) + 1) if loc[:n] in layer.lines), default=0)
        if held and held >= depth:
            best, depth, line = layer, held, layer.lines[loc[:held]]
    return " ".join(f"{best.path}:{line} {dotted(loc)}".replace(":0 ", " ").split())


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that stands twice and reads 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                problem = f"the key '{key.value}' stands here twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1, which PyYAML reads, takes 1e-3 for text: it wants a dot before the exponent.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _lines(node: yaml.Node, loc: Loc) -> list[tuple[Loc, int]]:
    found: list[tuple[Loc, int]] = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            place = (*loc, key.value)
            found += [(place, key.start_mark.line + 1), *_lines(value, place)]
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found += [((*loc, index), value.start_mark.line + 1), *_lines(value, (*loc, index))]
    return found
