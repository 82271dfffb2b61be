"""Scores read from the probabilities of a reply's tokens, and what a refused edit leaves of a sample."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_refiners import NOTICE, create, make, make_domain, one, op, said

from factory.calibration import Calibration, save
from factory.edits import EDIT_SCHEMA
from factory.recipe import ModelSpec
from factory.refiner_evaluation import P_KEEP
from factory.tokens import Token
from factory.types import Completion, Decision, Message, Parent, Sample, Source
from refiners.scores import KEEP, READ, VERDICTS

ANSWER = "21 days (§ 34-9-80)"
Held = Mapping[str, Mapping[str, float]]  # a piece of the reply → what could stand there, itself among it


def reply(answer: Any, held: Held) -> Completion:
    """A reply cut into tokens at the pieces of `held`, in order; all others were certain."""
    text = json.dumps(answer, ensure_ascii=False)
    tokens, at = [], 0
    for piece, chances in held.items():
        start = text.index(piece, at)
        tokens.append(Token(text[at:start], 0.0))
        others = [(other, math.log(chance)) for other, chance in chances.items() if other != piece]
        tokens.append(Token(piece, math.log(chances[piece]), tuple(others)))
        at = start + len(piece)
    tokens.append(Token(text[at:], 0.0))
    return Completion(text, logprobs=tuple(token for token in tokens if token.text), call_id="call_e1")


class Gives:
    """An `ask` with one answer, whatever is asked, and how probabilities were asked for."""

    def __init__(self, answer: Completion) -> None:
        self.answer = answer
        self.top_logprobs: list[int] = []

    async def __call__(
        self, messages: Sequence[Message], *, schema: Any, top_logprobs: int, **_: Any
    ) -> Completion:
        assert schema is EDIT_SCHEMA
        self.top_logprobs.append(top_logprobs)
        return self.answer


def scores(decision: Decision) -> dict[tuple[str, str], float | None]:
    return {(score.metric, score.scorer): score.value for score in decision.scores}


DROP = {"edit": {"edit": 0.9, "drop": 0.1}}
VERDICT = {"edit": {"edit": 0.6, "keep": 0.2, "drop": 0.2}}
DIGITS = {"1, ": {"1, ": 0.9, "0, ": 0.1}, "0}": {"0}": 0.75, "1}": 0.25}}


async def test_scores_are_probabilities_where_there_are_some() -> None:
    ask = Gives(reply(said("edit", "unit", ops=[op("21", "30")]), VERDICT | DIGITS))
    decision = await one(create("edit"), make("How long?", ANSWER), ask)
    assert scores(decision) == {
        ("grounded", "edit_probability"): pytest.approx(0.9),
        ("form", "edit_probability"): pytest.approx(0.25),
        ("keep", "edit_probability"): pytest.approx(0.2),
    }
    assert ask.top_logprobs == [5]
    assert P_KEEP == (KEEP, READ)
    assert list(VERDICTS) == EDIT_SCHEMA["properties"]["verdict"]["enum"]


async def test_without_probabilities_they_are_the_digits() -> None:
    ask = Gives(Completion(json.dumps(said("keep"))))
    decision = await one(create("edit", probabilities=False), make("How long?", ANSWER), ask)
    assert scores(decision) == {("grounded", "edit"): 1, ("form", "edit"): 0}
    assert ask.top_logprobs == [0]


@pytest.mark.parametrize(
    ("new", "held", "chance"),
    [
        (ANSWER, DROP, 0.9),
        (ANSWER, {**DROP, '"new": "': {'"new": "': 1.0}, "21": {"21": 0.5, "30": 0.5}}, 0.45),
        ("30 days (§ 34-9-80)", {"edit": {"edit": 1.0}, "30": {"30": 0.75, "21": 0.25}}, 0.25),
        ("30 days (§ 34-9-80)", {"edit": {"edit": 1.0}, "30": {"30": 1.0}}, 0.0),
    ],
)  # fmt: skip
async def test_who_restates_keeps_by_the_likelihood_of_the_same_words(
    new: str, held: Held, chance: float
) -> None:
    decision = await one(
        create("edit", restate=True),
        make("How long?", ANSWER),
        Gives(reply(said("edit", "restated", ops=[op(ANSWER, new)]), held)),
    )
    assert decision.action == ("keep" if new == ANSWER else "rewrite")
    assert scores(decision)[KEEP, READ] == pytest.approx(chance)


async def test_who_restates_and_drops_might_have_kept() -> None:
    gives = Gives(reply(said("drop", "off_source"), {"drop": {"drop": 0.75, "edit": 0.25}}))
    decision = await one(create("edit", restate=True), make("How long?", ANSWER), gives)
    assert scores(decision)[KEEP, READ] == pytest.approx(0.25)
    decision = await one(create("edit"), make("How long?", ANSWER), gives)
    assert scores(decision)[KEEP, READ] == 0


async def test_a_map_beside_the_adapter_calibrates(tmp_path: Path) -> None:
    domain = make_domain()
    models = {**domain.recipe.models, "refiner": ModelSpec(server="here", adapter="adapter")}
    domain = replace(domain, folder=tmp_path, recipe=domain.recipe.model_copy(update={"models": models}))
    (tmp_path / "adapter").mkdir()
    save(Calibration(1.0, math.log(16)), tmp_path / "adapter")  # odds of 1 to 4 become 4 to 1
    ask = Gives(reply(said("edit", "unit", ops=[op("21", "45")]), VERDICT))
    decision = await one(create("edit", domain), make("How long?", ANSWER), ask)
    found = scores(decision)
    assert found["keep", "edit_probability"] == pytest.approx(0.2)
    assert found["keep", "edit_calibrated"] == pytest.approx(0.8)
    assert (decision.action, decision.reason) == ("keep", "introduced_fact")


# what is refused


async def test_a_fact_from_nowhere_is_refused_and_told() -> None:
    sample = make("How long?", ANSWER)
    ask = Gives(Completion(json.dumps(said("edit", "unit", ops=[op("§", "§"), op("21", "45")])), call_id="c"))
    decision = await one(create("edit"), sample, ask)
    assert (decision.action, decision.reason, decision.rewrite) == ("drop", "introduced_fact", None)
    assert decision.evidence["refused"] == {
        "op": 1,
        "reason": "introduced_fact",
        "introduced": {"quantities": ["45"]},
    }
    assert decision.evidence["ops"] == [op("§", "§"), op("21", "45")]


@pytest.mark.parametrize(
    ("ops", "reason"), [([op("21", "45")], "introduced_fact"), ([op("absent", "x")], "edit_refused")]
)
@pytest.mark.parametrize(("chance", "action"), [(0.5, "keep"), (0.49, "drop"), (None, "drop")])
async def test_in_doubt_the_original_is_judged_as_it_was(
    ops: list[Any], reason: str, chance: float | None, action: str
) -> None:
    answer = said("edit", "unit", ops=ops)
    held = {"edit": {"edit": 1 - chance, "keep": chance}} if chance else {}
    given = reply(answer, held) if chance else Completion(json.dumps(answer))
    decision = await one(create("edit"), make("How long?", ANSWER), Gives(given))
    assert (decision.action, decision.reason, decision.rewrite) == (action, reason, None)
    assert decision.evidence["refused"]["reason"] in {"introduced_fact", "absent"}


async def test_queries_may_say_what_no_section_says() -> None:
    schema = Source.create("schema:a", "a.sql", "", "", "CREATE TABLE people (age INT)", "shop")
    sample = Sample.create(
        [
            Message("system", schema.text),
            Message("user", "Who is old?"),
            Message("assistant", "SELECT * FROM people"),
        ],
        [Parent(schema.id, "source")],
        "text_to_sql",
        {"slice": "shop"},
    )
    answer = said("edit", "x", ops=[op("people", " WHERE age > 65 LIMIT 7", "insert")])
    decision = await one(create("edit"), sample, Gives(Completion(json.dumps(answer), call_id="c")))
    assert decision.action == "rewrite"


# edits and rewrites


async def test_a_rewrite_that_changes_little_is_an_edit() -> None:
    answer = said("rewrite", "unit", rewrite="30 days (§ 34-9-80)")
    ask = Gives(Completion(json.dumps(answer), call_id="c"))
    for options in ({}, {"rewrites": False}):
        decision = await one(create("edit", **options), make("How long?", ANSWER), ask)
        assert decision.rewrite is not None
        assert decision.rewrite.operation == "edit"
        assert decision.evidence["ops"] == [op("21", "30")]


async def test_a_rewrite_is_refused_where_none_are_wanted() -> None:
    anew = "Tell them at once, and never later than the law allows."
    ask = Gives(Completion(json.dumps(said("rewrite", "off", rewrite=anew)), call_id="c"))
    decision = await one(create("edit"), make("How long?", ANSWER), ask)
    assert decision.rewrite is not None
    assert (decision.rewrite.operation, decision.rewrite.answer) == ("rewrite", anew)
    decision = await one(create("edit", rewrites=False), make("How long?", ANSWER), ask)
    assert (decision.action, decision.reason) == ("drop", "rewrite_refused")
    assert decision.evidence["refused"]["reason"] == "rewrite"
    assert decision.evidence["refused"]["share_new"] > 0.5


async def test_an_edit_that_leaves_nothing_is_a_rewrite() -> None:
    anew = "Tell them at once, and never later than the law allows."
    ask = Gives(Completion(json.dumps(said("edit", "off", ops=[op(ANSWER, anew)])), call_id="c"))
    decision = await one(create("edit", rewrites=False), make("How long?", ANSWER), ask)
    assert (decision.action, decision.reason) == ("drop", "rewrite_refused")


def test_the_section_itself_is_known() -> None:
    assert "30 days" in NOTICE.text
