"""The same calls through every way of running vLLM: the same texts, counts and reasons to end."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from factory.budget import Budget
from factory.engine import Engine
from factory.models.batch_log import BatchLog
from factory.models.pool import ModelPool
from factory.recipe import BudgetSpec, Recipe
from factory.store.store import Store
from factory.types import Completion, Message, Sampling

TINY = Path(__file__).parents[1] / "tiny" / "models"
SCHEMA = {
    "type": "object",
    "properties": {"verdict": {"enum": ["keep", "drop"]}, "days": {"type": "integer", "maximum": 99}},
    "required": ["verdict", "days"],
    "additionalProperties": False,
}
QUESTIONS = [f"How many days does rule {number} give a worker to file a claim?" for number in range(12)]


def recipe(run_as: str, replicas: int) -> Recipe:
    served = {"kind": "vllm", "model": str(TINY / "base"), "max_model_len": 512, "device": "cpu"}
    return Recipe.model_validate(
        {
            "name": "test",
            "domain": {"title": "t"},
            "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
            "strategies": [{"name": "grounded"}],
            "servers": {"main": {**served, "run_as": run_as, "replicas": replicas}},
            "models": {
                "student": {"server": "main"},
                "teacher": {"server": "main", "adapter": str(TINY / "teacher")},
            },
        }
    )


async def ask_everything(folder: Path, run_as: str, replicas: int = 1) -> dict[str, Completion]:
    """Plain, constrained and seeded questions to base and adapter, through engine and pool."""
    made = recipe(run_as, replicas)
    with Store.open(folder / run_as) as store:
        pool = ModelPool(made, folder, folder / run_as, print)
        pool.batched.log = BatchLog(store, "run_1")
        engine = Engine(store, Budget(BudgetSpec()), "run_1")
        try:
            found = {}
            for role in ("student", "teacher"):
                ask = engine.ask(role, await pool.model(role), made.models[role], "generate", 1)
                asked = {f"{role} {text}": ask([Message("user", text)]) for text in QUESTIONS}
                asked |= {
                    f"{role} json {text}": ask([Message("user", text)], schema=SCHEMA)
                    for text in QUESTIONS[:4]
                }
                warm = Sampling(temperature=0.9, max_tokens=16, seed=5)
                asked[f"{role} warm"] = ask([Message("user", QUESTIONS[0])], sampling=warm)
                answers = await asyncio.gather(*asked.values())
                found |= dict(zip(asked, answers, strict=True))
            return found
        finally:
            await pool.close()


def essence(found: dict[str, Completion]) -> dict[str, tuple]:
    return {
        name: (each.text, each.reasoning, each.finish_reason, each.prompt_tokens, each.completion_tokens)
        for name, each in found.items()
    }


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> dict[str, Completion]:
    """What our server on loopback answers."""
    pytest.importorskip("vllm")
    found = asyncio.run(ask_everything(tmp_path_factory.mktemp("served"), "server"))
    assert len({each.text for each in found.values()}) > 8, "answers that differ, or nothing is shown"
    return found


@pytest.mark.vllm
@pytest.mark.parametrize(("run_as", "replicas"), [("batch", 1), ("in_process", 1), ("in_process", 2)])
def test_real_answers_are_the_same_however_vllm_is_run(served, tmp_path, run_as, replicas):
    found = asyncio.run(ask_everything(tmp_path, run_as, replicas))
    assert essence(found) == essence(served)
    assert [each.call_id for each in found.values()] == [each.call_id for each in served.values()]
    with Store.open(tmp_path / run_as) as store:
        rows = store.select("SELECT status FROM batches")
    expected = {"prepared": 2, "submitted": 2, "collected": 2, "done": 2} if run_as == "batch" else {}
    assert Counter(row["status"] for row in rows) == expected
