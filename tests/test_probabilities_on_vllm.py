"""Probabilities of a real vLLM under guided decoding: the tiny refiner's reply, as its step reads it."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from real_server import serving

from factory.edits import EDIT_SCHEMA, Op
from factory.load import load
from factory.models.client import EndpointModel
from factory.prompts import render
from factory.types import Completion, Message, Request, Sampling
from refiners.scores import KEEP, READ, Reading, read_scores

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Completion]:
    """The replies about a clean draft and about one with a wrong quantity, and one without probabilities."""
    domain = load(ROOT / "recipes" / "georgia_workers_comp", "tiny")
    clean = next(draft for draft in domain.drafts if draft.reason == "ok")
    wrong = next(draft for draft in domain.drafts if draft.reason == "wrong_quantity")
    base, refiner = (ROOT / "tiny" / "models" / name for name in ("base", "refiner"))

    async def ask(url: str, key: str) -> dict[str, Completion]:
        model = EndpointModel(url, "refiner", "m", key)
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

    with serving(tmp_path_factory.mktemp("probabilities"), base, refiner) as server:
        return asyncio.run(ask(server.base_url, server.key))


def test_the_tokens_make_up_the_answer(answers: dict[str, Completion]) -> None:
    for name in ("clean", "wrong"):
        tokens = answers[name].logprobs
        assert tokens
        assert "".join(token.text for token in tokens) == answers[name].text
    assert answers["plain"].logprobs is None
    assert answers["plain"].text == answers["wrong"].text


def test_they_are_those_of_what_the_schema_allows(answers: dict[str, Completion]) -> None:
    """Masked before they are taken: what the grammar forces is certain, and no alternative breaks it."""
    tokens = answers["clean"].logprobs or ()
    assert tokens[0].text.startswith("{")
    assert math.exp(tokens[0].logprob) == pytest.approx(1, abs=1e-3)
    assert tokens[0].others == ()


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
