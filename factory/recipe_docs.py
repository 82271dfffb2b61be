"""Writes docs/recipe.md and docs/recipe.schema.json from the models, so that they cannot go stale.

`python -m factory.recipe_docs` writes both, and a test compares them. The words about a key are its
description in factory.recipe; the introduction is here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.explain import follow, values_of
from factory.recipe import Recipe
from factory.registry import Group, find, names

INTRODUCTION = """# The recipe, key by key

A recipe is a YAML file, `recipe.yaml`, in a folder of its own. It names everything that a run depends on.
`factory init DIR` writes one to start from, `factory check DIR` says what is wrong with file, line and key.
`factory schema` prints the JSON Schema that editors complete and check with (it is also in
[recipe.schema.json](recipe.schema.json); put `# yaml-language-server: $schema=PATH` into the first line).

**Profiles.** `--profile NAME` lays `profiles/NAME.yaml`, or the file whose path NAME is, over the recipe:
mappings merge key by key, lists and single values replace. A server of another `kind` replaces the one
below it. So the domain stands in the recipe, models and sizes in its profiles.

**Paths** start at the recipe's folder, also in a profile. `sources.paths` may hold globs (`sources/**/*.md`).

**Sources.** The suffix of a file says what it is: Markdown (`.md`), HTML (`.html`), PDF, else plain text. In
Markdown and HTML, a heading of level `sources.section_heading` opens a section and one of level
`sources.slice_heading` names the slice of those that follow: `## Notice and claims` is the slice
`notice_and_claims`. A heading `### § 34-9-80 Notice of injury` makes a section with the citation
`§ 34-9-80`, the title `Notice of injury` and the key `34-9-80-notice-of-injury` (in HTML with the file's name
before it, since pages of one site share headings). What counts as a citation is `domain.citation_pattern`,
else a section sign or number at the beginning. Text before the first section is not read. Plain text, PDF and
an HTML page without such headings are one section, in the slice of their folder's name. A section longer
than `sources.section_chars` becomes several, cut between paragraphs where possible: the first has its key and
title, the next `…-part-2` and so on. Every section knows from which character to which, and on which page of
a PDF, it stands (`sources` in [schema.md](schema.md)). Scripts in documents are not run, nothing is fetched,
and a scanned PDF must go through character recognition first.

**JSONL files** hold one object a line; `source` is the key of a section and may be left out but in
`gold.refiner`. No question of dev or test may stand anywhere else. `before` is the conversation in which the
question is asked: a list of `{"role", "content"}`, a system message first where there is one, then user and
assistant in turn up to an answer. A question of fewer than 8 words that follows others may stand elsewhere,
but not after the same ones.

| file | keys |
| --- | --- |
| `seeds` | `id`, `prompt`, `slice`, `source` |
| `gold.dev`, `gold.test` | `id`, `question`, `answer`, `slice`, `source`, `before` (may be left out) |
| `gold.refiner` | `id`, `question`, `answer`, `corrected` (null: drop it), `reason`, `slice`, `source` |

**Strict.** An unknown key, a key that stands twice and a value of the wrong type are errors. `1e-4` is a
number. A recipe's digest changes with any value; runs with the same digest ask the same questions.
"""
GROUPS: tuple[tuple[Group, str], ...] = (
    ("generators", "strategies[]"),
    ("refiners", "refiners[]"),
    ("trainers", "training.ROLE"),
    ("evaluators", "evaluation"),
)
COLUMNS = "| key | type | default | meaning |\n| --- | --- | --- | --- |"


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe with its profile laid over."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def markdown() -> str:
    """The text of docs/recipe.md, with the options of the strategies and steps that are installed."""
    schema = Recipe.model_json_schema()
    parts = [INTRODUCTION, "## Top level\n", COLUMNS, *_rows(schema, schema, "")]
    for key, value in schema["properties"].items():
        parts += _section(schema, key, value)
    parts.append("\n## Options of strategies, refiners, trainers and evaluators")
    parts.append("\nThey stand beside `name`. A package of yours can add more: [extending.md](extending.md).")
    for group, place in GROUPS:
        for name in names(group):
            parts += _step(group, name, place)
    return "\n".join(parts) + "\n"


def _section(schema: dict[str, Any], key: str, value: dict[str, Any]) -> Iterator[str]:
    """The table of one top-level key and of what lies below it."""
    node = follow(schema, value)
    if "items" in node:
        yield from _table(schema, f"{key}[]", follow(schema, node["items"]))
    elif inner := values_of(node):
        for option in inner.get("oneOf", [inner]):
            place = f"{key}.{'ROLE' if key in ('models', 'training') else 'NAME'}"
            yield from _table(schema, place, follow(schema, option))
    else:
        yield from _table(schema, key, node)


def _table(schema: dict[str, Any], place: str, node: dict[str, Any]) -> Iterator[str]:
    if "properties" not in node:
        return
    kind = node["properties"].get("kind", {}).get("const")
    yield f"\n## `{place}`" + (f" of kind `{kind}`" if kind else "")
    yield f"\n{node.get('description', '')}\n"
    yield COLUMNS
    yield from _rows(schema, node, "")
    for name, value in node["properties"].items():
        below = follow(schema, value)
        if "properties" in below:
            yield from _rows(schema, below, f"{name}.")
            for key, choice in below["properties"].items():
                for option in choice.get("anyOf", ()):
                    yield from _rows(schema, follow(schema, option), f"{name}.{key}.")


def _step(group: Group, name: str, place: str) -> Iterator[str]:
    schema = find(group, name).Options.model_json_schema()
    yield f"\n### `{place}` named `{name}`\n"
    rows = list(_rows(schema, schema, ""))
    yield from [COLUMNS, *rows] if rows else ["No options."]


def _rows(schema: dict[str, Any], node: dict[str, Any], prefix: str) -> Iterator[str]:
    required = node.get("required", [])
    for name, value in node.get("properties", {}).items():
        # YAML must always say `kind`, though the first kind has a default in Python.
        default = "needed" if name in required or name == "kind" else _default(value)
        text = str(value.get("description", "")).replace("|", "\\|").replace("\n", " ")
        yield f"| `{prefix}{name}` | {_type(schema, value)} | {default} | {text} |"


def _default(value: dict[str, Any]) -> str:
    default = value.get("default")
    if isinstance(default, dict | list) or "default" not in value:
        return ""
    words = {None: "none", True: "true", False: "false", "": "empty"}
    return words.get(default, f"`{default}`") if isinstance(default, str | bool | None) else f"`{default:g}`"


def _type(schema: dict[str, Any], value: dict[str, Any]) -> str:
    """A type in words, with its limits."""
    node = follow(schema, value)
    if "enum" in node:
        return " \\| ".join(f"`{option}`" for option in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if values_of(node) and "type" in values_of(node):
        return f"mapping to {_type(schema, values_of(node))}"
    kinds = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
    kind = kinds.get(node.get("type", ""), "mapping")
    if node.get("type") == "array":
        inner = _type(schema, node.get("items", {}))
        return f"list of {'mappings' if inner == 'mapping' else inner}"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    shown = [f"{sign} {node[limit]:g}" for limit, sign in limits.items() if limit in node]
    return f"{kind} {', '.join(shown)}".strip()


def main() -> None:
    """Writes both files into docs/ beside the package."""
    import json

    docs = Path(__file__).parents[1] / "docs"
    docs.mkdir(exist_ok=True)
    (docs / "recipe.md").write_text(markdown(), encoding="utf-8")
    schema = json.dumps(json_schema(), indent=2, ensure_ascii=False)
    (docs / "recipe.schema.json").write_text(schema + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
