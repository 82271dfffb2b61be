"""Probabilities of tokens: read, stored, and what they say about choices and other words."""

from __future__ import annotations

import asyncio
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.budget import Budget
from factory.engine import Engine
from factory.models.batch_lines import read_results
from factory.models.chat import ChatRequests, read_completion
from factory.models.scripted import ScriptedModel
from factory.probabilities import choice_at, likelihood_of
from factory.recipe import BudgetSpec, ModelSpec
from factory.store.store import Store
from factory.tokens import Token, pack, read_tokens, unpack
from factory.types import Completion, Message, Request, Sampling


def item(piece: str | bytes, logprob: float = 0.0, **others: float) -> dict[str, Any]:
    data = piece.encode() if isinstance(piece, str) else piece
    top = [{"token": text, "logprob": p, "bytes": list(text.encode())} for text, p in others.items()]
    return {
        "token": data.decode(errors="replace"),
        "logprob": logprob,
        "bytes": list(data),
        "top_logprobs": top,
    }


def test_tokens_are_read_with_what_was_not_out_of_the_question() -> None:
    content = [item("ke", -0.1, ke=-0.1, ed=-2.5, dr=-12.0), item("ep", 0.0, ep=0.0, ee=-9999.0)]
    assert read_tokens({"content": content}, "keep") == (
        Token("ke", -0.1, (("ed", -2.5),)),
        Token("ep", 0.0, ()),
    )


def test_what_stands_around_the_answer_is_cut_off() -> None:
    content = [item("<think>keep"), item("</think>\n\n ke", -1.0, x=-1.0), item("ep", -2.0), item("<|end|>")]
    assert read_tokens({"content": content}, "keep") == (Token("ke", -1.0), Token("ep", -2.0))
    assert read_tokens({"content": content}, "drop") is None
    assert read_tokens(None, "keep") is None
    assert read_tokens({"content": []}, "keep") is None


def test_a_character_over_several_tokens_is_one() -> None:
    sign = "§".encode()
    content = [item("a"), item(sign[:1], -1.0, b=-2.0), item(sign[1:] + b" 3", -0.5, c=-3.0)]
    assert read_tokens({"content": content}, "a§ 3") == (Token("a", 0.0), Token("§ 3", -1.5))


def test_a_character_of_which_the_first_tokens_say_nothing() -> None:
    content = [item("a"), item("", -1.0, b=-2.0), item("§ 3", -0.5, c=-3.0), item(""), item("")]
    assert read_tokens({"content": content}, "a§ 3") == (Token("a", 0.0), Token("§ 3", -1.5))


def test_an_endpoint_that_gives_no_bytes() -> None:
    content = [{"token": "keep", "logprob": -0.25}]
    assert read_tokens({"content": content}, "keep") == (Token("keep", -0.25),)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)
TOKENS = st.lists(
    st.builds(
        Token,
        TEXT,
        st.floats(-30, 0),
        st.dictionaries(TEXT, st.floats(-9, 0), max_size=2).map(lambda d: tuple(d.items())),
    ),
    min_size=1,
    max_size=6,
)


@given(TOKENS)
def test_packing_loses_nothing(tokens: list[Token]) -> None:
    assert unpack(json.loads(json.dumps(pack(tokens)))) == tuple(tokens)


@given(st.lists(TEXT, min_size=1, max_size=6), st.data())
def test_tokens_make_up_the_text_however_it_is_cut(pieces: list[str], data: st.DataObject) -> None:
    raw = "".join(pieces).encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw)), max_size=5)) | {0, len(raw)})
    content = [item(raw[a:b]) for a, b in pairwise(cuts)]
    found = read_tokens({"content": content}, raw.decode())
    assert found is not None
    assert "".join(token.text for token in found) == raw.decode()


# on the way


def body(**extra: Any) -> bytes:
    message = {"role": "assistant", "content": "keep"}
    choice = {"message": message, "finish_reason": "stop", **extra}
    return json.dumps({"choices": [choice], "usage": {}}).encode()


def request(top_logprobs: int = 0) -> Request:
    return Request("m", (Message("user", "Q?"),), None, Sampling(), top_logprobs=top_logprobs)


def test_a_request_without_probabilities_is_what_it_was() -> None:
    assert request().id == "call_a66a08a16a6132cb2fe8"
    assert request(5).id != request().id
    sent = json.loads(ChatRequests("m").encode(request()))
    assert "logprobs" not in sent
    assert json.loads(ChatRequests("m").encode(request(5))) == {**sent, "logprobs": True, "top_logprobs": 5}


def test_an_answer_and_a_line_of_a_batch_bring_the_same() -> None:
    given = {"logprobs": {"content": [item("ke", -0.5), item("ep", -0.25)]}}
    found = read_completion(body(**given)).logprobs
    line = {"custom_id": "c", "response": {"status_code": 200, "body": json.loads(body(**given))}}
    (result,) = read_results([json.dumps(line).encode()], "here").values()
    assert found == (Token("ke", -0.5), Token("ep", -0.25))
    assert isinstance(result, Completion)
    assert result.logprobs == found
    assert read_completion(body(logprobs=None)).logprobs is None
    assert read_completion(body()).logprobs is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"content": [{}]},
        {"content": 3},
        [1],
        {"content": [{"token": "a"}]},
        {"content": [{"token": "keep", "logprob": None}]},
        {"content": [{"token": "keep", "logprob": float("nan")}]},
        {"content": [{"token": "keep", "logprob": -0.1, "top_logprobs": [{"token": "x", "logprob": None}]}]},
    ],
)
def test_an_answer_whose_probabilities_cannot_be_read_does_without(wrong: object) -> None:
    answer = read_completion(body(logprobs=wrong))
    assert answer.text and answer.logprobs is None


def test_what_was_forbidden_has_a_finite_probability() -> None:
    (token,) = read_tokens({"content": [{"token": "keep", "logprob": float("-inf")}]}, "keep") or ()
    assert token == Token("keep", -1e4)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    tokens = (Token("ke", -0.5, (("\ud800", -1.0), ("d", -2.0))), Token("ep", 0.0))
    spec = ModelSpec(server="here")
    seen: list[int] = []

    def script(asked: Request) -> Completion:
        seen.append(asked.top_logprobs)
        return Completion("keep", logprobs=tokens if asked.top_logprobs else None)

    async def ask(top_logprobs: int) -> Completion:
        with Store.open(tmp_path) as store:
            engine = Engine(store, Budget(BudgetSpec()), "run_a")
            asking = engine.ask("refiner", ScriptedModel(script), spec, "refine", 1)
            first = await asking([Message("user", "Q?")], top_logprobs=top_logprobs)
            again = await asking([Message("user", "Q?")], top_logprobs=top_logprobs)
            assert first.logprobs == again.logprobs
            return again

    for _ in range(2):
        assert asyncio.run(ask(5)).logprobs == tokens
        assert asyncio.run(ask(0)).logprobs is None
    assert seen == [5, 0]


# what they say

VERDICTS = ("keep", "edit", "rewrite", "drop")


def likely(text: str, probability: float, **others: float) -> Token:
    return Token(text, math.log(probability), tuple((t, math.log(p)) for t, p in others.items()))


@pytest.mark.parametrize(
    ("tokens", "place"),
    [
        ([likely('"', 1), likely("k", 0.6, e=0.2, x=0.2), likely("eep", 1)], 1),
        ([likely('"keep', 0.6, **{'"edit': 0.2, '"': 0.1, "keep": 0.1})], 1),
        ([likely('"', 1), likely('keep",', 0.6, **{'edit", ': 0.1, "ed": 0.1})], 1),
    ],
)
def test_a_choice_is_read_however_it_is_cut_into_tokens(tokens: list[Token], place: int) -> None:
    found = choice_at(tokens, place, VERDICTS)
    assert found == pytest.approx({"keep": 0.75, "edit": 0.25, "rewrite": 0, "drop": 0})


def test_a_choice_that_is_not_there() -> None:
    assert choice_at([likely("no", 1)], 0, VERDICTS) is None
    assert choice_at([likely("keep", 1)], 4, VERDICTS) is None
    assert choice_at([likely("1", 0.5, **{"10": 0.5})], 0, ("1", "10")) is None  # either may be meant


def test_the_likelihood_of_what_was_said_and_of_other_words() -> None:
    tokens = [
        likely('"', 1),
        likely("30", 0.5, **{"2": 0.25, "21": 0.125}),
        likely(" days", 0.5),
        likely('"}', 0.5),
    ]
    assert likelihood_of(tokens, 1, '30 days"') == pytest.approx(0.125)
    assert likelihood_of(tokens, 1, '30 weeks"') == 0
    assert likelihood_of(tokens, 1, '21 days"') == pytest.approx(0.375)
    assert likelihood_of(tokens, 1, "30 d") == pytest.approx(0.25)
    assert likelihood_of(tokens, 99, "30") is None


@given(TOKENS, st.integers(0, 5))
def test_the_likelihood_is_a_probability_and_its_own_text_has_that_of_its_tokens(
    tokens: list[Token], place: int
) -> None:
    text = "".join(token.text for token in tokens)
    whole = likelihood_of(tokens, 0, text)
    assert whole == pytest.approx(math.exp(sum(token.logprob for token in tokens)))
    found = likelihood_of(tokens, place, text[place:] or "x")
    assert found is None or found >= 0
