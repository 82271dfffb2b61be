"""Back-translation: there, back, and beside the sample; what was not translated or lost a number is named."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from strategy_kit import SEEDS, Teacher, answer, build, check_page, check_repeats, fate, generate, relations

from factory.types import Completion, Parent, Request
from generators.back_translation import BackTranslationOptions

ASKED = "Must it be told within 1,000 days?"
ABROAD = "Faut-il le dire dans les 1.000 jours ?"
BACK = "Does one have to say so within 1000 days?"


class Translator(Teacher):
    """Writes a question with its answer and translates it; `there` and `back` replace what it would say."""

    def __init__(self, there: str | Completion | None = None, back: str | Completion | None = None) -> None:
        super().__init__(str)
        self.there, self.back = there, back

    def follow(self, request: Request) -> str | Completion:
        if not request.instead_of:
            self.requests.append(request)
        prompt = request.messages[-1].content
        number = request.ordinal % 1000
        if prompt.startswith("Translate this question into French"):
            assert prompt.splitlines()[-1] == f"{ASKED} ({number})"
            return self.there if self.there is not None else answer(question=f"{ABROAD} ({number})")
        if prompt.startswith("Translate this question into English"):
            assert prompt.splitlines()[-1] == f"{ABROAD} ({number})"
            return self.back if self.back is not None else answer(question=f"{BACK} ({number})")
        return answer(question=f"{ASKED} ({number})", answer="Yes (§ 0)")


def strategy(**options):
    return build("back_translation", of={"name": "grounded"}, **options)


async def test_a_question_goes_there_and_back(tmp_path):
    teacher = Translator()
    made = await generate(tmp_path, strategy(), teacher, {"claims": 3, "benefits": 1})
    assert len(teacher.requests) == 12
    for number, (task, (first, second)) in enumerate(made):
        assert (first.question, second.question) == (f"{ASKED} ({number})", f"{BACK} ({number})")
        assert first.answer == second.answer and second.operation == "back_translation"
        assert second.parents[:2] == (Parent(first.id, "derived_from"), Parent(task.source.id, "source"))
        assert relations(second) == ["derived_from", "source", "call", "call"]
        assert second.attributes["original"] == first.id
        assert second.attributes["strategy"] == first.attributes["strategy"] == "back_translation"
        assert [await fate(each) for each in (first, second)] == ["ok", "ok"]


async def test_running_again_finds_everything_stored(tmp_path):
    await check_repeats(tmp_path, strategy(), Translator(), {"claims": 5})


@pytest.mark.parametrize(
    ("there", "back", "reason", "num_calls"),
    [
        ("Voilà !", None, "not_json", 1),
        (Completion('{"question": "Faut', "length"), None, "truncated", 1),
        (answer(translation=ABROAD), None, "missing_key", 1),
        (answer(question=f"{ASKED} (0)"), None, "untranslated", 1),
        (None, "Of course.", "not_json", 2),
        (None, answer(text="x"), "missing_key", 2),
        (None, answer(question=f"{ABROAD} (0)"), "untranslated", 2),
        (None, answer(question=f"{ASKED} (0)!"), "unchanged", 2),
        (None, answer(question="Does one have to say so within 100 days? (0)"), "changed_numbers", 2),
    ],
)
async def test_what_did_not_come_back_well_is_dropped(tmp_path, there, back, reason, num_calls):
    teacher = Translator(there, back)
    ((_, (first, second)),) = await generate(tmp_path, strategy(), teacher, {"claims": 1})
    assert await fate(first) == "ok"
    assert second.attributes["malformed"] == reason and await fate(second) == reason
    assert relations(second) == ["derived_from", "source", *["call"] * num_calls]
    assert len(teacher.requests) == 1 + num_calls


async def test_languages_are_those_of_the_options(tmp_path):
    teacher = Teacher(lambda prompt: answer(question=f"Q {len(prompt)}", answer="A"))
    await generate(tmp_path, strategy(language="German", pivot="Dutch"), teacher, {"claims": 1})
    assert "into Dutch" in teacher.prompts[1] and "as a person who speaks Dutch" in teacher.prompts[1]
    assert "into German" in teacher.prompts[2]


async def test_every_question_of_a_conversation_is_translated(tmp_path):
    def reply(request: Request) -> str:
        prompt = request.messages[-1].content
        if prompt.startswith("Translate"):
            assert "A1" not in prompt and "A2" not in prompt  # answers are kept, nobody needs to read them
            words = ("Eins", "Zwei") if "French" in prompt else ("One", "Two")
            return answer(question_1=f"{words[0]} 1?", question_2=f"{words[1]} 2?")
        turn = len(request.messages) // 2
        return f"Q{turn}?" if "person who asks" in request.messages[0].content else f"A{turn}"

    teacher = Teacher(str)
    teacher.script = reply
    inner = {"name": "dialogue", "min_turns": 2, "max_turns": 2}
    ((_, (first, second)),) = await generate(
        tmp_path, build("back_translation", of=inner), teacher, {"claims": 1}
    )
    assert second.texts("user") == ("One 1?", "Two 2?")
    assert second.texts("assistant") == first.texts("assistant") == ("A1", "A2")


def test_cost_and_options():
    assert strategy().cost == (1 + 2, 2, 2)
    assert build("back_translation", of={"name": "seeded"}).cost == (2 + 2, 2, 2)
    with pytest.raises(ValidationError, match="two languages"):
        BackTranslationOptions.model_validate({"of": {"name": "grounded"}, "pivot": "english"})


def test_the_page_says_what_is_so(tmp_path):
    (made,) = check_page("back_translation", tmp_path)
    assert made.options.pivot == "German" and set(made.slices) == {seed.slice for seed in SEEDS}
