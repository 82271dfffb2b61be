"""Every corruption spoils what it says and never says what is right; its known answer comes back."""

import re
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from factory.corruption import kinds
from factory.corruption.case import Case, Elsewhere, Right, contains, squeezed
from factory.corruption.forms import truncated
from factory.corruption.kinds import BUILT_IN, corrupt, corruptions, mismatched
from factory.corruption.measures import quantities, value_of
from factory.edits import Op, apply, diff, target
from factory.errors import FactoryError
from factory.types import CheckedDraft, Source
from factory.words import words

SECTIONS = {
    "fee": (
        "Rule 7",
        "Fees",
        "The fee is 40 dollars and falls due on 3 March 2021, unless the Board waives it. Ann Miller of the "
        "Harbour Office collects it and may not waive more than two thirds of it.",
    ),
    "notice": (
        "Rule 8",
        "Notice",
        "A tenant must give a 30-day notice in writing. Notice is valid for 6 months if Clara Stone of the "
        "City Registry has signed it.",
    ),
    "boat": (
        "Rule 9",
        "Boats",
        "A boat may stay for 2 hours or 90 minutes more with a pass from Port Control, and carries at most 4 "
        "people. See Rule 8.",
    ),
    "pool": (
        "Rule 12",
        "Pool",
        "The pool opens at 7 in May, costs $6, and 25 percent less after 18 March 2022.",
    ),
}
RIGHTS = [
    ("fee", "How much is the fee?", "The fee is 40 dollars (Rule 7)."),
    (
        "fee",
        "When must the fee be paid?",
        "It falls due on 3 March 2021, unless the Board waives it (Rule 7).",
    ),
    ("fee", "Who collects the fee here?", "It is collected by Ann Miller (Rule 7)."),
    ("notice", "How does a tenant give notice?", "A tenant must give a 30-day notice in writing (Rule 8)."),
    (
        "notice",
        "How long is a notice good?",
        "It is valid for 6 months if Clara Stone has signed it (Rule 8).",
    ),
    ("boat", "How long may a boat stay there?", "2 hours (Rule 9)"),
    ("boat", "How many may sit in a boat?", "It carries at most 4 people (Rule 9)."),
    ("pool", "What is the price of the pool?", "$6 (Rule 12)"),
    ("pool", "May I swim for less in spring?", "Yes, 25 percent less after 18 March 2022 (Rule 12)."),
]
PATTERN = r"Rule \d+"


def source(key):
    citation, title, text = SECTIONS[key]
    return Source.create(key, "rules.md", citation, title, text, "rules")


def rights():
    return [Right(f"r{i}", asked, said, source(key)) for i, (key, asked, said) in enumerate(RIGHTS)]


def elsewhere():
    return Elsewhere([source(key) for key in SECTIONS], rights(), PATTERN)


def case(index):
    right = rights()[index]
    return Case(right.question, right.answer, right.source, elsewhere())


def spoilt(kind, index, seeds=40):
    """Everything that a kind makes of one answer over so many seeds."""
    found = {corrupt(kind, BUILT_IN[kind], case(index), Random(seed), set()) for seed in range(seeds)}
    return found - {None}


def test_every_kind_applies_somewhere_in_the_rules():
    applied = {kind for kind in BUILT_IN for index in range(len(RIGHTS)) if spoilt(kind, index, 5)}
    assert applied == set(BUILT_IN)


CASES = st.integers(0, len(RIGHTS) - 1)


@settings(max_examples=300, deadline=None)
@given(kind=st.sampled_from(sorted(BUILT_IN)), index=CASES, seed=st.integers(0, 2**32))
def test_a_corruption_differs_and_its_answer_comes_back(kind, index, seed):
    right = case(index).answer
    found = corrupt(kind, BUILT_IN[kind], case(index), Random(seed), set())
    again = corrupt(kind, BUILT_IN[kind], case(index), Random(seed), set())
    assert found == again
    assume(found is not None)
    assert squeezed(found) != squeezed(right)
    assert apply(diff(found, right), found) == right
    if kind not in ("malformed_citation", "broken_form", "truncated"):
        assert words(found) != words(right)
    draft = CheckedDraft("k", "q", found, right, kind, "s", "s")
    answer = target(draft)
    assert answer["verdict"] in ("edit", "rewrite")
    ops = [Op(**op) for op in answer["ops"]]
    assert (apply(ops, found) if answer["verdict"] == "edit" else answer["rewrite"]) == right


TEXT = st.text(
    st.sampled_from("abc AB \n.,;:()[]0123456789/-–%$€§é\u0301\u200b\u202e{}|\\\"'") | st.characters(),
    max_size=60,
) | st.lists(st.sampled_from(["The fee", "40", "dollars", "if", "Rule 7", "not", "must", "2/3", "Ann"])).map(
    " ".join
)


@settings(max_examples=400, deadline=None)
@given(kind=st.sampled_from(sorted(BUILT_IN)), question=TEXT, answer=TEXT, text=TEXT, seed=st.integers(0, 99))
def test_no_text_is_too_odd(kind, question, answer, text, seed):
    about = Source.create("odd", "o.md", text[:9], text[9:20], text, "s")
    odd = Case(question, answer, about, Elsewhere([about, source("fee")], rights(), PATTERN))
    found = corrupt(kind, BUILT_IN[kind], odd, Random(seed), set())
    if found is not None:
        assert squeezed(found) not in ("", squeezed(answer))
        assert apply(diff(found, answer), found) == answer


def test_a_wrong_quantity_is_never_one_that_the_section_gives():
    made = spoilt("wrong_quantity", 5, 200)  # 2 hours; "90 minutes" is in the section, so are 4 people
    assert made and all(re.fullmatch(r"\d+ hours? \(Rule 9\)", text) for text in made)
    assert "2 hours (Rule 9)" not in made and "90 hours (Rule 9)" in made and "4 hours (Rule 9)" in made
    assert "4 people" not in " ".join(spoilt("wrong_quantity", 6, 200))


def test_a_number_follows_its_unit_in_number_and_form():
    one = case(5)._replace(answer="1 hour (Rule 9)")
    made = {corrupt("wrong_quantity", BUILT_IN["wrong_quantity"], one, Random(s), set()) for s in range(50)}
    assert made - {None} and all(re.match(r"\d+ hours ", text) for text in made - {None})
    assert all(re.search(r"give a \d+-day notice", text) for text in spoilt("wrong_quantity", 3))


def test_a_quantity_in_words_becomes_another_in_words():
    waived = case(0)._replace(answer="At most three of them (Rule 7).")
    made = {
        corrupt("wrong_quantity", BUILT_IN["wrong_quantity"], waived, Random(s), set()) for s in range(80)
    }
    assert "At most six of them (Rule 7)." in made and "At most four of them (Rule 7)." in made


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("2/3", "2/3"),
        ("two thirds", "2/3"),
        ("1,000", "1000"),
        ("1.5", "3/2"),
        ("twelve", "12"),
        ("1/0", None),
    ],
)
def test_numbers_mean_what_they_say(number, value):
    found = value_of(number)
    assert (None if found is None else str(found)) == value


def test_citations_dates_and_ordinals_are_no_quantities():
    text = "§ 34-9-80, 2020-01-02, 3rd, v1.2.3, x5: 30 days, $1,000, 25 %, half, twenty-one"
    assert [(found.number, found.measure) for found in quantities(text)] == [
        ("30", "day"),
        ("1,000", "$"),
        ("25", "%"),
        ("half", ""),
    ]


def test_a_wrong_unit_keeps_the_number():
    units = ["second", "minute", "day", "week", "month", "year"]
    assert spoilt("wrong_unit", 5) <= {f"2 {unit}s (Rule 9)" for unit in units}
    assert spoilt("wrong_unit", 7) == {"€6 (Rule 12)", "£6 (Rule 12)"}


def test_a_wrong_citation_exists_and_is_not_referred_to():
    made = spoilt("wrong_citation", 5)
    assert made == {"2 hours (Rule 7)", "2 hours (Rule 12)"}  # the section itself refers to Rule 8


def test_a_malformed_citation_is_none_of_the_domains():
    for text in spoilt("malformed_citation", 5):
        assert not re.search(r"\(Rule \d+\)", text) and "9" in text


def test_a_wrong_name_comes_from_elsewhere():
    made = spoilt("wrong_name", 2)
    assert made and not any("Ann" in text or "Harbour" in text for text in made)
    assert all(any(contains(SECTIONS[key][2], name) for key in SECTIONS) for name in map(_name, made))


def _name(text):
    return re.search(r"by (.*) \(", text)[1]


def test_the_opposite_is_not_what_the_section_says_elsewhere():
    assert spoilt("negated", 3) == {"A tenant must not give a 30-day notice in writing (Rule 8)."}
    assert spoilt("negated", 6) == {"It carries at least 4 people (Rule 9)."}


def test_a_condition_is_dropped_unless_the_question_gives_it():
    assert spoilt("dropped_condition", 1) == {"It falls due on 3 March 2021 (Rule 7)."}
    given_in_question = case(1)._replace(question="When is it due unless the Board waives it?")
    found = corrupt("dropped_condition", BUILT_IN["dropped_condition"], given_in_question, Random(1), set())
    assert found is None


def test_a_date_moves_and_stays_a_date():
    made = spoilt("wrong_date", 1)
    assert made and "It falls due on 3 March 2021, unless the Board waives it (Rule 7)." not in made
    assert all(re.search(r"on \d{1,2} [A-Z][a-z]+ \d{4}, unless", text) for text in made)


def test_what_was_cut_shows_that_it_was():
    right = case(1).answer
    for text in spoilt("truncated", 1):
        assert right.startswith(text) and len(text) < len(right) and text[-1] not in ".!?"


def test_an_answer_that_is_right_too_is_no_fault():
    other = {squeezed(text) for text in spoilt("wrong_unit", 7)}
    found = [
        corrupt("wrong_unit", BUILT_IN["wrong_unit"], case(7), Random(seed), other) for seed in range(20)
    ]
    assert found == [None] * 20


def test_a_question_about_another_section_has_to_go():
    own = {squeezed(asked) for key, asked, _ in RIGHTS if key == "fee"}
    for seed in range(30):
        question, answer = mismatched(case(0), Random(seed), own)
        about = {asked: (key, said) for key, asked, said in RIGHTS}
        assert about[question][0] != "fee" and answer in (about[question][1], case(0).answer)


def test_a_package_may_bring_corruptions_of_its_own(monkeypatch):
    def shouted(case, rng):
        return case.answer.upper()

    monkeypatch.setattr(kinds, "names", lambda group: ["broken_case"])
    monkeypatch.setattr(kinds, "find", lambda group, name: shouted)
    assert corruptions()["broken_case"] is shouted and set(BUILT_IN) < set(corruptions())
    found = corrupt("broken_case", shouted, case(5), Random(0), set())
    assert found == "2 HOURS (RULE 9)"
    assert target(CheckedDraft("k", "q", found, "x", "broken_case", "s", "s"))["scores"] == {
        "grounded": 1,
        "form": 0,
    }


def test_a_corruption_that_gives_no_text_is_named():
    with pytest.raises(FactoryError, match="'mine' must give text or None, not int"):
        corrupt("mine", lambda case, rng: 3, case(0), Random(0), set())


def test_an_answer_without_a_last_mark_is_cut_where_it_shows() -> None:
    source = Source.create("k", "x.md", "Rule 1", "T", "Notice is due within 30 days.", "s")
    for answer in ("Within 30 days after the accident", "30 days (Rule 1) after it"):
        case = Case("When is notice due?", answer, source, Elsewhere([source]))
        made = {truncated(case, Random(seed)) for seed in range(50)}
        assert made and all(
            text and (answer[len(text)].isalnum() or text.count("(") > text.count(")")) for text in made
        )
