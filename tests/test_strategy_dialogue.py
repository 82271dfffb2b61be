"""Dialogues: both sides are played in their own role, every turn is kept, and what goes wrong is named."""

from __future__ import annotations

from collections import Counter

import pytest
from pydantic import ValidationError
from strategy_kit import (
    SEEDS,
    SOURCES,
    Teacher,
    build,
    check_page,
    check_repeats,
    domain_of,
    fate,
    generate,
    relations,
)

from factory.errors import RecipeError
from factory.types import Completion, Request
from generators.dialogue import DialogueOptions

SYSTEM = "You are the help desk."


class Players(Teacher):
    """Plays both sides: each reply says who speaks and in which turn."""

    def __init__(self, replies: dict[tuple[str, int], str | Completion] | None = None) -> None:
        super().__init__(str)
        self.replies = replies or {}

    def follow(self, request: Request) -> str | Completion:
        self.requests.append(request)
        side = "user" if "person who asks" in request.messages[0].content else "assistant"
        turn = len(request.messages) // 2
        usual = f"Question {turn} of task {request.ordinal}?" if side == "user" else f"Answer {turn} (§ 0)."
        return self.replies.get((side, turn), usual)


async def one(tmp_path, players=None, **options):
    """The sample of one task with three turns, unless told otherwise."""
    strategy = build("dialogue", **{"min_turns": 3, "max_turns": 3, **options})
    ((task, (sample,)),) = await generate(tmp_path, strategy, players or Players(), {"claims": 1})
    return task, sample


async def test_every_turn_is_in_the_sample_and_every_call_among_its_parents(tmp_path):
    players = Players()
    task, sample = await one(tmp_path, players)
    assert [(m.role, m.content) for m in sample.messages] == [
        ("user", f"Question 1 of task {task.ordinal}?"),
        ("assistant", "Answer 1 (§ 0)."),
        ("user", f"Question 2 of task {task.ordinal}?"),
        ("assistant", "Answer 2 (§ 0)."),
        ("user", f"Question 3 of task {task.ordinal}?"),
        ("assistant", "Answer 3 (§ 0)."),
    ]
    assert relations(sample) == ["source", *["call"] * 6]
    assert [parent.id for parent in sample.parents] == [
        task.source.id, *(request.id for request in players.requests)
    ]  # fmt: skip
    assert sample.attributes == {
        "slice": "claims", "strategy": "dialogue", "source_key": task.source.key, "num_turns": "3"
    }  # fmt: skip
    assert await fate(sample) == "ok"


async def test_each_side_has_a_system_prompt_and_sees_the_other_as_its_user(tmp_path):
    players = Players()
    task, _ = await one(tmp_path, players, user="a roofer", assistant="a lawyer")
    asking, answering = players.requests[0::2], players.requests[1::2]
    for request in players.requests:
        assert [message.role for message in request.messages[:2]] == ["system", "user"]
        roles = [message.role for message in request.messages[1:]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert task.source.text in request.messages[0].content
        assert "a roofer" in request.messages[0].content and "a lawyer" in request.messages[0].content
    assert {request.messages[1].content for request in asking} == {
        "Begin the conversation with your first message."
    }
    assert [m.content for m in asking[1].messages[2:]] == [
        f"Question 1 of task {task.ordinal}?", "Answer 1 (§ 0)."
    ]  # fmt: skip
    assert [m.content for m in answering[1].messages[1:]] == [
        f"Question 1 of task {task.ordinal}?", "Answer 1 (§ 0).", f"Question 2 of task {task.ordinal}?"
    ]  # fmt: skip
    assert "Cite the rule." in answering[0].messages[0].content
    assert "Cite the rule." not in asking[0].messages[0].content
    assert all(request.schema is None for request in players.requests)


async def test_a_system_message_opens_sample_and_answering_prompt(tmp_path):
    players = Players()
    _, sample = await one(tmp_path, players, system=SYSTEM)
    assert (sample.messages[0].role, sample.messages[0].content) == ("system", SYSTEM)
    assert len(sample.messages) == 7 and await fate(sample) == "ok"
    assert players.requests[1].messages[0].content.startswith(SYSTEM)
    assert SYSTEM not in players.requests[0].messages[0].content


async def test_the_number_of_turns_lies_in_its_range_and_repeats(tmp_path):
    strategy = build("dialogue", min_turns=2, max_turns=4)
    made = await generate(tmp_path, strategy, Players(), {"claims": 40})
    counts = Counter(len(sample.texts("user")) for _, (sample,) in made)
    assert set(counts) == {2, 3, 4}
    assert all(sample.attributes["num_turns"] == str(len(sample.texts("user"))) for _, (sample,) in made)
    assert strategy.cost == (8, 1, 4)


async def test_running_again_finds_every_turn_stored(tmp_path):
    await check_repeats(tmp_path, build("dialogue", min_turns=1), Players(), {"claims": 6, "benefits": 3})


async def test_seed_prompts_are_talked_about_without_a_section(tmp_path):
    players = Players()
    strategy = build("dialogue", about="seeds", min_turns=1, max_turns=1)
    assert set(strategy.slices) == {"claims", "benefits"}
    made = await generate(tmp_path, strategy, players, {"claims": 2, "benefits": 1})
    for task, (sample,) in made:
        (seed,) = task.seeds
        assert relations(sample)[0] == "seed" and sample.parents[0].id == seed.id
        if seed.source_key:
            assert sample.attributes["source_key"] == seed.source_key
    heads = [request.messages[0].content for request in players.requests]
    assert any(SEEDS[0].prompt in head for head in heads)
    assert not any(source.text in head for source in SOURCES for head in heads)


@pytest.mark.parametrize(
    ("side", "turn", "reply", "reason", "num_calls", "end"),
    [
        ("assistant", 2, Completion("It is due wi", "length"), "truncated", 4, "It is due wi"),
        ("user", 2, Completion("And when doe", "length"), "truncated", 3, "And when doe"),
        ("user", 1, Completion("When doe", "length"), "truncated", 1, "When doe"),
        ("assistant", 2, "  \n", "empty_turn", 4, "Answer 1 (§ 0)."),
        ("user", 3, "", "empty_turn", 5, "Answer 2 (§ 0)."),
        ("user", 2, "answer 1 § 0", "repeated_turn", 3, "answer 1 § 0"),
        ("assistant", 1, "Question 1 of task 1000000!", "repeated_turn", 2, "Question 1 of task 1000000!"),
    ],
)
async def test_a_bad_reply_ends_the_conversation_and_is_dropped(
    tmp_path, side, turn, reply, reason, num_calls, end
):
    players = Players({(side, turn): reply})
    _, sample = await one(tmp_path, players)
    assert sample.attributes["malformed"] == reason and await fate(sample) == reason
    assert relations(sample) == ["source", *["call"] * num_calls] and len(players.requests) == num_calls
    roles = [message.role for message in sample.messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2)  # a control without refiners trains on it
    assert sample.answer == end


async def test_short_answers_may_recur(tmp_path):
    players = Players({("assistant", turn): "Yes (§ 0)." for turn in (1, 2, 3)})
    _, sample = await one(tmp_path, players)
    assert sample.texts("assistant") == ("Yes (§ 0).",) * 3 and "malformed" not in sample.attributes


async def test_debris_in_an_early_turn_is_dropped_by_form(tmp_path):
    _, sample = await one(tmp_path, Players({("assistant", 1): "<think>hm</think> Thirty days."}))
    assert await fate(sample) == "leftover_markup"


def test_what_cannot_be_is_refused():
    with pytest.raises(ValidationError, match="min_turns must not be more"):
        DialogueOptions(min_turns=3, max_turns=2)
    with pytest.raises(RecipeError, match="needs sources"):
        build("dialogue", domain_of(sources=()))
    with pytest.raises(RecipeError, match="needs seeds"):
        build("dialogue", domain_of(seeds=()), about="seeds")


def test_the_page_says_what_is_so(tmp_path):
    (strategy,) = check_page("dialogue", tmp_path)
    assert (strategy.options.min_turns, strategy.options.max_turns) == (2, 5)
