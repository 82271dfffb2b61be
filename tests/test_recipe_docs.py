from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from factory import cli
from factory.explain import follow
from factory.recipe import Recipe
from factory.recipe_docs import json_schema, markdown

DOCS = Path(__file__).parents[1] / "docs"
STALE = "run `python -m factory.recipe_docs`"


def test_recipe_md_is_what_the_models_say() -> None:
    assert (DOCS / "recipe.md").read_text("utf-8") == markdown(), STALE


def test_the_json_schema_is_what_the_models_say(capsys: Any) -> None:
    assert json.loads((DOCS / "recipe.schema.json").read_text("utf-8")) == json_schema(), STALE
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


def test_every_key_has_a_meaning_and_stands_in_the_page() -> None:
    page = (DOCS / "recipe.md").read_text("utf-8")
    schema = Recipe.model_json_schema()
    for name, node in [("Recipe", schema), *schema["$defs"].items()]:
        for key, value in node.get("properties", {}).items():
            meaning = value.get("description") or follow(schema, value).get("description")
            assert meaning, f"{name}.{key}"
            assert re.search(rf"`(\w+\.)*{key}`", page), f"{name}.{key}"
