"""Ready questions: SQL files beside the code, each with a name, a title and parameters.

The comment lines at the head of a file say what it is: the first is its title, `-- $name: what it is` a
parameter, `-- $name?: …` one that may be left out and is then NULL. Values are bound, never pasted into the
text. Asking is not done here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from factory.errors import InputError

FOLDER = Path(__file__).with_name("questions")
NAME = re.compile(r"[a-z][a-z0-9-]*")
PARAMETER = re.compile(r"-- \$(\w+)(\??): (.+)")


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value that a question asks for; one that is not `required` is NULL where it is left out."""

    name: str
    meaning: str
    required: bool


@dataclass(frozen=True, slots=True)
class Question:
    """A question that is ready to be asked."""

    name: str
    title: str
    parameters: tuple[Parameter, ...]
    sql: str

    def bind(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A value for each parameter; raises InputError for one that is missing or unknown."""
        known = {each.name for each in self.parameters}
        missing = [each.name for each in self.parameters if each.required and given.get(each.name) is None]
        if missing or (unknown := given.keys() - known):
            wrong = f"needs {', '.join(missing)}" if missing else f"knows no {', '.join(sorted(unknown))}"
            takes = "; ".join(f"{each.name}: {each.meaning}" for each in self.parameters) or "no parameters"
            raise InputError(f"question '{self.name}' {wrong}", hint=f"it takes {takes}")
        return {name: given.get(name) for name in known}


def questions() -> tuple[Question, ...]:
    """All of them, by name."""
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.sql")))


def find_question(text: str) -> Question | None:
    """The question of that name; None for what is no name. Raises InputError for a name that is not ours."""
    if not NAME.fullmatch(text):
        return None
    path = FOLDER / f"{text}.sql"
    if path.exists():
        return _read(path)
    near = get_close_matches(text, [each.stem for each in FOLDER.glob("*.sql")], 1)
    hint = f"did you mean '{near[0]}'?" if near else "`factory sql --list` names them"
    raise InputError(f"no question has the name '{text}'", hint=hint)


def _read(path: Path) -> Question:
    text = path.read_text("utf-8")
    title = next(line for line in text.splitlines() if line.startswith("-- "))
    return Question(path.stem, title.removeprefix("-- "), read_parameters(text), text)


def read_parameters(text: str) -> tuple[Parameter, ...]:
    """What the comment lines of a question say about its parameters."""
    found = [PARAMETER.fullmatch(line) for line in text.splitlines()]
    return tuple(Parameter(each[1], each[3], not each[2]) for each in found if each)
