"""What people ask of a house, and the calls that fulfil it; also writes the gold files of recipes/smart_home.

    python -m tiny.smart_home [--check]

`smart_home.yaml` is what a person edits. A wish is what one call fulfils, and how its value is said; a
request is a wish in a wording of the split that may see it. What a careless teacher makes of wishes is in
`tiny.tools_teacher`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import yaml

from tiny.generated import write_or_check

HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "smart_home"
WORDS_SHARE = 0.25  # of the values that are said in words, where a kind of wish has such
NUM_ITEMS = {"dev": 12, "test": 32}  # of each function

Split = Literal["teacher", "dev", "test"]
Call = dict[str, Any]  # name and arguments


@dataclass(frozen=True)
class Wish:
    """Something that one call fulfils; `mistaken` are the arguments that its words are often taken for."""

    function: str
    kind: str
    said: str
    arguments: dict[str, Any]
    mistaken: dict[str, Any] = field(default_factory=dict)

    def call(self, **changed: Any) -> Call:
        """The call that fulfils it, with some arguments changed."""
        return {"name": self.function, "arguments": self.arguments | changed}


@cache
def known() -> dict[str, Any]:
    """The authored file."""
    return dict(yaml.safe_load((HERE / "smart_home.yaml").read_text(encoding="utf-8")))


def functions() -> list[str]:
    return list(known()["functions"])


def draw_wish(rng: Random, function: str, *, beyond: bool = False) -> Wish:
    """A wish for the function; `beyond`: one that it cannot fulfil."""
    kind = rng.choice(known()["functions"][function])
    found = known()["wishes"][kind]
    further = {"on": found["on"]} if "on" in found else {}
    if not beyond and "words" in found and rng.random() < WORDS_SHARE:
        said, (value, mistaken) = rng.choice(list(found["words"].items()))
        return Wish(function, kind, said, {found["argument"]: value}, {found["argument"]: mistaken})
    value = rng.choice(found["beyond" if beyond else "values"])
    # "off" is often taken for the value itself.
    mistaken = {"on": found["mistaken_on"]} if further.get("on") is False else {}
    return Wish(
        function, kind, found["said"].format(value=value), {found["argument"]: value, **further}, mistaken
    )


def put_in_words(rng: Random, wish: Wish, split: Split, clause: str = "") -> str:
    """A request for the wish in a wording of the split, or with the given clause."""
    clause = clause or rng.choice(known()["clauses"][split][wish.kind])
    text, frame = clause.format(value=wish.said), rng.choice(known()["frames"][split])
    if frame.startswith("{clause}"):
        text = text[0].upper() + text[1:]
    return str(frame.format(clause=text))


def items(split: Literal["dev", "test"]) -> list[dict[str, str]]:
    """The gold items of a split: each clause of a function as often as the others, no request twice."""
    rng, made = Random(f"smart home {split}"), dict[str, dict[str, str]]()
    for function in functions():
        clauses = {kind: list(known()["clauses"][split][kind]) for kind in known()["functions"][function]}
        for number in range(NUM_ITEMS[split]):
            question = ""
            while not question or question in made:
                wish = draw_wish(rng, function)
                if wish.kind == list(clauses)[number % len(clauses)]:
                    of_kind = clauses[wish.kind]
                    question = put_in_words(rng, wish, split, of_kind[number // len(clauses) % len(of_kind)])
            answer = json.dumps([wish.call()], ensure_ascii=False)
            key = f"{split}-{function}-{number + 1}"
            made[question] = {"id": key, "question": question, "answer": answer, "slice": function}
    return list(made.values())


def build() -> dict[str, str]:
    """Path under the recipe → text, the same for the same authored file."""
    return {
        f"gold/{split}.jsonl": "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items(split))
        for split in ("dev", "test")
    }


def main() -> int:
    files = build()
    if not write_or_check(files, RECIPE, "tiny.smart_home"):
        return 1
    print(", ".join(f"{name} {text.count(chr(10))}" for name, text in files.items()), "items")
    return 0


if __name__ == "__main__":
    sys.exit(main())
