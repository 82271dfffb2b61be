"""The steps that read texts alone: personal data, language, refusals, repetition, leftovers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from factory.domain import Domain
from factory.recipe import StepSpec
from factory.refine_file import domain_of
from factory.types import Message, Parent, Sample
from refiners.language import Language, LanguageOptions
from refiners.leftover import Leftover, LeftoverOptions
from refiners.personal import Personal, PersonalOptions
from refiners.personal_patterns import KINDS, find
from refiners.refusal import Refusal, RefusalOptions
from refiners.repetition import Repetition, RepetitionOptions, repetition

ROOT = Path(__file__).parents[1]
# Made for tests: documentation numbers, reserved domains, keys that open nothing.
PERSONAL = [
    ("Write to ann.lee+hr@example.org today.", "email", "ann.lee+hr@example.org"),
    ("Call (404) 656-3784 before noon.", "phone", "(404) 656-3784"),
    ("Call +44 20 7946 0958 before noon.", "phone", "+44 20 7946 0958"),
    ("Pay with 4111 1111 1111 1111 now.", "credit_card", "4111 1111 1111 1111"),
    ("To DE89 3704 0044 0532 0130 00, please.", "iban", "DE89 3704 0044 0532 0130 00"),
    ("Her number is 219-09-9998.", "us_ssn", "219-09-9998"),
    ("It came from 8.8.4.4 at night.", "ip", "8.8.4.4"),
    ("It came from 2001:4860:4860::8888 at night.", "ip", "2001:4860:4860::8888"),
    ("Send it to 1NEDqZPvTWRaoho48qXuLLsrYomMXPABfD.", "crypto_wallet", "1NEDqZPvTWRaoho48qXuLLsrYomMXPABfD"),
    ("postgres://bo:hunter2@db.example.org/x", "url_with_password", "postgres://bo:hunter2@db.example.org/x"),
    ("The key AKIA" + "IOSFODNN7EXAMPLE is old.", "secret", "AKIA" + "IOSFODNN7EXAMPLE"),
    ("ghp_" + "a1B2" * 9 + " was revoked.", "secret", "ghp_" + "a1B2" * 9),
]
HARMLESS = [
    "30 days (§ 34-9-80)",
    "See § 34-9-200.1 and § 34-9-261.",
    "The benefit is $1,234,567 from 2024-01-02 to 12/31/2025.",
    "SELECT id, price FROM bikes WHERE price > 1200.50 AND sold = '2023-04-01'",
    "Version 1.2.3 runs at 127.0.0.1:8000 and 0.0.0.0.",
    "Part no. 4111-1111, page 10-12, 555 of 1000",
    "1234 5678 9012 3456",
    "a@b, me @ home, @user",
]


@pytest.fixture(scope="module")
def domain() -> Domain:
    return domain_of(Path("x.jsonl"), [StepSpec(name="exact")])


def sample(question: str, answer: str, **attributes: str) -> Sample:
    messages = [Message("user", question), Message("assistant", answer)]
    return Sample.create(messages, [Parent("src_1", "source")], "test", attributes)


async def judge(refiner, *samples: Sample):
    decisions = await refiner.refine(samples, None)
    assert [decision.sample_id for decision in decisions] == [each.id for each in samples]
    return decisions


@pytest.mark.parametrize(("text", "kind", "what"), PERSONAL)
def test_personal_data_is_found_where_it_stands(text, kind, what):
    (found,) = find(text, KINDS, ["US"])
    assert (found.kind, text[found.start : found.end]) == (kind, what)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_is_left(text):
    assert find(text, KINDS, ["US", "GB"]) == []


def test_nothing_personal_is_seen_in_the_checked_items_of_the_recipes():
    num_texts = 0
    for path in sorted(ROOT.glob("recipes/*/gold/*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            values = json.loads(line)
            for key in ("question", "answer", "corrected"):
                if isinstance(values.get(key), str):
                    num_texts += 1
                    assert find(values[key], KINDS, ["US", "GB"]) == [], values[key]
    assert num_texts > 1000


async def test_masking_leaves_the_rest_and_changes_nothing_twice(domain):
    refiner = Personal(PersonalOptions(), domain)
    first = sample("Who is ann@example.org?", "Call (404) 656-3784 or ann@example.org.", slice="a", error="e")
    (decision,) = await judge(refiner, first)
    assert (decision.action, decision.reason) == ("rewrite", "personal_data")
    masked = decision.rewrite
    assert masked.question == "Who is <EMAIL>?" and masked.answer == "Call <PHONE> or <EMAIL>."
    assert masked.parents == (Parent(first.id, "rewrite_of"), Parent("src_1", "source"))
    assert masked.attributes == {"slice": "a"}
    (again,) = await judge(refiner, masked)
    assert (again.action, again.reason) == ("keep", "ok") and again.scores[0].value == 0


async def test_evidence_tells_where_and_never_what(domain):
    (decision,) = await judge(Personal(PersonalOptions(), domain), sample("q", "x ann@example.org"))
    assert decision.evidence == {"found": [{"kind": "email", "message": 1, "start": 2, "chars": 15}]}
    assert "ann" not in json.dumps(decision.evidence)


@pytest.mark.parametrize(("action", "expected"), [("flag", "keep"), ("drop", "drop")])
async def test_it_can_be_flagged_or_dropped_instead(domain, action, expected):
    refiner = Personal(PersonalOptions(action=action), domain)
    (decision,) = await judge(refiner, sample("q", "AKIA" + "IOSFODNN7EXAMPLE"))
    assert (decision.action, decision.reason, decision.scores[0].value) == (expected, "secret", 1)


async def test_what_is_allowed_is_nobodys(domain):
    options = PersonalOptions(allow=[r".*@example\.org"], kinds=["email"])
    decisions = await judge(
        Personal(options, domain), sample("q", "a@example.org"), sample("q", "a@example.org b@other.org")
    )
    assert [decision.action for decision in decisions] == ["keep", "rewrite"]
    assert decisions[1].rewrite.answer == "a@example.org <EMAIL>"


@pytest.mark.parametrize("wrong", [{"regions": ["XX"]}, {"allow": ["("]}, {"kinds": []}, {"kinds": ["nose"]}])
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValidationError):
        PersonalOptions(**wrong)


@given(st.text(max_size=200))
def test_findings_never_overlap_and_lie_within_the_text(text):
    found = find(text, KINDS, ["US"])
    ends = [0, *(each.end for each in found)]
    assert all(end <= each.start < each.end <= len(text) for end, each in zip(ends, found, strict=False))


GERMAN = "Wie viele Tage hat ein Arbeitnehmer Zeit, um den Unfall seinem Arbeitgeber zu melden?"
ENGLISH = "How many days does an employee have to tell the employer about the accident at work?"


async def test_another_language_is_dropped_and_doubt_is_not(domain):
    refiner = Language(LanguageOptions(), domain)
    decisions = await judge(
        refiner,
        sample(ENGLISH, "30 days (§ 34-9-80)"),
        sample(ENGLISH, GERMAN),
        sample("Wie lange?", "30 Tage"),  # too short to tell
        sample(ENGLISH, "SELECT straße, größe FROM häuser WHERE größe > 100 AND straße LIKE 'Haupt%'"),
    )
    assert [decision.action for decision in decisions] == ["keep", "drop", "keep", "keep"]
    assert decisions[1].reason == "wrong_language"
    assert decisions[1].evidence["found"] == "de" and decisions[1].evidence["message"] == 1


async def test_several_languages_may_be_wanted(domain):
    refiner = Language(LanguageOptions(languages=["en", "de"]), domain)
    assert [each.action for each in await judge(refiner, sample(ENGLISH, GERMAN))] == ["keep"]
    with pytest.raises(ValidationError, match="klingon"):
        LanguageOptions(languages=["klingon"])


async def test_gold_answers_pass_all_steps(domain):
    refiners = [
        Language(LanguageOptions(), domain),
        Refusal(RefusalOptions(), domain),
        Repetition(RepetitionOptions(), domain),
        Leftover(LeftoverOptions(), domain),
    ]
    for path in sorted(ROOT.glob("recipes/*/gold/test.jsonl")):
        values = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        samples = [sample(each["question"], each["answer"]) for each in values]
        for refiner in refiners:
            for decision, each in zip(await judge(refiner, *samples), samples, strict=True):
                assert decision.action == "keep", (each.messages, decision)


REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot answer this question.",
    "Sorry, as a language model I am unable to say.",
    "As an AI language model, I have no opinion.",
    "Unfortunately, I cannot provide legal advice.",
    "I cannot assist with this request.",
    "Es tut mir leid, aber das kann ich leider nicht beantworten.",
    "Je suis désolé, mais je ne peux pas répondre.",
    "Lo siento, pero no puedo ayudar con eso.",
]
ANSWERS = [
    "The clerk said: I'm sorry, but I can't help you. Then call the board.",
    "You cannot file after 30 days.",
    "Sorry to hear that! File the form within 30 days.",
    "I can help: the limit is 30 days.",
    "An AI language model may not sign the form.",
    "The employer cannot provide a doctor of its own.",
]


@pytest.mark.parametrize("answer", REFUSALS)
async def test_a_refusal_is_dropped_with_its_words(domain, answer):
    (decision,) = await judge(Refusal(RefusalOptions(), domain), sample("q", answer))
    assert (decision.action, decision.reason, decision.evidence["turn"]) == ("drop", "refusal", 1)
    assert decision.evidence["words"]


@pytest.mark.parametrize("answer", ANSWERS)
async def test_an_answer_about_refusing_is_none(domain, answer):
    (decision,) = await judge(Refusal(RefusalOptions(), domain), sample("q", answer))
    assert decision.action == "keep"


async def test_a_wanted_refusal_stays(domain):
    (decision,) = await judge(Refusal(RefusalOptions(), domain), sample("q", REFUSALS[0], answerable="no"))
    assert decision.action == "keep"


LONG = " ".join(f"word{number}" for number in range(80))


@pytest.mark.parametrize(
    ("text", "measure"),
    [
        ("The limit is thirty days. " * 6, "loop"),
        ("It begins well and then " + "goes on and on, " * 30, "loop"),
        ("\n".join(["file the form", "call the board"] * 3 + ["wait a day"]), "lines"),
        (" ".join(f"the big red house number {number} stands" for number in range(30)), "2 words"),
    ],
)
def test_repetition_is_measured(text, measure):
    found = repetition(text)
    assert found["measure"] == measure and found["words"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30 days",
        LONG,
        "a\nb\nc\nd\ne",
        "-" * 400,
        "1. yes\n2. no\n3. yes\n4. maybe",
        "no no no",
        "ha" * 8,
    ],
)
def test_plain_texts_repeat_nothing(text):
    assert repetition(text) == {}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Question: How long? Answer: 30 days", "leftover_prompt"),
        ("Sure! Here is the answer: 30 days", "leftover_prompt"),
        ("Here is the requested JSON: {}", "leftover_prompt"),
        ("Dear {{ name }}, the limit is 30 days.", "leftover_prompt"),
        ("The limit is [insert number of days] days.", "leftover_prompt"),
        ("Okay, so the user is asking about days.", "leftover_reasoning"),
        ("Let me think. The limit is 30 days.", "leftover_reasoning"),
        ("I need to figure out the limit first.", "leftover_reasoning"),
    ],
)
async def test_what_belongs_to_the_making_is_dropped(domain, answer, reason):
    (decision,) = await judge(Leftover(LeftoverOptions(), domain), sample("q", answer))
    assert (decision.action, decision.reason) == ("drop", reason) and decision.evidence["words"]


@pytest.mark.parametrize(
    "answer",
    [
        "The question is whether notice was given: within 30 days.",
        "Here the limit is 30 days.",
        "Use the template {name} in Python.",
        "So the claim is late.",
        "[1] See the form.",
        "A claim is answered within 30 days.",
    ],
)
async def test_plain_answers_hold_no_leftovers(domain, answer):
    (decision,) = await judge(Leftover(LeftoverOptions(), domain), sample("q", answer))
    assert decision.action == "keep", decision
