"""What every contender is asked to do: one structured answer, a question and its answer, for each row.

The same rows as a recipe for us, as text for the others. Standard library only: the peers' environments
import it too.
"""

from __future__ import annotations

import json
from pathlib import Path

MODEL = "bench"
TEMPERATURE = 0.7
MAX_TOKENS = 256
RULE = "The term of this rule is counted in days from the notice and is not prolonged. " * 8
INSTRUCTION = (
    "Write one question that a reader could ask about this section, and its answer, as JSON with the keys "
    '"question" and "answer".'
)
SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["question", "answer"],
    "additionalProperties": False,
}


def rows(count: int) -> list[str]:
    """The source rows, each another text."""
    return [f"{index}.1 Rule {index}\nRow {index}. {RULE.strip()}" for index in range(count)]


def prompt(row: str) -> str:
    """What a model is asked about a row."""
    return f"{INSTRUCTION}\n\n{row}"


def write_recipe(
    folder: Path, num_rows: int, base_url: str, in_flight: int, num_samples: int | None = None
) -> Path:
    """A recipe that makes grounded samples from rows, one of each, and checks their form; returns the folder.

    With `num_samples` there are so many, of the rows in turn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sections = "\n\n".join(f"### {row}" for row in rows(num_rows))
    (folder / "rows.md").write_text(f"# Rows\n\n## all\n\n{sections}\n", encoding="utf-8")
    for split in ("dev", "test"):
        item = {"id": split, "question": f"What is in {split}?", "answer": "Nothing.", "slice": "all"}
        (folder / f"{split}.jsonl").write_text(json.dumps(item) + "\n", encoding="utf-8")
    recipe = {
        "name": "bench",
        "domain": {"title": "Benchmark", "description": "Rules that mean nothing."},
        "sources": {"paths": ["rows.md"]},
        "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
        "servers": {"main": {"kind": "endpoint", "base_url": base_url}},
        "models": {
            "teacher": {
                "server": "main",
                "model": MODEL,
                "concurrency": in_flight,
                "sampling": {"temperature": TEMPERATURE, "max_tokens": MAX_TOKENS},
            }
        },
        "strategies": [{"name": "grounded"}],
        "refiners": [{"name": "form"}],
        "loop": {"rounds": 1, "samples_per_round": num_samples or num_rows},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1), encoding="utf-8")  # JSON is YAML too
    return folder
