from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint, Status
from hypothesis import given, settings
from hypothesis import strategies as st
from test_refiners import make, make_domain, no_model, one, reasons, rewrite

from factory.asking import bound_refiners
from factory.budget import Budget
from factory.particulars import particulars, with_digits
from factory.progress import Progress
from factory.recipe import BudgetSpec
from factory.servers import EndpointServer
from factory.store.store import Store
from factory.types import Parent, Sample
from refiners.semantic import Semantic, SemanticOptions

QUESTION, ANSWER = (
    "How many days does an employee have to report the accident?",
    "30 days after the accident.",
)
SAME = "How many days does the employee have for reporting an accident?"


def create(**options: Any) -> Semantic:
    return Semantic(SemanticOptions(**options), make_domain())


async def test_the_first_of_two_with_one_meaning_stays_and_is_named():
    refiner, first = create(threshold=0.85), make(QUESTION, ANSWER, 1)
    kept = await one(refiner, first)
    assert (kept.action, kept.scores) == ("keep", ())
    dropped = await one(refiner, make(SAME, "30 days after an accident.", 2))
    assert (dropped.action, dropped.reason, dropped.evidence["of"]) == (
        "drop",
        "semantic_duplicate",
        first.id,
    )
    (score,) = dropped.scores
    assert score.metric == "nearest_cosine" and score.value == dropped.evidence["cosine"] >= 0.85


@pytest.mark.parametrize(
    "other",
    [
        make(SAME, "40 days after the accident.", 2),
        make(SAME, "Not 30 days after the accident.", 2),
        make(SAME, ANSWER, 2, source_key="34-9-82"),
        make("Who has to be told of the accident?", ANSWER, 2),
        make(SAME, "30 days after the accident, to Kim.", 2),
    ],
)
async def test_other_facts_and_questions_pass(other: Sample):
    refiner = create(threshold=0.85)
    assert await reasons(refiner, [make(QUESTION, ANSWER, 1), other]) == ["ok", "ok"]


async def test_an_unknown_section_is_taken_for_any():
    first, second = make(QUESTION, ANSWER, 1, source_key=""), make(SAME, ANSWER, 2)
    for pair in ([first, second], [second, first]):
        assert await reasons(create(threshold=0.85), pair) == ["ok", "semantic_duplicate"]


async def test_relatives_and_rewrites_are_spared():
    refiner, first = create(threshold=0.85), make(QUESTION, ANSWER, 1)
    relative = make(SAME, ANSWER, 2, original=first.id)
    assert (
        await reasons(refiner, [first, rewrite(first, "Thirty days after an accident."), relative])
        == ["ok"] * 3
    )
    stranger = make(QUESTION + " Tell me.", ANSWER, 3)
    assert await reasons(refiner, [stranger]) == ["semantic_duplicate"]


async def test_a_sample_that_comes_again_is_no_duplicate_of_itself():
    refiner, first = create(), make(QUESTION, ANSWER, 1)
    assert await reasons(refiner, [first]) == await reasons(refiner, [first]) == ["ok"]


TEXTS = [QUESTION, SAME, "Who must be told?", "Is a report by mail enough?", "Is a report by letter enough?"]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from([ANSWER, "Yes.", "30 days."])), max_size=10),
    st.data(),
)
async def test_opened_over_what_passed_it_decides_as_if_it_had_gone_on(pairs, data):
    samples = [make(question, answer, n) for n, (question, answer) in enumerate(pairs)]
    cut = data.draw(st.integers(0, len(samples)))
    whole, before, after = (create(threshold=0.85) for _ in range(3))
    expected = await whole.refine(samples, no_model)
    first = await before.refine(samples[:cut], no_model)
    passed = [sample for sample, decision in zip(samples, first, strict=False) if decision.action == "keep"]
    after.open(sorted(passed, key=lambda sample: sample.id))
    rest = await after.refine(samples[cut:], no_model)
    assert [decision.action for decision in [*first, *rest]] == [decision.action for decision in expected]


async def test_places_grow():
    refiner = create(threshold=1.0)
    samples = [make(f"What is {chr(97 + n)}{chr(97 + n)} called?", "Nothing.", n) for n in range(26)]
    assert set(await reasons(refiner, samples)) == {"ok"}
    again = [
        Sample.create(each.messages, [Parent("call_x", "call")], "grounded", each.attributes)
        for each in samples
    ]
    found = await create(threshold=0.999).refine([*samples, *again], no_model)
    assert [each.evidence.get("of") for each in found[26:]] == [sample.id for sample in samples]


# particulars


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("It takes forty-eight hours.", "It takes 48 hours.", True),
        ("one of them", "either of them", True),
        ("It is due.", "It isn't due.", False),
        ('Set "red" here.', 'Set "blue" here.', False),
        ("part = 'wheel'", "part = 'chain'", False),
        ('{"on": true}', '{"on": false}', False),
        ("Ask Kim about it.", "Kim was asked about it.", True),
        ("Ask Kim about it.", "Ask Jo about it.", False),
        ("30 days (§ 34-9-80)", "30 days (§ 34-9-81)", False),
    ],
)
def test_particulars(left: str, right: str, same: bool):
    assert particulars(left).agree(particulars(right)) is same


def test_number_words_are_digits():
    assert with_digits(["twenty", "one", "or", "thirty", "and", "one", "but", "not", "ninety", "nine"]) == [
        "21",
        "or",
        "30",
        "and",
        "one",
        "but",
        "not",
        "99",
    ]


async def test_rows_of_an_endpoint_are_kept_for_the_run_that_goes_on(tmp_path):
    def rows_for(body: dict[str, Any]) -> Status:
        data = [{"index": at, "embedding": [1.0, len(text)]} for at, text in enumerate(body["input"])]
        return Status(200, {"data": data, "usage": {"prompt_tokens": len(data)}})

    samples = [make(f"{QUESTION} {word}", ANSWER, n) for n, word in enumerate(["Now?", "And where?"])]
    async with FakeEndpoint(rows_for) as endpoint:
        domain = make_domain()
        server = EndpointServer(kind="endpoint", base_url=endpoint.base_url)
        recipe = domain.recipe.model_copy(update={"servers": {"there": server}})
        refiner = Semantic(
            SemanticOptions.model_validate({"embedder": {"server": "there", "model": "small"}}),
            replace(domain, recipe=recipe),
        )
        with Store.open(tmp_path / "w") as store:
            engine = SimpleNamespace(budget=Budget(BudgetSpec(calls=1)))
            bench: Any = SimpleNamespace(
                store=store, engine=engine, run_id="run_a", progress=Progress(bars=False)
            )
            bench.refiners = lambda: [("semantic", refiner)]
            ((_, bound),) = bound_refiners(bench, 1)
            await reasons(bound, samples)
            bound.open(samples)  # as after a restart
            await reasons(bound, samples)
            assert store.select("SELECT role, round, prompt_tokens AS n FROM calls") == [
                {"role": "embedder", "round": 1, "n": 3}
            ]
    assert len(endpoint.requests) == 1
