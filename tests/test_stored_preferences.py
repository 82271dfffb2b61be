"""What people said makes the refiner's replies good or bad, and a pair where the two differ."""

import json

import example_store
import pytest
from edited import with_answer
from test_stored_labels import add, decide, domain, sample, say, store  # noqa: F401 (fixtures)

from factory.edits import target
from factory.stored_preferences import StoredPreferences
from factory.types import CheckedDraft, Decision, Parent


def said(answer, corrected, reason="wrong_quantity"):
    return json.dumps(target(CheckedDraft("k", "q", answer, corrected, reason, "s", "s")))


def asked(store, domain, number, became, reply=None):  # noqa: F811
    """A sample that the refiner made something of: the sample, and the child where there is one."""
    call = f"call_{number}"
    before = sample(domain, f"Question {number} of mine?")
    response = reply or said(before.answer, became, "ok" if became == before.answer else "wrong_quantity")
    store.append("calls", [example_store.call(call, role="refiner", response=response)])
    child = (
        with_answer(before, became, [Parent(call, "call")]) if became not in (None, before.answer) else None
    )
    add(store, before, *([child] if child else []))
    action = "drop" if became is None else "rewrite" if child else "keep"
    decide(store, Decision(before.id, "edit", action, "r", child, evidence={"call": call}), step=3)
    return before, child


def read(store, domain):  # noqa: F811
    pairs = {}
    for section, pair in StoredPreferences(store, domain).read("dpo"):
        assert section == domain.sources[0].key
        chosen, rejected = (json.loads(pair[side][0]["content"]) for side in ("chosen", "rejected"))
        number = pair["prompt"][0]["content"].split("Question: Question ")[1][0]
        pairs[number] = (chosen["verdict"], rejected["verdict"], chosen)
    return pairs


def test_pairs_are_where_people_differ_from_the_refiner(store, domain):  # noqa: F811
    kept, _ = asked(store, domain, 1, "In 14 days.")
    say(store, kept, "edit", corrected="In 21 days.", reason="wrong_quantity")
    damaged, _ = asked(store, domain, 2, "In 30 days.")
    say(store, damaged, "keep")
    _, child = asked(store, domain, 3, "In 30 days.")
    say(store, child, "edit", corrected="In 21 days.", reason="wrong_quantity")
    _, gone = asked(store, domain, 4, "In 30 days.")
    say(store, gone, "drop", reason="useless")
    dropped, _ = asked(store, domain, 5, None)
    say(store, dropped, "keep")
    pairs = read(store, domain)
    assert {number: pair[:2] for number, pair in pairs.items()} == {
        "1": ("edit", "keep"),
        "2": ("keep", "edit"),
        "3": ("edit", "edit"),
        "4": ("drop", "edit"),
        "5": ("keep", "drop"),
    }
    assert pairs["3"][2]["ops"] == [{"op": "replace", "old": "14", "new": "21"}]
    assert pairs["4"][2]["reason"] == "useless"


def test_where_they_agree_there_is_none(store, domain):  # noqa: F811
    kept, _ = asked(store, domain, 1, "In 14 days.")
    say(store, kept, "keep")
    _, child = asked(store, domain, 2, "In 21 days.")
    say(store, child, "keep")
    before, _ = asked(store, domain, 3, "In 21 days.")
    say(store, before, "edit", corrected="In 21 days.")
    dropped, _ = asked(store, domain, 4, None)
    say(store, dropped, "drop")
    disputed, _ = asked(store, domain, 5, "In 14 days.")
    say(store, disputed, "keep")
    say(store, disputed, "drop", reviewer="bob")
    blank, _ = asked(store, domain, 6, "In 14 days.")
    say(store, blank, "edit", corrected=" ")
    assert read(store, domain) == {}


@pytest.mark.parametrize("reply", ["{", "[]", '{"verdict": "edit", "ops": [{"op": "delete"}]}', '"x"'])
def test_a_reply_that_cannot_be_followed_is_bad(store, domain, reply):  # noqa: F811
    before, _ = asked(store, domain, 1, None, reply)
    for minutes, (action, right) in enumerate({"drop": "drop", "keep": "keep"}.items()):
        say(store, before, action, minutes=minutes)
        ((_, pair),) = StoredPreferences(store, domain).read("dpo")
        assert pair["rejected"][0]["content"] == reply
        assert json.loads(pair["chosen"][0]["content"])["verdict"] == right


def test_labelled_answers_are_the_replies_and_what_bad_ones_should_have_been(store, domain):  # noqa: F811
    kept, _ = asked(store, domain, 1, "In 14 days.")  # missed
    say(store, kept, "edit", corrected="In 21 days.", reason="wrong_quantity")
    _, child = asked(store, domain, 2, "In 21 days.")  # right
    say(store, child, "keep")
    clean, _ = asked(store, domain, 3, "In 14 days.")  # right
    say(store, clean, "keep")
    gone, _ = asked(store, domain, 4, None)  # right
    say(store, gone, "drop")
    damaged, _ = asked(store, domain, 5, "In 30 days.")  # wrong
    say(store, damaged, "keep")
    unjudged, _ = asked(store, domain, 6, "In 30 days.")
    assert unjudged
    found = {}
    for section, line in StoredPreferences(store, domain).read("kto"):
        assert section == domain.sources[0].key and set(line) == {"prompt", "completion", "label"}
        (turn,) = line["completion"]
        number = line["prompt"][0]["content"].split("Question: Question ")[1][0]
        found.setdefault(number, []).append((json.loads(turn["content"])["verdict"], line["label"]))
    assert found == {
        "1": [("keep", False), ("edit", True)],
        "2": [("edit", True)],
        "3": [("keep", True)],
        "4": [("drop", True)],
        "5": [("edit", False), ("keep", True)],
    }
