"""Files of a recipe that a script writes from what a person edits, and checks to be what it would write."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "recipes"


def write_or_check(files: Mapping[str, str], recipe: Path, script: str) -> bool:
    """Writes `files`, by path under the recipe; with --check compares them and says which is out of date.

    `script` is the module to run again. False where one is out of date.
    """
    for name, text in files.items():
        path = recipe / name
        if "--check" not in sys.argv[1:]:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            where = path.relative_to(RECIPES.parent)
            print(f"{where} is out of date: python -m {script}", file=sys.stderr)
            return False
    return True
