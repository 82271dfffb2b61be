"""Refiners and samples of several sections, or of a question that no section answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from strategy_kit import domain_of

from factory.domain import Domain
from factory.prompts import render
from factory.recipe import DomainSpec, Recipe, StrategySpec
from factory.registry import create
from factory.types import Completion, Decision, Message, Parent, Sample, Source
from refiners.source import KnownSources

NOTICE = Source.create("notice", "h.md", "§ 1", "Notice", "Notice of an accident is due within 30 days.", "a")
CLAIM = Source.create("claim", "h.md", "§ 2", "Claim", "A claim is filed with the board within 1 year.", "b")
PLAIN = Source.create("plain", "h.md", "", "Doctors", "The employer posts a panel of six physicians.", "b")
DOMAIN = domain_of(sources=(NOTICE, CLAIM, PLAIN))
RECIPE: Recipe = DOMAIN.recipe.model_copy(
    update={"domain": DomainSpec(title="Law", citation_pattern=r"§ \d+")}
)
LAW = replace(DOMAIN, recipe=RECIPE)


def sample(
    question: str, answer: str, sections: Sequence[Source] = (NOTICE, CLAIM), **attributes: str
) -> Sample:
    keys = " ".join(section.key for section in sections)
    known = {"slice": "a", "source_key": sections[0].key, **({"source_keys": keys} if " " in keys else {})}
    parents = [*(Parent(section.id, "source") for section in sections), Parent("call_1", "call")]
    messages = [Message("user", question), Message("assistant", answer)]
    return Sample.create(messages, parents, "grounded", {**known, **attributes})


async def decide(name: str, one: Sample, domain: Domain = LAW, reply: str = "", **options: Any) -> Decision:
    async def ask(messages: Sequence[Message], **_: Any) -> Completion:
        assert reply, "no model may be asked"
        asked.append(messages[-1].content)
        return Completion(reply, call_id="call_r")

    asked.clear()
    refiner = create("refiners", StrategySpec.model_validate({"name": name, **options}), domain)
    (decision,) = await refiner.refine([one], ask)
    return decision  # type: ignore[no-any-return]


asked: list[str] = []


def test_all_sections_are_known_in_the_order_of_the_sample() -> None:
    both = sample("Q?", "A", (CLAIM, NOTICE))
    shuffled = replace(both, parents=tuple(reversed(both.parents)))  # a table has no order
    for each in (both, shuffled):
        assert KnownSources(LAW).all_of(each) == (CLAIM, NOTICE)
        assert KnownSources(LAW).of(each) == CLAIM


def test_a_section_that_changed_since_is_found_by_its_key() -> None:
    edited = replace(
        LAW, sources=(NOTICE, Source.create("claim", "h.md", "§ 2", "Claim", "In 2 years.", "b"))
    )
    assert [each.text for each in KnownSources(edited).all_of(sample("Q?", "A"))] == [
        NOTICE.text,
        "In 2 years.",
    ]


# citation


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("30 days and 1 year (§ 1, § 2)", "ok"),
        ("30 days (§ 1), then 1 year", "missing_citation"),
        ("30 days and 1 year (§ 1, § 2, § 3)", "wrong_citation"),
        ("30 days and 1 year (§ 2, § 3)", "wrong_citation"),
        ("30 days and 1 year", "missing_citation"),
    ],
)
async def test_every_section_must_be_cited_and_no_other(answer: str, reason: str) -> None:
    decision = await decide("citation", sample("Q?", answer))
    assert decision.reason == reason
    if reason != "ok":
        assert decision.evidence["source"] == "§ 1; § 2"


async def test_a_section_without_a_citation_need_not_be_cited() -> None:
    """Sections of a PDF have none."""
    assert (await decide("citation", sample("Q?", "Six.", (PLAIN,)))).reason == "not_applicable"
    assert (await decide("citation", sample("Q?", "Six (§ 1).", (PLAIN, NOTICE)))).reason == "ok"
    assert (await decide("citation", sample("Q?", "Six.", (PLAIN, NOTICE)))).reason == "missing_citation"
    assert (await decide("citation", sample("Q?", "Six (§ 9).", (PLAIN, NOTICE)))).reason == "wrong_citation"


async def test_what_no_section_answers_cites_none() -> None:
    no = sample("Who pays the board?", "The handbook does not say.", (CLAIM,), answerable="no")
    assert (await decide("citation", no)).reason == "not_applicable"


# round_trip


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("Within how many days is notice of an accident due?", "ok"),
        ("Is a claim filed with the board within a year?", "ok"),
        ("How many physicians are on the panel that the employer posts?", "other_source"),
        ("Wie schnell fliegt eine Schwalbe?", "no_source"),
    ],
)
async def test_a_question_must_lead_to_one_of_its_sections(question: str, reason: str) -> None:
    decision = await decide("round_trip", sample(question, "A"))
    assert decision.reason == reason
    if reason == "other_source":
        assert decision.evidence == {"source": "notice claim", "found": "plain"}


async def test_an_unanswerable_question_must_lead_to_its_own_section() -> None:
    """One that leads elsewhere may be answered there."""
    question = "Which physicians are on the panel?"
    assert (await decide("round_trip", sample(question, "No.", (PLAIN,), answerable="no"))).reason == "ok"
    assert (
        await decide("round_trip", sample(question, "No.", (CLAIM,), answerable="no"))
    ).reason == "other_source"


# edit


async def test_the_refiner_sees_every_section_and_its_edit_descends_from_all() -> None:
    reply = {
        "verdict": "edit",
        "ops": [{"op": "replace", "old": "20", "new": "30"}],
        "reason": "wrong_quantity",
    }
    one = sample("Q?", "20 days and 1 year")
    decision = await decide("edit", one, reply=json.dumps(reply))
    (prompt,) = asked
    assert prompt.index(NOTICE.text) < prompt.index(CLAIM.text) < prompt.index("Question: Q?")
    child = decision.rewrite
    assert child is not None and child.answer == "30 days and 1 year"
    assert [parent for parent in child.parents if parent.relation == "source"] == [
        Parent(NOTICE.id, "source"), Parent(CLAIM.id, "source")
    ]  # fmt: skip
    assert child.attributes["source_keys"] == "notice claim"


def test_with_one_section_the_prompt_is_what_refiners_were_trained_on() -> None:
    text = render("refiners", "edit", style="", source=NOTICE, question="Q?", answer="A")
    assert text.endswith(
        "\n\n§ 1 Notice\nNotice of an accident is due within 30 days.\n\nQuestion: Q?\nAnswer: A"
    )


# near


async def test_the_same_question_about_the_same_sections_in_another_order_is_a_duplicate() -> None:
    question = "Within how many days is notice due and within how many years is a claim filed with the board?"
    refiner = create("refiners", StrategySpec(name="near"), LAW)
    refiner.open([])
    first, second = sample(question, "30 and 1."), sample(question.upper(), "30 and 1.", (CLAIM, NOTICE))
    decisions = await refiner.refine([first, second], None)
    assert [decision.reason for decision in decisions] == ["ok", "near_duplicate"]


async def test_unanswerable_questions_share_their_answer_and_are_no_duplicates() -> None:
    refiner = create("refiners", StrategySpec(name="near"), LAW)
    refiner.open([])
    answer = (
        "The handbook says nothing about this matter; please ask the clerk of the board in writing, with "
        "your name, the number of your file and all that you know, and wait ten days for what she answers."
    )
    first = sample("Who pays the board?", answer, (CLAIM,), answerable="no")
    other = sample("Who pays the judge?", answer, (CLAIM,), answerable="no")
    again = sample("And who pays the board?", answer, (CLAIM,), answerable="no")
    decisions = await refiner.refine([first, other, again], None)
    assert [decision.reason for decision in decisions] == ["ok", "ok", "near_duplicate"]
