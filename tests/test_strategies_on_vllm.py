"""Every registered strategy against the real vLLM server, asked as a run asks it.

The model is the tiny teacher, which closes the JSON that it is made to write, so that strategies of several
calls come further than their first. What it says is worth nothing here; that the server takes every request,
and each task ends in samples or in one that says how it is malformed, is.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from pathlib import Path

import pytest
from real_server import serving
from strategy_kit import build, domain_of, fate

from factory.budget import Budget
from factory.engine import Engine
from factory.models.client import EndpointModel
from factory.recipe import BudgetSpec, ModelSpec, SamplingSpec
from factory.registry import names
from factory.store.store import Store

TINY = Path(__file__).parents[1] / "tiny" / "models"
GROUNDED = {"of": {"name": "grounded"}}
ONE_COLUMN = [{"name": "pair", "prompt": "Ask about {{ source.text }}", "fields": ["question", "answer"]}]
OPTIONS = {
    "seeded": [{}],
    "evolved": [{}],
    "persona": [{}, {"personas": ["a nurse"]}],
    "taxonomy": [{"topics": ["claims"], "grow_levels": 1}],
    "grounded": [
        {"kinds": {kind: 1}, "unanswerable_answer": "The law does not say."}
        for kind in ("single", "multi_hop", "unanswerable", "facts")
    ],
    "template": [
        {
            "columns": ONE_COLUMN,
            "each": "source",
            "question": "{{ pair.question }}",
            "answer": "{{ pair.answer }}",
        }
    ],
    "dialogue": [{"max_turns": 2}],
    "critique": [GROUNDED],
    "paraphrase": [GROUNDED],
    "back_translation": [GROUNDED],
    "preference": [GROUNDED],
    "magpie": [{}],
    "tool_calls": [{"tools": "tools.json"}],
    "text_to_sql": [{"schemas": ["shop.sql"]}],
}
TOOL = {"name": "ring", "parameters": {"type": "object", "properties": {"who": {"type": "string"}}}}
EMPTY = ("empty_question", "empty_answer")  # the strings that were asked for, with nothing in them
NUM_TASKS = 4  # of each slice


def test_every_registered_strategy_is_asked_here():
    assert sorted(OPTIONS) == names("generators")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    pytest.importorskip("vllm")
    with serving(tmp_path_factory.mktemp("real"), TINY / "base", TINY / "teacher") as server:
        yield server


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, several in OPTIONS.items() for options in several]
)
async def test_the_server_takes_every_request(teacher, tmp_path, name, options):
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]))
    (tmp_path / "shop.sql").write_text("CREATE TABLE goods (name VARCHAR);")
    strategy = build(name, domain_of(tmp_path), **options)
    model = EndpointModel(teacher.base_url, "teacher", "tiny", teacher.key)
    spec = ModelSpec(server="local", concurrency=16, sampling=SamplingSpec(temperature=1.0, max_tokens=64))
    with Store.open(tmp_path / "w") as store:
        engine = Engine(store, Budget(BudgetSpec()), "run_1")
        ask = engine.ask("teacher", model, spec, "generate", 1)
        tasks = list(strategy.plan(dict.fromkeys(strategy.slices, NUM_TASKS), 1))
        async with aclosing(engine.run_tasks(strategy, tasks, ask, spec.concurrency)) as outcomes:
            made = [outcome async for _, outcome in outcomes]
        (calls,) = store.select("SELECT count(*) AS n, bool_and(status = 'ok') AS answered FROM calls")
    await model.close()
    assert len(made) == NUM_TASKS * len(strategy.slices)
    assert [each for each in made if isinstance(each, Exception)] == []
    assert calls["answered"] and calls["n"] >= len(made)
    assert all(made)
    for sample in [sample for samples in made for sample in samples]:
        reason = await fate(sample)
        assert reason == "ok" or reason in {sample.attributes.get("malformed"), *EMPTY}
