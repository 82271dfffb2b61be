"""What has several turns, and what descends from another sample, is understood by every refiner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from edited import with_answer
from test_refiners import CLAIM, NOTICE, Replies, create, make, make_domain, no_model, one, op, reasons, said

from factory.errors import EndpointError
from factory.types import GoldItem, Message, Parent, Sample

START = [
    ("When must I give notice?", "Within 30 days (§ 34-9-80)."),
    ("To whom?", "To the employer (§ 34-9-80)."),
]
LONG_ANSWER = " ".join(f"word{number} says what must be done" for number in range(40)) + " (§ 34-9-80)"


def talk(
    turns: Sequence[tuple[str, str]],
    number: int = 0,
    *,
    system: str = "",
    parents: Sequence[Parent] = (),
    **attributes: str,
) -> Sample:
    messages = [Message("system", system)] if system else []
    for question, answer in turns:
        messages += [Message("user", question), Message("assistant", answer)]
    given = {"slice": "notice", "source_key": "34-9-80", **attributes}
    return Sample.create(messages, parents or [Parent(f"call_{number}", "call")], "dialogue", given)


def reworded(sample: Sample, *questions: str) -> Sample:
    texts = iter(questions)
    messages = [Message("user", next(texts)) if m.role == "user" else m for m in sample.messages]
    attributes = {"original": sample.id, **sample.attributes}
    return Sample.create(messages, [Parent(sample.id, "derived_from")], "paraphrase", attributes)


# form


@pytest.mark.parametrize(
    ("sample", "reason", "evidence"),
    [
        (talk(START), "ok", {}),
        (talk(START, system="Be brief."), "ok", {}),
        (talk([("", "Hello!"), *START]), "empty_question", {"turn": 1}),
        (talk([*START, ("Thanks!", " ")]), "empty_answer", {"turn": 3}),
        (
            talk([("q" * 2001, "Yes."), *START]),
            "question_too_long",
            {"chars": 2001, "limit": 2000, "turn": 1},
        ),
        (talk([("Why?", "a" * 4001), *START]), "answer_too_long", {"chars": 4001, "limit": 4000, "turn": 1}),
        (
            talk([START[0], ("user: And then?", "Nothing."), START[1]]),
            "leftover_markup",
            {"part": "question", "markup": "user:", "turn": 2},
        ),
    ],
)
async def test_form_looks_at_every_turn(sample: Sample, reason: str, evidence: dict[str, Any]) -> None:
    decision = await one(create("form"), sample)
    assert (decision.reason, decision.evidence) == (reason, evidence)


@pytest.mark.parametrize(
    "roles",
    [
        ["user", "assistant", "user"],
        ["assistant", "user", "assistant"],
        ["user", "user", "assistant"],
        ["user", "system", "assistant"],
        ["user", "assistant", "assistant"],
    ],
)
async def test_form_wants_turns_in_turn(roles: list[Any]) -> None:
    sample = Sample.create([Message(role, f"text {n}") for n, role in enumerate(roles)], [], "dialogue", {})
    assert (await one(create("form"), sample)).reason == "turns_out_of_order"


async def test_form_looks_at_the_system_message() -> None:
    decision = await one(create("form"), talk(START, system="<|im_start|>Be brief."))
    assert (decision.reason, decision.evidence["part"]) == ("leftover_markup", "system")


# exact and near


async def test_conversations_that_end_alike_are_no_duplicates() -> None:
    end = ("Thank you!", "You are welcome.")
    samples = [talk([START[0], end], 1), talk([START[1], end], 2), talk([START[0], end], 3)]
    assert await reasons(create("exact"), samples) == ["ok", "ok", "exact_duplicate"]
    assert await reasons(create("near"), samples) == ["ok", "ok", "near_duplicate"]


async def test_a_conversation_is_no_duplicate_of_the_same_turns_one_by_one() -> None:
    samples = [talk(START[1:], 1), talk(START, 2), talk(START[:1], 3)]
    assert await reasons(create("exact"), samples) == ["ok", "ok", "ok"]
    assert await reasons(create("near"), samples) == ["ok", "ok", "ok"]


async def test_a_system_message_counts() -> None:
    samples = [talk(START, 1), talk(START, 2, system="Be brief."), talk(START, 3, system="be brief")]
    assert await reasons(create("exact"), samples) == ["ok", "ok", "exact_duplicate"]


async def test_near_compares_the_numbers_of_all_answers() -> None:
    other = [("When must I give notice?", "Within 31 days (§ 34-9-80)."), START[1]]
    assert await reasons(create("near"), [talk(START, 1), talk(other, 2)]) == ["ok", "ok"]
    near = [("When must I give notice?!", "Within 30 days (§ 34-9-80)."), START[1]]
    assert await reasons(create("near"), [talk(START, 1), talk(near, 2)]) == ["ok", "near_duplicate"]


async def test_a_derived_sample_that_says_the_same_is_a_duplicate() -> None:
    first = make("How long have I got?", LONG_ANSWER)
    same, almost = reworded(first, "how long have I got"), reworded(first, "So how long have I got?")
    assert await reasons(create("exact"), [first, same, almost]) == ["ok", "exact_duplicate", "ok"]
    assert await reasons(create("near"), [first, same]) == ["ok", "near_duplicate"]
    question = "within what time must an accident at work be told to the employer by the one hurt?"
    other = make(question, LONG_ANSWER)
    near = reworded(other, f"So {question}")
    assert await reasons(create("near"), [other, near]) == ["ok", "near_duplicate"]


async def test_the_same_answer_to_a_question_in_other_words_is_no_duplicate() -> None:
    """However long the answer is: that it recurs is what a paraphrase is."""
    refiner = create("near")
    first = make("How long have I got?", LONG_ANSWER)
    second, third = reworded(first, "What is the term?"), reworded(first, "By when must it be done?")
    assert await reasons(refiner, [first, second, third]) == ["ok", "ok", "ok"]
    edited = with_answer(first, LONG_ANSWER + " !")
    second_edited = with_answer(second, LONG_ANSWER + " .")
    assert await reasons(refiner, [edited, second_edited]) == ["ok", "ok"]
    stranger = make("What may be the term?", LONG_ANSWER, 7)
    assert await reasons(refiner, [stranger]) == ["near_duplicate"]


async def test_paraphrases_are_known_again_when_a_run_goes_on() -> None:
    first = make("How long have I got?", LONG_ANSWER)
    refiner = create("near")
    refiner.open([first, with_answer(first, LONG_ANSWER + " !")])
    assert await reasons(refiner, [reworded(first, "What is the term?")]) == ["ok"]


# contamination


async def test_contamination_finds_a_question_or_answer_in_any_turn() -> None:
    long = "A claim is barred where nobody asked for a hearing within one year of the last payment"
    domain = make_domain(
        dev=(GoldItem("dev-1", "Which term does a widow have for her claim?", "1 year", "claims"),),
        test=(GoldItem("test-1", "What bars it?", long, "claims"),),
    )
    refiner = create("contamination", domain)
    asked = talk([("Which term does a widow have for her claim?", "One year."), *START], 1)
    answered = talk([("Tell me more.", long + "!"), *START], 2)
    found = await refiner.refine([asked, answered, talk(START)], no_model)
    assert [decision.reason for decision in found] == ["contaminated", "contaminated", "ok"]
    assert [decision.evidence.get("item") for decision in found] == ["dev-1", "test-1", None]


# citation


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([*START, ("Thanks!", "You are welcome.")], "ok"),
        ([("When?", "Within 30 days."), ("To whom?", "To the employer.")], "missing_citation"),
        ([("When?", "Within 30 days (§ 34-9-82)."), START[1]], "wrong_citation"),
        ([("When?", "Within 30 days (34-9-80)."), ("To whom?", "The employer.")], "malformed_citation"),
    ],
)
async def test_a_conversation_cites_its_section_somewhere_and_no_other(turns: Any, reason: str) -> None:
    assert (await one(create("citation"), talk(turns))).reason == reason


# edit

WRONG = [("When must I give notice?", "Within 21 days."), ("To whom?", "To the employer.")]


async def test_edit_asks_about_every_answer_in_its_conversation() -> None:
    ask = Replies(said("keep"), said("keep"))
    decision = await one(create("edit"), talk(WRONG, system="Be brief."), ask)
    head = (
        "Check the answer against the section and correct it, as JSON.\n\n"
        "§ 34-9-80 Notice\nNotice of the accident is due within 30 days.\n\n"
    )
    first = f"{head}Question: When must I give notice?\nAnswer: Within 21 days."
    second = (
        f"{head}Earlier question: When must I give notice?\nEarlier answer: Within 21 days.\n"
        "Question: To whom?\nAnswer: To the employer."
    )
    assert ask.prompts == [first, second]
    assert (decision.action, decision.reason, decision.rewrite) == ("keep", "ok", None)
    assert decision.evidence["calls"] == ["call_e1", "call_e2"] and "call" not in decision.evidence


async def test_edit_mends_an_early_answer_and_keeps_the_rest() -> None:
    sample = talk(WRONG, system="Be brief.")
    ask = Replies(said("edit", "wrong_quantity", ops=[op("21", "30")]), said("keep"))
    decision = await one(create("edit"), sample, ask)
    assert (decision.action, decision.reason) == ("rewrite", "wrong_quantity")
    child = decision.rewrite
    assert child is not None and child.operation == "edit" and child.attributes == sample.attributes
    assert child.messages == talk([(WRONG[0][0], "Within 30 days."), WRONG[1]], system="Be brief.").messages
    assert child.parents == (
        Parent(sample.id, "rewrite_of"),
        Parent("call_e1", "call"),
        Parent("call_e2", "call"),
        Parent(NOTICE.id, "source"),
    )
    assert [turn["action"] for turn in decision.evidence["turns"]] == ["rewrite", "keep"]


async def test_edit_mends_several_answers_at_once() -> None:
    anew = said("rewrite", "off", rewrite="It is your boss who must know.")
    ask = Replies(said("edit", "unit", ops=[op("21", "30")]), anew)
    decision = await one(create("edit"), talk(WRONG), ask)
    assert decision.rewrite is not None and decision.rewrite.operation == "rewrite"
    assert decision.rewrite.texts("assistant") == ("Within 30 days.", "It is your boss who must know.")
    assert decision.reason == "unit"


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([said("drop", "off_source"), said("keep")], "off_source"),
        ([said("edit", ops=[op("21", "30")]), said("drop", "off_source")], "off_source"),
        ([said("keep"), said("edit", ops=[op("absent", "x")])], "edit_refused"),
        ([said("keep"), "nonsense"], "refiner_unreadable"),
        ([EndpointError("too long", kind="refused"), said("keep")], "refiner_failed"),
    ],
)
async def test_one_answer_that_must_go_takes_the_conversation_along(replies: Any, reason: str) -> None:
    decision = await one(create("edit"), talk(WRONG), Replies(*replies))
    assert (decision.action, decision.reason, decision.rewrite) == ("drop", reason, None)


async def test_a_conversation_scores_as_its_worst_answer() -> None:
    low = said("keep", scores={"grounded": 0.25, "form": 1})
    decision = await one(create("edit"), talk(WRONG), Replies(low, said("keep")))
    assert [(score.metric, score.value) for score in decision.scores] == [("grounded", 0.25), ("form", 0)]
    decision = await one(create("edit"), talk(WRONG), Replies(low, "nonsense"))
    assert [score.value for score in decision.scores] == [None, None]


async def test_the_section_of_a_conversation_is_found_by_all_its_questions() -> None:
    sample = talk(
        [("By when is a claim filed?", "1 year"), ("Thanks!", "Welcome.")], source_key="", slice="claims"
    )
    decision = await one(create("edit"), sample, Replies(said("keep"), said("keep")))
    assert decision.evidence["source"] == CLAIM.id
