"""What people and teachers left in a store becomes drafts; what cannot is left out and counted."""

import json
from datetime import UTC, datetime, timedelta

import example_store
import pytest
from edited import with_answer

from factory.init import write_template
from factory.labels import Mixture
from factory.load import load
from factory.refiner_data import gather, summary
from factory.store.queries import Reader
from factory.store.rows import decision_rows, sample_rows, source_row
from factory.store.store import Store
from factory.stored_labels import StoredLabels
from factory.types import Decision, Message, Parent, Sample, Source

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def domain(tmp_path):
    write_template(tmp_path / "domain")
    return load(tmp_path / "domain")


@pytest.fixture
def store(tmp_path, domain):
    with Store.open(tmp_path / "w") as store:
        store.append("sources", [source_row(source) for source in domain.sources])
        yield store


def sample(domain, question, answer="In 14 days.", section=0, parents=(), strategy="grounded", **attributes):
    source = domain.sources[section]
    attributes = {"slice": source.slice, "strategy": strategy, **attributes}
    messages = [Message("user", question), Message("assistant", answer)]
    return Sample.create(messages, [Parent(source.id, "source"), *parents], strategy, attributes)


def add(store, *samples):
    rows, edges = sample_rows(samples, "run_a", 1)
    store.append("samples", rows)
    store.append("edges", edges)


def say(store, about, action, reviewer="ann", corrected=None, minutes=0, reason="because"):
    row = {"sample_id": about.id, "reviewer": reviewer, "action": action, "reason": reason}
    created = NOON + timedelta(minutes=minutes)
    store.append("verdicts", [{**row, "corrected": corrected, "created_at": created}])


def decide(store, *decisions, final=True, step=0):
    ids = {decision.sample_id for decision in decisions} if final else set()
    rows, _ = decision_rows(decisions, "run_a", 1, step, ids)
    store.append("decisions", rows)


def read(store, domain):
    labels = StoredLabels(store, domain)
    found = {draft.question: (draft, origin) for draft, origin in labels.read()}
    return found, dict(labels.left_out)


def test_verdicts_become_drafts(store, domain):
    kept, edited, dropped = (sample(domain, f"Question {n} of mine?") for n in (1, 2, 3))
    add(store, kept, edited, dropped)
    say(store, kept, "keep")
    say(store, edited, "edit", corrected="In 21 days.", reason="wrong_quantity")
    say(store, dropped, "drop", reason="useless")
    found, left_out = read(store, domain)
    assert left_out == {}
    told = {name[:10]: (d.answer, d.corrected, d.reason, origin) for name, (d, origin) in found.items()}
    assert told == {
        "Question 1": ("In 14 days.", "In 14 days.", "ok", "verdict"),
        "Question 2": ("In 14 days.", "In 21 days.", "wrong_quantity", "verdict"),
        "Question 3": ("In 14 days.", None, "useless", "verdict"),
    }
    assert {d.source_key for d, _ in found.values()} == {domain.sources[0].key}


def test_the_newest_of_each_reviewer_counts_and_a_dispute_counts_for_nothing(store, domain):
    changed, disputed, agreed = (sample(domain, f"Question {n} of mine?") for n in (1, 2, 3))
    add(store, changed, disputed, agreed)
    say(store, changed, "drop", minutes=2)
    say(store, changed, "keep", minutes=5)
    say(store, changed, "drop", minutes=1)
    say(store, disputed, "keep")
    say(store, disputed, "drop", reviewer="bob", minutes=9)
    for reviewer in ("ann", "bob"):
        say(store, agreed, "edit", reviewer, "In 21 days.")
    found, left_out = read(store, domain)
    assert left_out == {"people_disagree": 1}
    assert {d.corrected for d, _ in found.values()} == {"In 14 days.", "In 21 days."}


def test_what_the_refiner_cannot_be_asked_is_left_out(store, domain):
    tested = sample(domain, domain.test[0].question)
    stale = Source.create(domain.sources[0].key, "x.md", "Rule 1", "T", "An older text.", "borrowing")
    store.append("sources", [source_row(stale)])
    old = sample(domain, "Is it about an old text?")
    old = Sample.create(old.messages, [Parent(stale.id, "source")], "grounded", old.attributes)
    two = sample(domain, "Is it about two of them?", parents=[Parent(domain.sources[1].id, "source")])
    first = sample(domain, "And what of the second?")
    talk = Sample.create([*tested.messages, *first.messages], first.parents, "dialogue", first.attributes)
    blank = sample(domain, "Was it edited into nothing?")
    lost = Sample.create(sample(domain, "Zyx qwv?").messages, (), "seeded", {"slice": "nowhere"})
    add(store, tested, old, two, talk, blank, lost)
    for each in (tested, old, two, talk, lost):
        say(store, each, "keep")
    say(store, blank, "edit", corrected=" ")
    found, left_out = read(store, domain)
    assert found == {}
    reasons = ("asked_in_dev_or_test", "section_changed", "several_sections", "conversation", "no_section")
    assert left_out == dict.fromkeys((*reasons, "edit_without_text"), 1)


def rewrite(store, domain, question, model_id, final="keep"):
    """A sample that a model's call rewrote, and what was decided of the rewrite."""
    call = f"call_{question[:10]}"
    store.append("calls", [example_store.call(call, model_id=model_id, role="refiner")])
    before = sample(domain, question)
    after = with_answer(before, "In 21 days.", [Parent(call, "call")])
    add(store, before, after)
    decide(
        store,
        Decision(before.id, "edit", "rewrite", "wrong_quantity", after, evidence={"call": call}),
        step=3,
    )
    decide(store, Decision(after.id, "citation", final, "ok"), step=4)


def test_a_teachers_rewrite_counts_where_every_check_let_it_pass(store, domain):
    model = {"role": "refiner", "base": "b", "name": "n"}
    store.append("models", [{**model, "id": "big"}, {**model, "id": "ours", "adapter": "a"}])
    rewrite(store, domain, "Question 1, the teacher's?", "big")
    rewrite(store, domain, "Question 2, dropped later?", "big", final="drop")
    rewrite(store, domain, "Question 3, our own refiner's?", "ours")
    found, _ = read(store, domain)
    ((draft, origin),) = found.values()
    assert draft.question.startswith("Question 1") and origin == "rewritten"
    assert (draft.answer, draft.corrected, draft.reason) == ("In 14 days.", "In 21 days.", "wrong_quantity")


def test_a_critique_gives_the_answer_before_its_last_revision(store, domain):
    said = [
        {"question": "q", "answer": "In 7 days."},
        {"critique": "No.", "verdict": "revise"},
        {"answer": "In 14 days."},
        {"critique": "Still no.", "verdict": "revise"},
        {"answer": "In 21 days."},
    ]
    for number, each in enumerate(said):
        created = NOON + timedelta(seconds=number)
        row = example_store.call(f"c{number}", response=json.dumps(each), created_at=created)
        store.append("calls", [row])
    parents = [Parent(f"c{number}", "call") for number in range(len(said))]
    revised = sample(domain, "How was it revised?", "In 21 days.", 0, parents, "critique", num_revisions="2")
    content = sample(domain, "Was it good?", "In 7 days.", 0, parents[:1], "critique", num_revisions="0")
    garbled = sample(domain, "What was there before?", "x", 0, parents[1:2], "critique", num_revisions="1")
    add(store, revised, content, garbled)
    decide(store, *(Decision(each.id, "form", "keep", "ok") for each in (revised, content, garbled)))
    found, left_out = read(store, domain)
    ((draft, origin),) = found.values()
    assert (draft.answer, draft.corrected, draft.reason) == ("In 14 days.", "In 21 days.", "revised")
    assert origin == "rewritten" and left_out == {"no_first_draft": 1}


def test_pages_follow_one_another(store, domain, monkeypatch):
    from factory import stored_labels

    monkeypatch.setattr(stored_labels, "VERDICTS", stored_labels.VERDICTS.replace("LIMIT 2000", "LIMIT 2"))
    samples = [sample(domain, f"Question number {n} of mine?") for n in range(5)]
    add(store, *samples)
    for each in samples:
        say(store, each, "keep")
    assert len(read(store, domain)[0]) == 5


def test_text_that_no_column_holds_comes_back(store, domain):
    odd = sample(domain, "Is NUL \x00 text?", "a\x00b \ud800")
    add(store, odd)
    say(store, odd, "edit", corrected="c\x00d")
    ((draft, _),) = read(store, domain)[0].values()
    assert (draft.question, draft.answer) == (odd.question, odd.answer)


def test_verdicts_are_mixed_in_and_counted(tmp_path, store, domain):
    for section in range(len(domain.sources)):
        each = sample(domain, f"Question about {section}?", section=section)
        add(store, each)
        say(store, each, "drop", reason="useless")
    store.flush()
    store.close()
    with Reader(tmp_path / "w") as reader:
        labelled, left_out = gather(domain, Mixture(), reader)
    rows = {(row["origin"], row["kind"]): row for row in summary(labelled, left_out)["kinds"]}
    row = rows["verdict", "useless"]
    assert row["training"] + row["held_out"] == len(domain.sources) and row["example"]["corrected"] is None


def test_a_verdict_and_a_revision_of_one_sample_are_two_drafts_with_keys_of_their_own(store, domain):
    said = [{"answer": "In 7 days."}, {"verdict": "revise"}, {"answer": "In 21 days."}]
    for number, each in enumerate(said):
        created = NOON + timedelta(seconds=number)
        row = example_store.call(f"c{number}", response=json.dumps(each), created_at=created)
        store.append("calls", [row])
    parents = [Parent(f"c{number}", "call") for number in range(len(said))]
    revised = sample(domain, "How was it revised?", "In 21 days.", 0, parents, "critique", num_revisions="1")
    add(store, revised)
    decide(store, Decision(revised.id, "form", "keep", "ok"))
    say(store, revised, "keep")
    labelled, _ = gather(domain, Mixture(), store)
    keys = [each.draft.key for each in labelled]
    assert len(keys) == len(set(keys))
    assert sum(key.startswith(revised.id) and "~" not in key for key in keys) >= 2
