"""The tiny teacher and refiner on one real vLLM server: what strategies ask, and how likely a reply is.

Every registered strategy is asked as a run asks it. The teacher closes the JSON that it is made to write, so
that strategies of several calls come further than their first. What it says is worth nothing here; that the
server takes every request, and each task ends in samples or in one that says how it is malformed, is.

Probabilities under guided decoding are those of the refiner's reply, as its step reads it.
"""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import aclosing
from pathlib import Path

import pytest
from real_server import serving
from strategy_kit import build, domain_of, fate

from factory.budget import Budget
from factory.edits import EDIT_SCHEMA, Op
from factory.engine import Engine
from factory.load import load
from factory.models.client import EndpointModel
from factory.prompts import render
from factory.recipe import BudgetSpec, ModelSpec, SamplingSpec
from factory.registry import names
from factory.store.store import Store
from factory.types import Completion, Message, Request, Sampling
from refiners.scores import KEEP, READ, Reading, read_scores

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
def tiny(tmp_path_factory):
    pytest.importorskip("vllm")
    adapters = TINY / "teacher", TINY / "refiner"
    with serving(tmp_path_factory.mktemp("real"), TINY / "base", *adapters) as server:
        yield server


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, several in OPTIONS.items() for options in several]
)
async def test_the_server_takes_every_request(tiny, tmp_path, name, options):
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]))
    (tmp_path / "shop.sql").write_text("CREATE TABLE goods (name VARCHAR);")
    strategy = build(name, domain_of(tmp_path), **options)
    model = EndpointModel(tiny.base_url, "teacher", "tiny", tiny.key)
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


@pytest.fixture(scope="module")
def answers(tiny) -> dict[str, Completion]:
    """The replies about a clean draft and about one with a wrong quantity, and one without probabilities."""
    domain = load(TINY.parents[1] / "recipes" / "georgia_workers_comp", "tiny")
    clean = next(draft for draft in domain.drafts if draft.reason == "ok")
    wrong = next(draft for draft in domain.drafts if draft.reason == "wrong_quantity")

    async def ask() -> dict[str, Completion]:
        model = EndpointModel(tiny.base_url, "refiner", "m", tiny.key)
        found = {}
        for name, draft, top in (("clean", clean, 5), ("wrong", wrong, 5), ("plain", wrong, 0)):
            source = domain.source_by_key[draft.source_key]
            values = {"style": "", "source": source, "question": draft.question, "answer": draft.answer}
            turns = (Message("user", render("refiners", "edit", **values)),)
            sampling = Sampling(max_tokens=128)
            found[name] = await model.complete(Request("m", turns, EDIT_SCHEMA, sampling, top_logprobs=top))
            found[f"draft {name}"] = Completion(draft.answer)
        await model.close()
        return found

    return asyncio.run(ask())


@pytest.mark.vllm
def test_the_tokens_make_up_the_answer(answers: dict[str, Completion]) -> None:
    for name in ("clean", "wrong"):
        tokens = answers[name].logprobs
        assert tokens
        assert "".join(token.text for token in tokens) == answers[name].text
    assert answers["plain"].logprobs is None
    assert answers["plain"].text == answers["wrong"].text


@pytest.mark.vllm
def test_they_are_those_of_what_the_schema_allows(answers: dict[str, Completion]) -> None:
    """Masked before they are taken: what the grammar forces is certain, and no alternative breaks it."""
    tokens = answers["clean"].logprobs or ()
    assert tokens[0].text.startswith("{")
    assert math.exp(tokens[0].logprob) == pytest.approx(1, abs=1e-3)
    assert tokens[0].others == ()


@pytest.mark.vllm
def test_a_clean_answer_is_held_likelier_than_a_wrong_one(answers: dict[str, Completion]) -> None:
    found = {}
    for name in ("clean", "wrong"):
        answer, reply = answers[f"draft {name}"].text, answers[name]
        read = read_scores(reply, answer, _ops(reply), None, Reading(restates=True))
        value = read[KEEP, READ]
        assert value is not None
        found[name] = value
    assert found["wrong"] < 0.5 < found["clean"]


def _ops(reply: Completion) -> list[Op]:
    return [Op(**op) for op in reply.json()["ops"]]
