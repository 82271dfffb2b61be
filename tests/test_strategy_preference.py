"""Preference: the answer that wins in both orders is the sample's, the loser stands beside it; ties go."""

from __future__ import annotations

from itertools import permutations

import pytest
from edited import with_answer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from strategy_kit import Teacher, answer, build, check_page, check_repeats, fate, generate, relations

from factory.errors import RecipeError
from factory.examples import student_examples
from factory.preference import pair_of
from factory.types import Completion, Message, Request, Sample
from generators.preference import Answer, PreferenceOptions, rank

Reply = str | Completion


class Judge(Teacher):
    """Writes 'good' for a section; rivals say what `said` has for their role; the longer answer is better.

    `places` says instead what is judged when; None where the answers decide.
    """

    def __init__(self, said: dict[str, Reply] | None = None, places: list[Reply] | None = None) -> None:
        super().__init__(str)
        self.said = {"": "bad"} if said is None else said
        self.places = places

    @property
    def judged(self) -> list[Request]:
        return [each for each in self.requests if "Which of two" in each.messages[-1].content]

    def follow(self, request: Request) -> Reply:
        if not request.instead_of:
            self.requests.append(request)
        prompt = request.messages[-1].content
        if "Which of two" in prompt:
            if self.places is not None:
                return self.places[len(self.judged) - 1]
            first = prompt.rsplit("First answer: ")[1].split("\nSecond answer: ")[0]
            second = prompt.rsplit("\nSecond answer: ")[1]
            longer = "first" if len(first) > len(second) else "second"
            return answer(reason="Longer.", better="tie" if len(first) == len(second) else longer)
        if request.schema is not None:
            return answer(question=f"Is it due? ({request.ordinal % 1000})", answer="good")
        system = request.messages[0].content if request.messages[0].role == "system" else ""
        return self.said[system.removesuffix("Cite the rule.").strip()]


def preference(of: str = "grounded", **options):
    return build("preference", of={"name": of}, **options)


async def test_the_winner_of_both_orders_is_chosen_and_the_loser_kept_beside_it(tmp_path):
    teacher = Judge()
    made = await generate(tmp_path, preference(), teacher, {"claims": 3, "benefits": 1})
    assert len(teacher.requests) == 4 * 4  # question with answer, rival, two judgements
    for number, (task, (sample,)) in enumerate(made):
        assert (sample.question, sample.answer) == (f"Is it due? ({number})", "good")
        known = {
            "rejected": "bad",
            "chosen_by": "inner",
            "rejected_by": "rival_1",
            "num_answers": "2",
        }
        assert sample.attributes.items() >= known.items()
        assert (sample.operation, sample.attributes["strategy"]) == ("preference", "preference")
        assert relations(sample) == ["source", *["call"] * 4] and sample.parents[0].id == task.source.id
        assert await fate(sample) == "ok"


async def test_a_rival_can_win(tmp_path):
    ((_, (sample,)),) = await generate(tmp_path, preference(), Judge({"": "far better"}), {"claims": 1})
    assert (sample.answer, sample.attributes["rejected"]) == ("far better", "good")
    assert (sample.attributes["chosen_by"], sample.attributes["rejected_by"]) == ("rival_1", "inner")


async def test_rivals_are_asked_in_their_roles_and_judges_see_the_section(tmp_path):
    teacher = Judge({"In a hurry.": "no", "Slowly.": "maybe so"})
    rivals = [{"role": "In a hurry."}, {"role": "Slowly.", "temperature": 0.25}]
    ((task, (sample,)),) = await generate(tmp_path, preference(rivals=rivals), teacher, {"claims": 1})
    assert (sample.answer, sample.attributes["rejected"]) == ("maybe so", "no")
    assert sample.attributes["num_answers"] == "3" and len(teacher.requests) == 1 + 2 + 6
    hurried, slow = teacher.requests[1:3]
    assert [message.role for message in hurried.messages] == ["system", "user"]
    assert hurried.messages[1].content == "Is it due? (0)" and task.source.text not in str(hurried.messages)
    assert (hurried.sampling.temperature, slow.sampling.temperature) == (1.0, 0.25)
    assert all(request.sampling.temperature == 0.0 for request in teacher.judged)
    assert all(task.source.text in request.messages[0].content for request in teacher.judged)
    assert len({request.messages[0].content for request in teacher.judged}) == 6


FIRST, SECOND, TIE = (answer(reason=".", better=better) for better in ("first", "second", "tie"))


@pytest.mark.parametrize(
    ("said", "places", "reason"),
    [
        ("bad", [FIRST, FIRST], "tie"),  # judged by place
        ("bad", [SECOND, SECOND], "tie"),
        ("bad", [TIE, TIE], "tie"),
        ("bad", [FIRST, TIE], "tie"),
        ("bad", [FIRST, SECOND], "ok"),
        ("bad", [answer(reason="", better="First"), SECOND], "ok"),
        (" GOOD\n", [], "same_answers"),
        ("", [], "same_answers"),
        (Completion("It is", "length"), [], "same_answers"),
        ("bad", ["The first."], "not_json"),
        ("bad", [Completion('{"reas', "length")], "truncated"),
        ("bad", [FIRST, answer(reason="x")], "missing_key"),
        ("bad", [answer(reason="x", better="both")], "unknown_verdict"),
    ],
)
async def test_what_gives_no_pair_is_dropped_with_its_reason(tmp_path, said, places, reason):
    teacher = Judge({"": said}, places)
    ((_, (sample,)),) = await generate(tmp_path, preference(), teacher, {"claims": 1})
    assert await fate(sample) == reason
    assert ("rejected" in sample.attributes) == (reason == "ok")
    assert len(teacher.judged) == len(places)
    assert relations(sample) == ["source", *["call"] * (2 + len(places))]
    assert sample.question == "Is it due? (0)"


async def test_running_again_finds_everything_stored(tmp_path):
    rivals = [{"temperature": 0.5}, {"temperature": 1.5, "role": "x"}]
    teacher = Judge({"": "bad", "x": "worst of all"})
    await check_repeats(tmp_path, preference(rivals=rivals), teacher, {"claims": 3, "benefits": 2})


async def test_a_malformed_sample_is_passed_on_unjudged(tmp_path):
    teacher = Teacher(lambda prompt: "no JSON")
    ((_, (sample,)),) = await generate(tmp_path, preference(), teacher, {"claims": 1})
    assert (sample.attributes["malformed"], len(teacher.requests)) == ("not_json", 1)


async def test_the_last_answer_of_a_conversation_is_what_is_compared(tmp_path):
    teacher = Judge()

    def reply(request: Request) -> Reply:
        prompt = request.messages[-1].content
        if "Which of two" in prompt:
            assert "Question: Q1?\nAnswer: A1\nQuestion: Q2?\nFirst answer: " in prompt
            return answer(reason=".", better="first" if "First answer: A2" in prompt else "second")
        if "You play" not in request.messages[0].content:
            assert [message.content for message in request.messages[1:]] == ["Q1?", "A1", "Q2?"]
            return "rival"
        turn = len(request.messages) // 2
        return f"Q{turn}?" if "person who asks" in request.messages[0].content else f"A{turn}"

    teacher.script = reply
    inner = {"name": "dialogue", "min_turns": 2, "max_turns": 2, "system": "Be brief."}
    ((_, (sample,)),) = await generate(tmp_path, build("preference", of=inner), teacher, {"claims": 1})
    assert [message.content for message in sample.messages] == ["Be brief.", "Q1?", "A1", "Q2?", "A2"]
    pair = pair_of(sample.messages, sample.attributes)
    assert [turn["content"] for turn in pair["prompt"]] == ["Be brief.", "Q1?", "A1", "Q2?"]
    assert pair["chosen"] == [{"role": "assistant", "content": "A2"}]
    assert pair["rejected"] == [{"role": "assistant", "content": "rival"}]


def test_supervised_training_takes_the_chosen_answer_and_an_edit_keeps_the_pair():
    messages = [Message("user", "Q"), Message("assistant", "good")]
    sample = Sample.create(messages, [], "preference", {"rejected": "bad"})
    assert list(student_examples([sample])) == [{"messages": [turn._asdict() for turn in messages]}]
    edited = with_answer(sample, "better")
    assert pair_of(edited.messages, edited.attributes)["chosen"][0]["content"] == "better"
    spoilt = with_answer(sample, "bad")
    assert pair_of(spoilt.messages, spoilt.attributes) is None
    assert pair_of(messages, {}) is None and pair_of(messages, {"rejected": "x", "tools": "[]"}) is None


NAMES = [Answer(name, name) for name in "abcd"]


@given(st.sets(st.sampled_from(list(permutations(NAMES, 2)))))
def test_ranking_never_rejects_what_has_more_wins(beats):
    beats = {(a, b) for a, b in beats if (b, a) not in beats or a.text < b.text}
    best, worst = rank(NAMES, beats)
    points = {each: sum(each == a for a, _ in beats) - sum(each == b for _, b in beats) for each in NAMES}
    assert points[best] == max(points.values()) and points[worst] == min(points.values())


def test_a_clear_order_is_found():
    a, b, c, _ = NAMES
    assert rank([a, b, c], {(c, a), (c, b), (a, b)}) == (c, b)
    best, worst = rank([a, b, c], {(a, b), (b, c), (c, a)})
    assert best == worst  # a circle has no best


def test_options():
    for rivals in ([], [{"role": "a"}, {"role": "a"}], [{"temperature": -1.0}], [{"rule": "a"}]):
        with pytest.raises(ValidationError):
            PreferenceOptions.model_validate({"of": {"name": "grounded"}, "rivals": rivals})
    with pytest.raises(RecipeError, match="alike"):
        preference(rivals=[{}, {}])
    assert preference("seeded").cost == (2 + 3, 1, 1)
    assert preference(rivals=[{}, {"role": "a"}]).cost == (1 + 2 + 6, 1, 1)


def test_the_page_says_what_is_so(tmp_path):
    (made,) = check_page("preference", tmp_path)
    assert [rival.temperature for rival in made.options.rivals] == [1.0, 0.3] and made.cost.num_calls == 9
