"""Templates that come with a recipe: compiled in a sandbox, and checked before anything is asked.

A template sees plain values (text, numbers, lists, mappings) and can compute with them; it reaches no
Python object, no file and no other template, and changes nothing that it is given. Nor can it draw lots,
since the same task must always ask the same. Time and memory are not limited: who writes a recipe can
also stop it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from factory.types import Json

# What rendering may raise: Jinja's own errors, and those of the operators and methods that it calls.
RENDER_ERRORS: Final = (
    TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError
)  # fmt: skip
FOREIGN: Final = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
PRIVATE: Final = re.compile(r"__\w")
ADDRESS: Final = re.compile(r"<[^<>]* at 0x[0-9a-f]+>")  # how Python writes a method or another object

Known = Mapping[str, frozenset[str] | None]  # names that may be used; of a mapping with its keys


def _plain(value: object) -> object:
    """The value to print; raises TypeError for one whose text holds an address, other in each process."""
    if isinstance(value, str | int | float | list | tuple | dict | Undefined) or value is None:
        return value
    kind = type(value).__name__
    raise TypeError(f"a {kind} cannot be printed" + (": add |list" if isinstance(value, Iterable) else ""))


def _environment() -> ImmutableSandboxedEnvironment:
    # Prompts are plain text: escaping HTML would change what the model reads.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, finalize=_plain)
    for name in ("lipsum", "cycler", "joiner"):
        del environment.globals[name]
    del environment.filters["random"]
    return environment


_ENVIRONMENT: Final = _environment()
RESERVED: Final = frozenset(_ENVIRONMENT.globals)


@dataclass(frozen=True, slots=True)
class SafeTemplate:
    """A template of a recipe: where it stands in it, and the names of the values that it uses."""

    place: str
    names: frozenset[str]
    template: Template

    def render(self, values: Mapping[str, Json]) -> str:
        """The text with `values` filled in, without white space around it; raises RENDER_ERRORS.

        An object's address, other in each process, may have come into the text by `~` or a filter.
        """
        text = self.template.render(values).strip()
        if found := ADDRESS.search(text):
            raise TypeError(f"{found[0].split(' at ')[0]}> cannot be printed: is a pair of brackets missing?")
        return text


def compile_template(place: str, text: str, known: Known) -> SafeTemplate:
    """A template that uses no names but those in `known`, and of one with keys only these.

    Raises ValueError with place, line and reason for any other, for a fault of syntax, and for an attempt to
    leave the sandbox.
    """
    try:
        tree = _ENVIRONMENT.parse(text)
        template = _ENVIRONMENT.from_string(text)
        _refuse_escapes(tree)
        names = frozenset(find_undeclared_variables(tree)) - RESERVED
        _refuse_unknown(tree, names, known)
    except TemplateSyntaxError as error:
        raise ValueError(f"{place}: line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise ValueError(f"{place}: nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return SafeTemplate(place, names, template)


def _refuse_escapes(tree: nodes.Template) -> None:
    """Raises ValueError for what the sandbox would refuse when it comes to it, so that it is told at once."""
    for node in tree.find_all((nodes.Getattr, nodes.Const, *FOREIGN)):
        if isinstance(node, FOREIGN):
            raise ValueError(f"line {node.lineno}: a template cannot load another one")
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            raise ValueError(f"line {node.lineno}: '{node.attr}' is private")
        if isinstance(node, nodes.Const) and isinstance(node.value, str) and PRIVATE.search(node.value):
            raise ValueError(f"line {node.lineno}: '{node.value}' is private")


def _refuse_unknown(tree: nodes.Template, names: Set[str], known: Known) -> None:
    """Raises ValueError for a name that is not known, or a key that the mapping of a name does not have."""
    if unknown := sorted(names - known.keys()):
        raise ValueError(f"nothing is called '{unknown[0]}'; known: {', '.join(sorted(known))}")
    found: list[nodes.Getattr | nodes.Getitem] = [
        *tree.find_all(nodes.Getattr),
        *tree.find_all(nodes.Getitem),
    ]
    for node in found:
        name = node.node.name if isinstance(node.node, nodes.Name) else ""
        keys, key = known.get(name), _key(node)
        if keys is None or key is None or key in keys:
            continue
        if isinstance(node, nodes.Getitem) or not hasattr(dict, key):
            has = ", ".join(sorted(keys))
            raise ValueError(f"line {node.lineno}: '{name}' has no '{key}'; it has: {has}")


def _key(node: nodes.Getattr | nodes.Getitem) -> str | None:
    if isinstance(node, nodes.Getattr):
        return node.attr
    return str(node.arg.value) if isinstance(node.arg, nodes.Const) else None
