"""What a text says that no training example should: personal data, secrets, refusals, loops, leftovers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from strategy_kit import domain_of

from factory.errors import RecipeError
from factory.load import load
from factory.types import Decision, Message, Parent, Sample, Source
from refiners.language import Language, LanguageOptions, guess_language
from refiners.leftover import Leftover, LeftoverOptions
from refiners.personal import Personal, PersonalOptions
from refiners.personal_patterns import KINDS, find
from refiners.refusal import Refusal, RefusalOptions, find_refusal
from refiners.repetition import Repetition, RepetitionOptions, find_loop, worst_repetition

ROOT = Path(__file__).parents[1]
REGIONS = ("US", "GB")
VALUES = {
    "email": ["jane.doe@example.org", "o'brien+tag@mail.co.uk"],
    "phone": ["(212) 555-0123", "+49 30 901820", "404-656-3870", "020 7946 0958"],
    "credit_card": ["4111 1111 1111 1111", "5555555555554444", "3782-822463-10005"],
    "iban": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "national_id": ["123-45-6789", "RSSMRA85T10A562S", "12345678Z", "AB 12 34 56 C", "123.456.789-09"],
    "ip_address": ["93.184.216.34", "2001:4860:4860::8888"],
    "crypto_wallet": [
        "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa",
        "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq",
        "0x52908400098527886E0F7030069857D2E4169EE7",
    ],
    "url_credentials": ["postgres://admin:s3cr3t@db.internal:5432", "https://me:pa55word@host.org"],
    "secret": [
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "sk-ant-api03-abcdefghijklmnopqrstuvwxyz",
        "hf_abcdefghijklmnopqrstuvwxyz01234567",
        "xoxb-123456789012-1234567890123-abcdefghijklmnopqrstuvwx",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----",
    ],
}
HARMLESS = [
    "30 days (§ 34-9-80)",
    "O.C.G.A. §§ 34-9-261, 34-9-262 and 34-9-263 (2024-07-01)",
    "select sum(price) from repair where id in (1002003004, 2003004005) and hours > 12.5",
    "Version 1.12.134.200 of the rule, section 12.134.12.11, at 12:30:45 on 2024-05-12.",
    "The password is required. A key is 12345678, and the token economy grew by 100000000000.",
    "4111 1111 1111 1112 is a number and 4155552671 an order; DE89 3704 0044 0532 0130 01 is none.",
    "Reply within 10-15 business days; the fee is 1,234,567.89 dollars or 3 × 10 000 000.",
    "Use std::vector, a::b, @app.route and user@localhost; see https://host.org/a/b?page=2.",
    "ISBN 978-3-16-148410-0, DOI 10.1000/182, 8.8.8.8, 192.168.100.200 and 127.0.0.1",
]


def sample(answer: str, question: str = "What is due?", **attributes: str) -> Sample:
    turns = [Message("user", question), Message("assistant", answer)]
    return Sample.create(turns, [Parent("src_1", "source"), Parent("call_1", "call")], "grounded", attributes)


async def decide(refiner: Any, *samples: Sample) -> list[Decision]:
    async def no_model(*_: Any, **__: Any) -> Any:
        raise AssertionError

    decisions: list[Decision] = await refiner.refine(samples, no_model)
    assert [each.sample_id for each in decisions] == [each.id for each in samples]
    return decisions


def personal(**options: Any) -> Personal:
    return Personal(PersonalOptions(**options), domain_of())


def gold() -> list[tuple[str, str]]:
    found = []
    for path in sorted(ROOT.glob("recipes/*/gold/*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            item = json.loads(line)
            found.append((item["question"], item.get("corrected") or item["answer"]))
    return found


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind in KINDS for value in VALUES[kind]])
def test_each_kind_is_found_where_it_stands(kind: str, value: str) -> None:
    text = f"You may use {value} for that, she said."
    found = [(each.kind, text[each.start : each.end]) for each in find(text, KINDS, REGIONS)]
    assert len(found) == 1 and found[0][0] == kind
    assert found[0][1] == (value.removeprefix("o'") if kind == "email" else value)
    assert find(text, [other for other in KINDS if other != kind and other not in ("secret", "email")]) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("password: hunter2hunter2", "hunter2hunter2"),
        ("the password is correct1horse.", "correct1horse"),
        ('"api_key": "abcd1234efgh5678"', "abcd1234efgh5678"),
        ("https://api.host.org/v1?token=abc123def456ghi7", "abc123def456ghi7"),
    ],
)
def test_what_is_called_a_password_or_key_is_a_secret(text: str, value: str) -> None:
    assert [text[each.start : each.end] for each in find(text) if each.kind == "secret"] == [value]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert find(text, KINDS, REGIONS) == []


async def test_no_step_touches_a_checked_example() -> None:
    samples = [sample(answer, question) for question, answer in gold()]
    domain = load(ROOT / "recipes/georgia_workers_comp", "tiny")
    steps = [
        personal(),
        Refusal(RefusalOptions(), domain),
        Repetition(RepetitionOptions(), domain),
        Leftover(LeftoverOptions(), domain),
        Language(LanguageOptions(), domain),
    ]
    assert len(samples) > 1000
    for step in steps:
        hit = [(each, decision) for each, decision in zip(samples, await decide(step, *samples), strict=True)]
        assert [each.answer for each, decision in hit if decision.action != "keep"] == []


async def test_a_masked_sample_says_so_and_is_left_alone_after() -> None:
    tools = '[{"function": {"name": "mail", "description": "as boss@firm.com"}}]'
    given_ = sample(
        "Call (212) 555-0123 or write to a.b@firm.com.",
        "I am c@d.io",
        tools=tools,
        rejected="x@y.com",
        error="e",
    )
    (decision,) = await decide(personal(), given_)
    masked = decision.rewrite
    assert (decision.action, decision.reason) == ("rewrite", "personal_data") and masked is not None
    assert masked.answer == "Call <PHONE> or write to <EMAIL>." and masked.question == "I am <EMAIL>"
    assert masked.attributes == {"tools": tools.replace("boss@firm.com", "<EMAIL>"), "rejected": "<EMAIL>"}
    assert masked.parents == (Parent(given_.id, "rewrite_of"), Parent("src_1", "source"))
    assert decision.scores[0].value == decision.evidence["num_found"] == 5
    places = [(each["kind"], each["part"], each.get("message")) for each in decision.evidence["found"]]
    assert places == [
        ("email", "question", 0),
        ("phone", "answer", 1),
        ("email", "answer", 1),
        ("email", "tools", None),
        ("email", "rejected", None),
    ]
    (again,) = await decide(personal(), masked)
    assert (again.action, again.reason) == ("keep", "ok")


@pytest.mark.parametrize(("action", "expected"), [("flag", "keep"), ("drop", "drop")])
async def test_it_can_be_flagged_or_dropped_and_a_secret_is_named_so(action: str, expected: str) -> None:
    samples = [
        sample("Write to a@b.com."),
        sample("Write to a@b.com with AKIAIOSFODNN7EXAMPLE."),
        sample("No."),
    ]
    found = await decide(personal(action=action), *samples)
    assert [each.action for each in found] == [expected, expected, "keep"]
    assert [each.reason for each in found] == ["personal_data", "secret", "ok"]
    assert [each.scores[0].value for each in found] == [1, 2, 0]


async def test_public_addresses_and_other_kinds_can_be_let_be() -> None:
    one = sample("Write to info@agency.gov or (212) 555-0123.")
    found = await decide(personal(allow=[r".*@agency\.gov"], kinds=["email"]), one)
    found += await decide(personal(allow=[r"agency\.gov"], kinds=["email"]), one)
    found += await decide(personal(kinds=["phone"], regions=[]), one)
    assert [each.action for each in found] == ["keep", "rewrite", "keep"]
    for wrong in ({"allow": ["("]}, {"regions": ["XX"]}, {"kinds": ["name"]}, {"kinds": []}):
        with pytest.raises(ValidationError):
            PersonalOptions(**wrong)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([value for values in VALUES.values() for value in values])
        | st.text(st.sampled_from("ab1 4@.:-/\n(+"), max_size=12),
        max_size=6,
    )
)
async def test_masking_leaves_nothing_to_mask_and_evidence_never_repeats(parts: list[str]) -> None:
    (decision,) = await decide(personal(), sample(" ".join(parts) or "x"))
    if decision.rewrite:
        (again,) = await decide(personal(), decision.rewrite)
        assert again.action == "keep"
    told = json.dumps(decision.evidence)
    assert not [value for values in VALUES.values() for value in values if json.dumps(value)[1:-1] in told]


DECLINED = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot assist with that request.",
    "I can’t provide legal advice.",
    "As an AI language model, I have no body.",
    "Sorry, I am unable to answer.",
    "Unfortunately, I won't be able to complete this request.",
    "30 days.\n\nAs an AI, I may be wrong.",
    "Es tut mir leid, aber das kann ich nicht beantworten.",
    "Je suis désolé, mais je ne peux pas répondre.",
    "Lo siento, pero no puedo ayudar con eso.",
]
ANSWERED = [
    "A model that says \"I'm sorry, but I can't help with that.\" declines.",
    "Unfortunately, the claim is barred after a year.",
    "An employer cannot provide less than the minimum.",
    "I'm sorry, but I can't make it on Friday.",
    "Sorry, we are closed.",
    "An AI language model predicts tokens.",
]


@pytest.mark.parametrize("answer", DECLINED)
async def test_a_refusal_is_dropped_with_its_words(answer: str) -> None:
    (decision,) = await decide(Refusal(RefusalOptions(), domain_of()), sample(answer))
    assert (decision.action, decision.reason) == ("drop", "refusal")
    assert decision.evidence["words"] in answer.replace("’", "'")


@pytest.mark.parametrize("answer", ANSWERED)
def test_an_answer_about_refusing_is_none(answer: str) -> None:
    assert find_refusal(answer) == ""


async def test_a_refusal_that_was_asked_for_stays() -> None:
    wanted = sample(DECLINED[0], answerable="no")
    allowed = Refusal(RefusalOptions(allow=["help with that"]), domain_of())
    found = await decide(Refusal(RefusalOptions(), domain_of()), wanted, sample(DECLINED[0]))
    found += await decide(allowed, sample(DECLINED[0]))
    assert [each.action for each in found] == ["keep", "drop", "keep"]


@pytest.mark.parametrize("times", [3, 4, 9])
@pytest.mark.parametrize("rest", ["", "The valve is"])
def test_a_loop_at_the_end_is_found_however_it_breaks_off(times: int, rest: str) -> None:
    found = find_loop("Open it slowly and wait. " + "The valve is open. " * times + rest, 4)
    assert bool(found) == (times >= 4)
    assert bool(find_loop("The valve is open.\n" * times, 4)) == (times >= 4)


@settings(deadline=None)
@given(st.text("abc ", min_size=1, max_size=40), st.text("xyz ", max_size=60), st.integers(4, 8))
def test_every_loop_that_is_long_enough_is_found(unit: str, before: str, times: int) -> None:
    loop = (unit * times).rstrip()
    if len(loop) >= 40 and len(loop) >= len(unit) * 4 and loop.strip():
        assert find_loop(before + loop, 4)


@pytest.mark.parametrize(
    ("measure", "text"),
    [
        ("repeated_lines", "\n".join(["Turn the key.", "Wait for the light to go out again."] * 9)),
        ("top_2_words", "the valve " * 20 + " ".join(f"w{n}" for n in range(40))),
        ("repeated_10_words", " ".join(f"word{n % 40}" for n in range(80))),
    ],
)
def test_gophers_rules_hold_from_fifty_words_on(measure: str, text: str) -> None:
    found = worst_repetition(text)
    assert found and found.ratio >= 1 and found.words
    short = " ".join(text.split()[:49])
    assert worst_repetition(short) is None and measure.startswith(("top", "repeated"))


async def test_repetition_is_dropped_with_what_is_repeated_and_json_is_not() -> None:
    steps = "\n".join(f"{n}. Open valve {n} and note what gauge {n + 7} shows." for n in range(3))
    calls = json.dumps([{"name": "set_heat", "arguments": {"heat": n}} for n in range(30)])
    loop = "Yes. " + "It is due then. " * 8
    refiner = Repetition(RepetitionOptions(), domain_of())
    found = await decide(refiner, sample(steps), sample(calls), sample(loop))
    assert [each.reason for each in found] == ["ok", "ok", "repetition"]
    assert found[2].evidence["measure"] == "loop" and found[2].scores[0].value > 1


LEFT_OVER = [
    ("leftover_reasoning", "Okay, the user wants a question about boats."),
    ("leftover_reasoning", "<think>The fee is"),
    ("leftover_reasoning", "Hmm, the section says 30 days."),
    ("leftover_reasoning", "Let me think. The fee is due."),
    ("leftover_prompt", "Here is the JSON you asked for:\n{}"),
    ("leftover_prompt", "Sure! Here's the rewritten answer: 30 days"),
    ("leftover_prompt", "Answer: 30 days"),
    ("leftover_prompt", "30 days.\nQuestion: What else is due?"),
    ("leftover_prompt", "Dear {{name}}, the fee is due."),
    ("leftover_prompt", "It is due on [INSERT DATE HERE]."),
    ("leftover_prompt", "Write one question that a reader could ask about this section, and its answer"),
    ("ok", "Use `{{ name }}` in the template, or `[insert x]`."),
    ("ok", "```jinja\n{{ name }}\n```"),
    ("ok", "So the tax is due in May. The answer: it depends."),
    ("ok", "Okay, the fee is 3 dollars [1]."),
    ("ok", "The user's account is locked; f({{1}}) = \\frac{{a}}{b}."),
    ("ok", "A question that a reader could ask is when."),
]


@pytest.mark.parametrize(("reason", "answer"), LEFT_OVER)
async def test_what_is_left_of_the_making_is_dropped_with_its_words(reason: str, answer: str) -> None:
    (decision,) = await decide(Leftover(LeftoverOptions(), domain_of()), sample(answer))
    assert decision.reason == reason
    if reason != "ok":
        words = re.findall(r"\w+", decision.evidence["words"].casefold())
        assert words and set(words) <= set(re.findall(r"\w+", answer.casefold()))


def test_every_prompt_of_the_strategies_is_known() -> None:
    refiner = Leftover(LeftoverOptions(), domain_of())
    for path in sorted((ROOT / "generators").glob("*.jinja")):
        text = re.sub(r"\{[{%].*?[}%]\}", "\n", path.read_text("utf-8"), flags=re.DOTALL)
        if longest := [part for part in text.split("\n") if len(part.split()) > 20]:
            message = Message("assistant", max(longest, key=len).strip())
            assert refiner._fault(message)[0] == "leftover_prompt", path.name


GERMAN = (
    "Der Arbeitgeber muss innerhalb von dreißig Tagen benachrichtigt werden, sonst verfällt der Anspruch."
)
ENGLISH = (
    "The employer must be told of the accident within thirty days, or else the claim is barred for good."
)


async def test_another_language_is_dropped_and_what_is_short_or_code_is_not() -> None:
    refiner = Language(LanguageOptions(languages=["en"]), domain_of())
    texts = [
        ENGLISH,
        GERMAN,
        "Dreißig Tage.",
        "select teil from reparatur where preis > 90 order by preis desc",
    ]
    texts += [json.dumps({"antwort": GERMAN}), f"```\n{GERMAN}\n```"]
    found = await decide(refiner, *map(sample, texts))
    assert [each.reason for each in found] == ["ok", "wrong_language", *["not_applicable"] * 4]
    evidence = dict(found[1].evidence)
    assert evidence.pop("confidence") > 0.9
    assert evidence == {"expected": ["en"], "found": "de", "part": "answer"}
    assert found[0].scores[0].value > 0.9 and found[1].scores[0].value < 0.01 and found[2].scores == ()
    (both,) = await decide(Language(LanguageOptions(languages=["en", "de"]), domain_of()), sample(GERMAN))
    assert both.action == "keep"


async def test_the_language_is_that_of_the_sources_unless_given() -> None:
    source = Source.create("s", "s.md", "§ 1", "Eins", GERMAN, "a")
    refiner = Language(LanguageOptions(), domain_of(sources=[source]))
    assert [each.reason for each in await decide(refiner, sample(ENGLISH), sample(GERMAN))] == [
        "wrong_language",
        "ok",
    ]
    with pytest.raises(RecipeError, match="languages"):
        Language(LanguageOptions(), domain_of(sources=()))
    with pytest.raises(ValidationError, match="english"):
        LanguageOptions(languages=["english"])


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("fr", "L'employeur doit être averti dans les trente jours qui suivent l'accident du travail."),
        ("es", "El empleador debe ser avisado dentro de los treinta días siguientes al accidente."),
        ("zh", "劳动者应当在事故发生后三十日内通知用人单位，否则将丧失索赔的权利。"),
        ("ru", "Работодатель должен быть уведомлен о несчастном случае в течение тридцати дней."),
    ],
)
def test_languages_are_told_apart(language: str, text: str) -> None:
    guess = guess_language([text], ["en"])
    assert guess and guess.expected < 0.01
    same = guess_language([text], [language])
    assert same and same.expected > 0.5
