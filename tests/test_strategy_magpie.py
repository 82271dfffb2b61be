"""Magpie: the user's turn is left open, what comes is filtered and answered."""

from __future__ import annotations

import random

import pytest
import yaml
from fake_endpoint import FakeEndpoint
from fake_endpoint import answer as completion
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from strategy_kit import SEEDS, Teacher, answer, build, check_page, check_repeats, fate, generate, relations
from test_vllm_server import real  # noqa: F401 (a fixture)

from factory.errors import RecipeError
from factory.init import write_template
from factory.load import load
from factory.models.client import EndpointModel
from factory.types import OPEN_TURN, Completion, Message, Request, Sampling
from generators.magpie import MagpieOptions
from generators.repetition import is_repetitive, share_repeated, words_of

Reply = str | Completion
LOOP = "and then you file the claim again " * 10


class Aligned(Teacher):
    """Goes on with an open turn by asking, and answers what is asked."""

    def __init__(
        self, said: str | Completion | None = None, answered: str | Completion | None = None
    ) -> None:
        super().__init__(str)
        self.said, self.answered = said, answered

    def follow(self, request: Request) -> str | Completion:
        self.requests.append(request)
        if request.messages[-1] == OPEN_TURN:
            return f"Is notice number {request.ordinal} due?\n" if self.said is None else self.said
        return answer(answer="Yes, in time.") if self.answered is None else self.answered


async def test_an_instruction_is_drawn_and_answered(tmp_path):
    teacher = Aligned()
    made = await generate(tmp_path, build("magpie"), teacher, {"claims": 3, "benefits": 2})
    assert len(made) == 5 and len(teacher.requests) == 10
    for task, (sample,) in made:
        assert (sample.question, sample.answer) == (f"Is notice number {task.ordinal} due?", "Yes, in time.")
        assert relations(sample)[0] == "seed" and relations(sample)[-2:] == ["call", "call"]
        assert sample.parents[0].id == task.seeds[0].id and await fate(sample) == "ok"
        assert [message.role for message in sample.messages] == ["user", "assistant"]
    # The section that an instruction is about is known where one is near: the refiners need it.
    assert {sample.attributes.get("source_key") for _, (sample,) in made} >= {"rule-0"}


async def test_the_turn_is_open_and_the_system_message_names_domain_and_slice(tmp_path):
    teacher = Aligned()
    await generate(tmp_path, build("magpie", temperature=1.2), teacher, {"claims": 2})
    opened = [request for request in teacher.requests if request.messages[-1] == OPEN_TURN]
    assert len(opened) == 2 and opened[0].id != opened[1].id
    for request in opened:
        system, last = request.messages
        assert system == Message(
            "system", "You are an assistant for Small law, and your users ask about claims."
        )
        assert last == Message("user", "") and request.schema is None
        assert (request.sampling.temperature, request.sampling.top_p) == (1.2, 1.0)
    assert len({request.sampling.seed for request in opened}) == 2
    asked = [request for request in teacher.requests if request not in opened]
    assert all("Cite the rule." in request.messages[-1].content for request in asked)
    assert {request.sampling.temperature for request in asked} == {0.7}


async def test_without_a_system_message_the_turn_stands_alone(tmp_path):
    teacher = Aligned()
    await generate(tmp_path, build("magpie", system=""), teacher, {"claims": 1})
    assert teacher.requests[0].messages == (OPEN_TURN,)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("", "too_short"),
        ("Hello there!", "too_short"),
        ("word " * 401, "too_long"),
        (Completion("How long does it", "length"), "truncated"),
        (LOOP, "repetitive"),
        ("Is it due?<|im_end|>", "leftover_markup"),
        ("什么是工伤赔偿？", "ok"),
        ("What is due when a claim is late?", "ok"),
    ],
)
async def test_what_is_no_instruction_is_dropped_and_not_answered(tmp_path, said, reason):
    teacher = Aligned(said)
    ((_, (sample,)),) = await generate(tmp_path, build("magpie"), teacher, {"claims": 1})
    assert await fate(sample) == reason
    assert len(teacher.requests) == (2 if reason in {"ok", "leftover_markup"} else 1)
    assert sample.question == (said if isinstance(said, str) else said.text).strip()


@pytest.mark.parametrize(
    ("answered", "reason"),
    [
        ("Yes.", "not_json"),
        (Completion('{"answer": "Y', "length"), "truncated"),
        (answer(answer=LOOP), "answer_repetitive"),
        (answer(answer=" "), "empty_answer"),
    ],
)
async def test_an_answer_that_is_none_is_dropped(tmp_path, answered, reason):
    ((_, (sample,)),) = await generate(tmp_path, build("magpie"), Aligned(None, answered), {"claims": 1})
    assert await fate(sample) == reason and relations(sample)[-2:] == ["call", "call"]


async def test_running_again_finds_everything_stored(tmp_path):
    await check_repeats(tmp_path, build("magpie"), Aligned(), {"claims": 4, "benefits": 2})


async def test_an_endpoint_is_asked_to_go_on_with_the_turn():
    request = Request("m", (Message("system", "S"), OPEN_TURN), None, Sampling(temperature=1.0))
    usual = Request("m", (Message("user", "Q"),), None, Sampling())
    async with FakeEndpoint([completion("Is it due?")]) as endpoint:
        model = EndpointModel(endpoint.base_url, "m", "m")
        assert (await model.complete(request)).text == "Is it due?"
        await model.complete(usual)
        await model.close()
    opened, closed = endpoint.requests
    assert opened["messages"][-1] == {"role": "user", "content": ""}
    assert (opened["continue_final_message"], opened["add_generation_prompt"]) == (True, False)
    assert not {"continue_final_message", "add_generation_prompt"} & closed.keys()


def test_an_endpoint_that_cannot_is_told_before_the_first_call(tmp_path):
    write_template(tmp_path / "domain")
    server = {"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1"}
    for strategy in ({"name": "magpie"}, {"name": "paraphrase", "of": {"name": "magpie"}}):
        profile = {
            "servers": {"main": server},
            "models": {"teacher": {"server": "main", "model": "x"}},
            "strategies": [strategy],
            "refiners": [{"name": "form"}],
            "loop": {"controls": {}},
        }
        path = tmp_path / "domain" / "profiles" / "own.yaml"
        path.write_text(yaml.safe_dump(profile))
        with pytest.raises(RecipeError, match="which the endpoint 'main' may not do") as caught:
            load(tmp_path / "domain", "own")
        assert "can_open_turns" in caught.value.hint and "own.yaml" in str(caught.value)
        profile["servers"] = {"main": {**server, "can_open_turns": True}}
        path.write_text(yaml.safe_dump(profile))
        load(tmp_path / "domain", "own")


def test_repetition_is_told_from_length_and_lists():
    assert is_repetitive(LOOP) and is_repetitive("是的 " * 30)
    rng = random.Random(1)
    prose = " ".join(f"word{rng.randrange(10_000)}" for _ in range(300))
    table = "\n".join(f"{n} pens at {3 * n} dollars from shop {n}" for n in range(20))
    assert not is_repetitive(prose) and not is_repetitive(table) and not is_repetitive("no " * 19)


@given(st.text())
def test_the_share_is_a_share(text):
    assert 0.0 <= share_repeated(words_of(text)) <= 1.0


def test_options():
    for wrong in ({"temperature": 0.0}, {"temperature": 3.0}, {"seed": 1}):
        with pytest.raises(ValidationError):
            MagpieOptions.model_validate(wrong)
    strategy = build("magpie")
    assert set(strategy.slices) == {seed.slice for seed in SEEDS} and strategy.cost.num_calls == 2
    assert {seed.slice for seed in strategy.material} == set(strategy.slices)


def test_the_page_says_what_is_so(tmp_path):
    (made,) = check_page("magpie", tmp_path)
    assert made.options.temperature == 1.1


@pytest.mark.vllm
async def test_the_real_server_leaves_the_users_turn_open(real):  # noqa: F811
    """The template is `<|role|>text<|end|>`: of an open turn nothing but `<|user|>` stands there."""
    base_url, key, *_ = real
    model = EndpointModel(base_url, "base", "id", key)
    sampling = Sampling(temperature=1.0, max_tokens=8, seed=3)
    # vLLM 0.32 on a CPU dies where the first prompt it ever sees has only a few tokens.
    await model.complete(Request("m", (Message("user", "word " * 40),), None, sampling))
    opened = await model.complete(Request("m", (OPEN_TURN,), None, sampling))
    closed = await model.complete(Request("m", (Message("user", "x"),), None, sampling))
    framed = await model.complete(Request("m", (Message("system", "x"), OPEN_TURN), None, sampling))
    await model.close()
    assert opened.prompt_tokens == 1 and opened.completion_tokens >= 1
    assert closed.prompt_tokens == 4  # <|user|> x <|end|> <|assistant|>
    assert framed.prompt_tokens == 4  # <|system|> x <|end|> <|user|>
