"""Prompts are jinja2 templates that lie beside the code which sends them, one a file.

Templates run in a sandbox and fail on a missing value. What is filled in is data: it is never
read as a template itself. Nothing here knows what a prompt is for.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import SandboxedEnvironment

_FRAME = re.compile(r"^(\s*)(BEGIN|END)(\s*)$", re.MULTILINE)
_FILLED_IN = re.compile(r"\{[{%#].*?[}%#]\}", re.DOTALL)
# Prompts are plain text: escaping HTML would change what the model reads.
_ENVIRONMENT = SandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
# Of material that stands between the lines BEGIN and END, so that none of its own lines ends it.
_ENVIRONMENT.filters["inside"] = lambda text: _FRAME.sub(r"\1'\2'\3", text)


@cache
def _template(package: str, name: str) -> Template:
    return _ENVIRONMENT.from_string(resources.files(package).joinpath(f"{name}.jinja").read_text("utf-8"))


def render(package: str, name: str, **values: Any) -> str:
    """The text of `package`/`name`.jinja with `values` filled in, without white space around it.

    Raises jinja2.UndefinedError where the template names a value that is not given.
    """
    return _template(package, name).render(values).strip()


def fixed_sentences(package: str) -> list[str]:
    """What the templates of a package say whatever is filled in, cut where something is."""
    files = (file for file in resources.files(package).iterdir() if file.name.endswith(".jinja"))
    texts = (file.read_text("utf-8") for file in sorted(files, key=lambda file: file.name))
    parts = (part for text in texts for part in re.split(r"(?<=[.!?:])\s|\n", _FILLED_IN.sub("\n", text)))
    return [part.strip() for part in parts if part.strip()]
