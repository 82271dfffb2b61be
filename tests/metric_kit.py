"""A small domain whose evaluation can be anything, and runs of it with a script as every model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import yaml

from factory.bench import Bench
from factory.loop import evaluate
from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.types import Request

QUIET = Progress(bars=False)
RECIPE: dict[str, Any] = {
    "name": "bells",
    "domain": {"title": "Bells", "citation_pattern": r"Rule \d+"},
    "seeds": "seeds.jsonl",
    "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
    "strategies": [{"name": "seeded"}],
    "servers": {"main": {"kind": "scripted", "script": "mine"}},
    "models": {"teacher": {"server": "main"}, "student": {"server": "main", "max_retries": 0}},
    "training": {"student": {"base": "models/base"}},
}


def write(folder: Path, dev: list[str], evaluation: dict[str, Any], **changed: Any) -> Path:
    """The domain with these right answers on dev, to `question 0?` and so on, and the first one on test."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, answers in (("dev", dev), ("test", dev[:1])):
        lines = [
            {"id": f"{split}-{n}", "question": f"{split} question {n}?", "answer": text, "slice": "ring"}
            for n, text in enumerate(answers)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    seed = {"id": "s", "prompt": "What is a bell made of, as a rule?", "slice": "ring"}
    (folder / "seeds.jsonl").write_text(json.dumps(seed))
    recipe = RECIPE | {"evaluation": {"name": "answers", **evaluation}} | changed
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder


def evaluate_base(folder: Path, workspace: Path) -> list[dict[str, Any]]:
    """The base's items on dev, as the store has them."""

    async def work(bench: Bench) -> list[dict[str, Any]]:
        bench.record_run()
        await evaluate(bench, 0, None)
        return bench.store.select(
            """SELECT i.*, e.metric, e.mean FROM evaluation_items i
               JOIN evaluations e ON e.id = i.evaluation_id
               WHERE e.split = 'dev' ORDER BY i.item_key"""
        )

    return asyncio.run(with_bench(folder, workspace, work))


async def with_bench(folder: Path, workspace: Path, work: Any) -> Any:
    """What `work` makes of the bench of a run."""
    async with open_bench(open_domain(folder, None), workspace, QUIET) as bench:
        return await work(bench)


def number_of(request: Request) -> int:
    """Of the question that a student is asked."""
    return int(request.messages[-1].content.split()[-1].rstrip("?"))
