"""Critique: a fault found is mended, a good answer stays, and only what came of it is a sample."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from strategy_kit import SEEDS, Teacher, answer, build, check_page, check_repeats, fate, generate, relations

from factory.types import Completion, Parent, Request
from generators.critique import CritiqueOptions

Reply = str | Completion


class Critic(Teacher):
    """Writes drafts; finds fault with an answer until it holds '!'; each revision adds what it is given."""

    def __init__(self, draft: str = "Yes", judged: Reply | None = None, revised: Reply | None = None) -> None:
        super().__init__(str)
        self.draft, self.judged, self.revised = draft, judged, revised

    def follow(self, request: Request) -> Reply:
        if not request.instead_of:
            self.requests.append(request)
        prompt = request.messages[-1].content
        if prompt.startswith("Judge the answer"):
            text = prompt.rsplit("Answer to judge: ", 1)[1]
            good = answer(critique="Nothing.", verdict="good")
            usual = good if "!" in text else answer(critique="It lacks force.", verdict="revise")
            return usual if self.judged is None else self.judged
        if prompt.startswith("Write the answer anew"):
            text = prompt.rsplit("\nAnswer: ", 1)[1].split("\nCritique: ")[0]
            return answer(answer=f"{text}, by § 0!") if self.revised is None else self.revised
        return answer(question=f"Is it due? ({request.ordinal % 1000})", answer=self.draft)


def critique(of: str = "grounded", **options):
    return build("critique", of={"name": of}, **options)


async def test_a_fault_is_mended_and_the_draft_is_no_sample(tmp_path):
    teacher = Critic()
    made = await generate(tmp_path, critique(), teacher, {"claims": 3, "benefits": 1})
    assert len(teacher.requests) == 12  # a question with its draft, a critique, a revision
    for number, (task, (sample,)) in enumerate(made):
        assert (sample.question, sample.answer) == (f"Is it due? ({number})", "Yes, by § 0!")
        assert (sample.operation, sample.attributes["num_revisions"]) == ("critique", "1")
        assert sample.attributes["strategy"] == "critique"
        assert relations(sample) == ["source", "call", "call", "call"]
        assert sample.parents[0] == Parent(task.source.id, "source")
        assert len(set(sample.parents)) == 4
        assert await fate(sample) == "ok"


async def test_a_good_answer_stays_and_remembers_that_it_was_judged(tmp_path):
    ((_, (sample,)),) = await generate(tmp_path, critique(), Critic("Yes!"), {"claims": 1})
    assert (sample.answer, sample.attributes["num_revisions"]) == ("Yes!", "0")
    assert relations(sample) == ["source", "call", "call"] and await fate(sample) == "ok"


async def test_critic_and_reviser_see_section_principles_style_and_critique(tmp_path):
    teacher = Critic()
    ((task, _),) = await generate(
        tmp_path, critique(principles=["Be kind.", "Be right."]), teacher, {"claims": 1}
    )
    _, judging, revising = teacher.prompts
    for prompt in (judging, revising):
        assert task.source.text in prompt and "Cite the rule." in prompt and "Is it due? (0)" in prompt
    assert "- Be kind.\n- Be right.\n" in judging and "Be kind." not in revising
    assert revising.endswith("Answer: Yes\nCritique: It lacks force.")
    assert teacher.requests[1].schema["properties"]["verdict"]["enum"] == ["good", "revise"]
    assert list(teacher.requests[1].schema["properties"]) == ["critique", "verdict"]


async def test_revisions_go_on_until_the_critique_is_content_or_it_is_enough(tmp_path):
    never = answer(critique="More!", verdict="revise")
    teacher = Critic(judged=never)
    ((_, (sample,)),) = await generate(tmp_path / "a", critique(max_revisions=3), teacher, {"claims": 1})
    assert sample.answer == "Yes" + ", by § 0!" * 3 and sample.attributes["num_revisions"] == "3"
    assert len(teacher.requests) == 1 + 6
    teacher = Critic()
    ((_, (sample,)),) = await generate(tmp_path / "b", critique(max_revisions=3), teacher, {"claims": 1})
    assert sample.answer == "Yes, by § 0!" and sample.attributes["num_revisions"] == "1"
    assert relations(sample) == ["source", *["call"] * 4]  # the last critique was content


async def test_running_again_finds_everything_stored(tmp_path):
    await check_repeats(tmp_path, critique(max_revisions=2), Critic(), {"claims": 5, "benefits": 2})


@pytest.mark.parametrize(
    ("judged", "revised", "reason", "num_calls"),
    [
        ("It is bad.", None, "not_json", 2),
        (Completion('{"critique": "It', "length"), None, "truncated", 2),
        (answer(verdict="good"), None, "missing_key", 2),
        (answer(critique="Hm.", verdict="maybe"), None, "unknown_verdict", 2),
        (answer(critique=" ", verdict="revise"), None, "empty_critique", 2),
        (None, "Better now.", "not_json", 3),
        (None, answer(text="Better"), "missing_key", 3),
        (None, answer(answer="Yes"), "unrevised", 3),
    ],
)
async def test_what_is_not_as_asked_is_dropped(tmp_path, judged, revised, reason, num_calls):
    teacher = Critic(judged=judged, revised=revised)
    ((_, (sample,)),) = await generate(tmp_path, critique(max_revisions=2), teacher, {"claims": 1})
    assert sample.attributes["malformed"] == reason and await fate(sample) == reason
    assert len(teacher.requests) == num_calls and relations(sample) == ["source", *["call"] * num_calls]
    assert sample.question == "Is it due? (0)"
    if reason == "not_json":
        assert sample.answer == (judged or revised)


async def test_a_verdict_may_be_written_in_capitals(tmp_path):
    teacher = Critic(judged=answer(critique="", verdict="Good"))
    ((_, (sample,)),) = await generate(tmp_path, critique(), teacher, {"claims": 1})
    assert sample.answer == "Yes" and "malformed" not in sample.attributes


async def test_a_malformed_draft_is_passed_on_without_a_critique(tmp_path):
    teacher = Teacher(lambda prompt: "no JSON")
    ((_, (sample,)),) = await generate(tmp_path, critique(), teacher, {"claims": 1})
    assert (sample.attributes["malformed"], sample.operation) == ("not_json", "grounded")
    assert sample.attributes["strategy"] == "critique" and len(teacher.requests) == 1


async def test_a_sign_alone_is_a_revision(tmp_path):
    teacher = Critic(draft="30 days (34-9-80)", revised=answer(answer="30 days (§ 34-9-80)"))
    ((_, (sample,)),) = await generate(tmp_path, critique(), teacher, {"claims": 1})
    assert sample.answer == "30 days (§ 34-9-80)" and "malformed" not in sample.attributes


async def test_the_last_answer_of_a_conversation_is_revised_in_its_context(tmp_path):
    def reply(request: Request) -> str:
        prompt = request.messages[-1].content
        if prompt.startswith("Judge the answer"):
            assert "Question: Q1?\nAnswer: A1\nQuestion: Q2?\nAnswer to judge: A2" in prompt
            assert "Be brief." not in prompt
            return answer(critique="No.", verdict="revise")
        if prompt.startswith("Write the answer anew"):
            assert "Question: Q1?\nAnswer: A1\nQuestion: Q2?\nAnswer: A2\nCritique: No." in prompt
            return answer(answer="Better")
        turn = len(request.messages) // 2
        return f"Q{turn}?" if "person who asks" in request.messages[0].content else f"A{turn}"

    teacher = Teacher(str)
    teacher.script = reply
    inner = {"name": "dialogue", "min_turns": 2, "max_turns": 2, "system": "Be brief."}
    ((_, (sample,)),) = await generate(tmp_path, build("critique", of=inner), teacher, {"claims": 1})
    assert [message.content for message in sample.messages] == ["Be brief.", "Q1?", "A1", "Q2?", "Better"]


async def test_what_derives_from_a_sample_derives_from_what_became_of_it(tmp_path):
    """No sample names a draft that is not stored."""

    class Both(Critic):
        def follow(self, request: Request) -> Reply:
            if "in other words" in request.messages[-1].content:
                self.requests.append(request)
                return answer(question="Has it to be paid? (0)")
            return super().follow(request)

    strategy = build("critique", of={"name": "paraphrase", "of": {"name": "grounded"}})
    ((_, (first, second)),) = await generate(tmp_path, strategy, Both(), {"claims": 1})
    assert (first.answer, second.answer) == ("Yes, by § 0!", "Yes, by § 0!")
    assert second.parents[0] == Parent(first.id, "derived_from")
    assert second.attributes["original"] == first.id
    assert strategy.cost == (2 + 2 * 2, 2, 2)


async def test_a_malformed_derivation_follows_what_became_of_its_parent(tmp_path):
    class Same(Critic):
        def follow(self, request: Request) -> Reply:
            if "in other words" in request.messages[-1].content:
                self.requests.append(request)
                return answer(question="Is it paid within 7 days?")
            return super().follow(request)

    strategy = build("critique", of={"name": "paraphrase", "of": {"name": "grounded"}})
    ((_, (first, second)),) = await generate(tmp_path, strategy, Same(), {"claims": 1})
    assert second.attributes["malformed"]
    assert second.parents[0] == Parent(first.id, "derived_from")
    assert second.attributes["original"] == first.id


def test_options():
    with pytest.raises(ValidationError):
        CritiqueOptions.model_validate({"of": {"name": "grounded"}, "principles": []})
    with pytest.raises(ValidationError):
        CritiqueOptions.model_validate({"of": {"name": "grounded"}, "principles": [""]})
    assert critique("seeded", max_revisions=2).cost == (2 + 4, 1, 1)


def test_the_page_says_what_is_so(tmp_path):
    (made,) = check_page("critique", tmp_path)
    assert len(made.options.principles) == 2 and set(made.slices) == {seed.slice for seed in SEEDS}
