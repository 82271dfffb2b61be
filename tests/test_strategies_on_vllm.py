"""Strategies whose requests are of kinds of their own, against the real vLLM server and a model of noise.

What comes is worth nothing; that the server takes every request, and each answer becomes a sample, is.
"""

from __future__ import annotations

import json
from contextlib import aclosing

import pytest
from strategy_kit import build, domain_of
from test_vllm_server import real  # noqa: F401 (a fixture)

from factory.budget import Budget
from factory.engine import Engine
from factory.models.client import EndpointModel
from factory.recipe import BudgetSpec, ModelSpec, SamplingSpec
from factory.store.store import Store

TOOL = {"name": "ring", "parameters": {"type": "object", "properties": {"who": {"type": "string"}}}}
OPTIONS = {
    "magpie": {},
    "tool_calls": {"tools": "tools.json"},
    "text_to_sql": {"schemas": ["shop.sql"]},
    "preference": {"of": {"name": "magpie"}},
}


@pytest.mark.vllm
@pytest.mark.parametrize("name", OPTIONS)
async def test_the_server_takes_every_request(real, tmp_path, name):  # noqa: F811
    base_url, key, *_ = real
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]))
    (tmp_path / "shop.sql").write_text("CREATE TABLE goods (name VARCHAR);")
    strategy = build(name, domain_of(tmp_path), **OPTIONS[name])
    model = EndpointModel(base_url, "base", "noise", key)
    spec = ModelSpec(server="local", concurrency=4, sampling=SamplingSpec(temperature=1.0, max_tokens=64))
    with Store.open(tmp_path / "w") as store:
        engine = Engine(store, Budget(BudgetSpec()), "run_1")
        ask = engine.ask("teacher", model, spec, "generate", 1)
        tasks = strategy.plan(dict.fromkeys(strategy.slices, 4), 1)
        async with aclosing(engine.run_tasks(strategy, tasks, ask, spec.concurrency)) as outcomes:
            made = [outcome async for _, outcome in outcomes]
        store.flush()
        (calls,) = store.select("SELECT count(*) AS n, bool_and(status = 'ok') AS answered FROM calls")
    await model.close()
    assert len(made) >= 4 and not [each for each in made if isinstance(each, Exception)]
    assert all(len(samples) == 1 for samples in made)
    assert calls["answered"] and calls["n"] >= len(made)
