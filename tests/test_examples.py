"""What student and refiner are given to learn."""

import json
from types import SimpleNamespace

import pytest

from factory.edits import Op, apply, target
from factory.errors import RecipeError
from factory.examples import refiner_examples, student_examples, write_jsonl
from factory.prompts import render
from factory.types import CheckedDraft, Message, Sample, Source

SOURCE = Source.create(
    "80", "h.md", "§ 34-9-80", "Notice", "Notice within 30 days. {{ no template }}", "notice"
)


def domain(*drafts, refiners=()):
    recipe = SimpleNamespace(domain=SimpleNamespace(answer_style="Cite the section."), refiners=refiners)
    return SimpleNamespace(recipe=recipe, drafts=drafts, source_by_key={"80": SOURCE})


def draft(answer, corrected, reason, source_key="80"):
    return CheckedDraft("d1", "How long?", answer, corrected, reason, source_key, "notice")


def test_the_student_learns_samples_as_they_are(tmp_path):
    messages = (Message("user", "Wie lange? “é”"), Message("assistant", "30 days"))
    sample = Sample.create(messages, (), "grounded", {"slice": "notice"})
    path = tmp_path / "new" / "student.jsonl"
    assert write_jsonl(student_examples([sample, sample]), path) == 2
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) == 2 and "“é”" in lines[0]
    assert json.loads(lines[0]) == {
        "messages": [
            {"role": "user", "content": "Wie lange? “é”"},
            {"role": "assistant", "content": "30 days"},
        ]
    }


def test_the_refiner_learns_the_prompt_it_will_be_asked_and_the_edits():
    wrong = draft("20 days (§ 34-9-80)", "30 days (§ 34-9-80)", "wrong_quantity")
    (example,) = refiner_examples(domain(wrong))
    asked, said = (Message(**message) for message in example["messages"])
    style = "Cite the section."
    assert asked.role == "user" and said.role == "assistant"
    assert asked.content == render(
        "refiners", "edit", style=style, source=SOURCE, question="How long?", answer="20 days (§ 34-9-80)"
    )
    assert "{{ no template }}" in asked.content and style in asked.content
    answer = json.loads(said.content)
    assert answer == target(wrong) and next(iter(answer)) == "verdict"
    assert apply([Op(**op) for op in answer["ops"]], wrong.answer) == wrong.corrected


def test_a_draft_that_had_to_go_is_dropped_and_a_right_one_kept():
    drafts = [draft("7 days", None, "off_source"), draft("30 days", "30 days", "ok")]
    examples = refiner_examples(domain(*drafts))
    verdicts = [json.loads(example["messages"][-1]["content"])["verdict"] for example in examples]
    assert verdicts == ["drop", "keep"]


def test_a_draft_about_no_section_is_refused_and_leaves_no_file(tmp_path):
    path = tmp_path / "refiner.jsonl"
    with pytest.raises(RecipeError, match="'81'"):
        write_jsonl(refiner_examples(domain(draft("a", "a", "ok"), draft("a", "a", "ok", "81"))), path)
    assert not path.exists()


def test_examples_are_made_one_at_a_time():
    made = refiner_examples(domain(draft("a", "a", "ok"), draft("a", "a", "ok", "81")))
    assert next(made)  # the second is not looked at yet


def test_a_refiner_that_restates_learns_to_replace_the_whole_answer():
    step = SimpleNamespace(name="edit", options=lambda: {"restate": True})
    drafts = [draft("30 days", "30 days", "ok"), draft("20 days", "30 days", "wrong_quantity")]
    examples = refiner_examples(domain(*drafts, refiners=[step]))
    ops = [json.loads(example["messages"][1]["content"])["ops"] for example in examples]
    assert ops == [[{"op": "replace", "old": d.answer, "new": "30 days"}] for d in drafts]
