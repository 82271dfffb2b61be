"""Grounded questions of four kinds: what each asks, what it descends from, and what is dropped."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from pydantic import ValidationError
from strategy_kit import (
    SOURCES,
    Teacher,
    answer,
    build,
    check_page,
    check_repeats,
    domain_of,
    fate,
    generate,
    relations,
)

from factory.errors import RecipeError
from factory.forecast import forecast
from factory.recipe import ModelSpec, SamplingSpec, StrategySpec
from factory.servers import ScriptedServer
from factory.types import Completion, Parent, Source
from generators.facts import SHARED
from generators.grounded import GroundedOptions
from generators.multi_hop import partners_of

SILENT = "The handbook does not say."
LEAVE = Source.create(
    "leave",
    "h.md",
    "§ 9",
    "Leave",
    "Leave is 12 days a year. It is paid by the employer. A request is made 3 weeks ahead. "
    "Unused leave lapses in March.",
    "leave",
)
FACTS = [
    "Leave is 12 days a year.",
    "Leave is paid by the employer.",
    "leave is paid by the employer",
    "Leave lapses after 15 months.",
    "A request is made 3 weeks ahead.",
    "Unused leave lapses in March.",
]


class Good(Teacher):
    """Answers every kind as a good teacher would; `known` are words that any text is said to answer."""

    def __init__(self, known: str = "", **replies: str | Completion) -> None:
        super().__init__(self.write)
        self.known, self.replies = known, replies

    def write(self, prompt: str) -> str | Completion:
        kind = kind_of(prompt)
        if kind in self.replies:
            return self.replies[kind]
        texts = re.findall(r"The \w+ limit is \d days\.", prompt)
        number = self.requests[-1].ordinal % 1000
        if kind == "check":
            is_known = bool(self.known) and self.known in prompt
            return answer(evidence="", answerable="yes" if is_known else "No")
        if kind == "multi_hop":
            found = {f"evidence_{n}": text.upper() for n, text in enumerate(texts, 1)}
            return answer(
                question=f"Which limit is longer? ({number})", **found, answer="The other (§ 0, § 1)."
            )
        if kind == "unanswerable":
            return answer(question=f"Who set the limit? ({number})", missing="Its author.")
        if kind == "list":
            return answer(facts=FACTS)
        if kind == "fact":
            fact = re.search(r"Fact: (.*)", prompt)[1]
            return answer(question=f"Is it so ({number}): {fact}", answer=fact)
        return answer(question=f"How long? ({number})", answer="Some days.")


def kind_of(prompt: str) -> str:
    starts = {
        "Does the text below": "check",
        "Write one question that only": "multi_hop",
        "Write one question that a reader of this": "unanswerable",
        "List the facts": "list",
        "Write one question that a reader could ask and that this fact": "fact",
    }
    return next((kind for start, kind in starts.items() if prompt.startswith(start)), "single")


def grounded(*kinds: str, domain=None, **options):
    shares = dict.fromkeys(kinds, 1)
    if "unanswerable" in kinds:
        options["unanswerable_answer"] = SILENT
    return build("grounded", domain, kinds=shares, **options)


# multi_hop


async def test_a_multi_hop_question_needs_two_sections_and_descends_from_both(tmp_path):
    teacher = Good()
    made = await generate(tmp_path, grounded("multi_hop"), teacher, {"claims": 6})
    assert len(teacher.requests) == 6 * 3  # the question, and a check of each section alone
    by_key = {source.key: source for source in SOURCES}
    for task, (sample,) in made:
        first, second = (by_key[key] for key in sample.attributes["source_keys"].split())
        assert first == task.source and first != second
        assert sample.parents[:2] == (Parent(first.id, "source"), Parent(second.id, "source"))
        assert relations(sample) == ["source", "source", "call", "call", "call"]
        assert sample.attributes["kind"] == "multi_hop" and sample.attributes["source_key"] == first.key
        assert sample.attributes["evidence_2"] == second.text.upper()
        assert await fate(sample) == "ok"
    pairs = {tuple(sample.attributes["source_keys"].split()) for _, (sample,) in made}
    assert len(pairs) == 6  # each section with each other, in turn


async def test_each_section_is_checked_alone_and_without_the_answer(tmp_path):
    teacher = Good()
    ((_, (sample,)),) = await generate(tmp_path, grounded("multi_hop"), teacher, {"claims": 1})
    asking, *checks = teacher.prompts
    assert "both sections" in asking and "cites each section" in asking and "Cite the rule." in asking
    assert '"evidence_1", "evidence_2", and "answer"' in asking
    for check, key in zip(checks, sample.attributes["source_keys"].split(), strict=True):
        assert [source.key for source in SOURCES if source.text in check] == [key]
        assert check.endswith(f"Question: {sample.question}") and sample.answer not in check


async def test_three_sections_where_three_belong_together(tmp_path):
    strategy = grounded("multi_hop", num_sections=3)
    ((_, (sample,)),) = await generate(tmp_path, strategy, Good(), {"claims": 1})
    assert len(set(sample.attributes["source_keys"].split())) == 3 and "evidence_3" in sample.attributes
    assert await fate(sample) == "ok" and strategy.cost.num_calls == 4 and strategy.num_sections == 3


@pytest.mark.parametrize(
    ("teacher", "reason", "num_calls"),
    [
        (Good(known="The notice limit"), "one_section_enough", 2),
        (Good(multi_hop=answer(question="Q?", evidence_1="The notice limit", evidence_2="No", answer="A")),
         "evidence_not_found", 1),
        (Good(multi_hop=answer(question="Q?", evidence_1="The notice limit", evidence_2=" ", answer="A")),
         "evidence_not_found", 1),
        (Good(multi_hop=answer(question="Q?", answer="A")), "missing_key", 1),
        (Good(multi_hop=Completion('{"question": "Q', "length")), "truncated", 1),
        (Good(check=answer(evidence="", answerable="perhaps")), "unknown_verdict", 2),
        (Good(check="Yes."), "not_json", 2),
    ],
)  # fmt: skip
async def test_a_multi_hop_question_that_is_none_is_dropped(tmp_path, teacher, reason, num_calls):
    strategy = grounded("multi_hop", domain=domain_of(sources=SOURCES[:2]))
    tasks = [task for task in strategy.plan({"claims": 4}, 1) if task.source == SOURCES[0]]
    strategy.plan = lambda *_: tasks[:1]
    ((_, (sample,)),) = await generate(tmp_path, strategy, teacher, {"claims": 1})
    assert sample.attributes["malformed"] == reason and await fate(sample) == reason
    assert relations(sample) == ["source", "source", *["call"] * num_calls]


def test_partners_are_those_cited_then_those_that_share_words_then_the_slice():
    def section(key: str, text: str, slice: str = "a") -> Source:
        return Source.create(key, "h.md", f"§ {key}", "", text, slice)

    sections = [
        section("1", "Surgery must be approved; how, § 4 says."),
        section("2", "Fees are due at noon."),
        section("3", "Approved surgery needs a surgeon.", "b"),
        section("4", "Nobody may appeal.", "b"),
        section("5", "Trains run late.", "b"),
    ]
    found = partners_of(sections[0], domain_of(sources=sections))
    assert [source.key for source in found] == ["4", "3", "2"]


def test_a_section_that_belongs_with_none_gets_a_single_question():
    lonely = (*SOURCES[:2], LEAVE)
    tasks = list(grounded("multi_hop", domain=domain_of(sources=lonely)).plan({"claims": 2, "leave": 2}, 1))
    kinds = {(task.slice, task.attributes["kind"], len(task.beside)) for task in tasks}
    assert kinds == {("claims", "multi_hop", 1), ("leave", "single", 0)}
    with pytest.raises(RecipeError, match=r"kinds.multi_hop: no two sections"):
        grounded("multi_hop", domain=domain_of(sources=(LEAVE,)))


# unanswerable


async def test_an_unanswerable_question_gets_the_words_of_the_recipe(tmp_path):
    teacher = Good()
    made = await generate(tmp_path, grounded("unanswerable"), teacher, {"claims": 3})
    for task, (sample,) in made:
        assert sample.answer == SILENT and sample.question.startswith("Who set the limit?")
        assert relations(sample) == ["source", "call", "call"]
        assert sample.parents[0].id == task.source.id and "source_keys" not in sample.attributes
        assert (sample.attributes["answerable"], sample.attributes["missing"]) == ("no", "Its author.")
        assert await fate(sample) == "ok"
    assert not any(SILENT in prompt for prompt in teacher.prompts)


async def test_what_another_section_answers_is_dropped(tmp_path):
    """The question is made from the section on notice and is answered by that on wages."""
    asked = answer(question="What is the wage limit?", missing="The limit for wages.")
    teacher = Good(known="The wage limit", unanswerable=asked)
    ((_, (sample,)),) = await generate(tmp_path, grounded("unanswerable"), teacher, {"claims": 1})
    assert sample.attributes["malformed"] == "answerable" and await fate(sample) == "answerable"
    assert sample.answer == SILENT and SOURCES[3].text in teacher.prompts[1]


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ({"unanswerable": "no JSON"}, "not_json"),
        ({"unanswerable": answer(missing="x")}, "missing_key"),
        ({"check": answer(evidence="x")}, "missing_key"),
    ],
)
async def test_an_unanswerable_question_that_is_not_as_asked_is_dropped(tmp_path, replies, reason):
    ((_, (sample,)),) = await generate(tmp_path, grounded("unanswerable"), Good(**replies), {"claims": 1})
    assert await fate(sample) == reason


def test_the_words_for_the_unanswerable_must_be_given():
    with pytest.raises(ValidationError, match="unanswerable_answer"):
        GroundedOptions(kinds={"unanswerable": 1}, unanswerable_answer=" ")


# facts


async def test_each_fact_is_asked_about_as_often_as_the_others(tmp_path):
    teacher = Good()
    strategy = grounded("facts", domain=domain_of(sources=(LEAVE,)), num_facts=5)
    made = await generate(tmp_path, strategy, teacher, {"leave": 8})
    lists = [request for request in teacher.requests if request.messages[-1].content.startswith("List")]
    assert len(lists) == 1 and lists[0].ordinal == SHARED and len(teacher.requests) == 9
    asked = Counter(sample.attributes["fact"] for _, (sample,) in made)
    # A fact twice counts once, one with a number of its own is left out.
    assert asked == {FACTS[0]: 2, FACTS[1]: 2, FACTS[4]: 2, FACTS[5]: 2}
    for _, (sample,) in made:
        assert relations(sample) == ["source", "call", "call"] and sample.attributes["kind"] == "facts"
        assert sample.answer == sample.attributes["fact"] and await fate(sample) == "ok"


@pytest.mark.parametrize(
    ("replies", "reason", "num_calls"),
    [
        ({"list": "none"}, "not_json", 2),
        ({"list": answer(facts=[])}, "missing_key", 2),
        ({"list": answer(facts=["Leave is 99 days."])}, "unknown_number", 2),
        ({"fact": answer(question="Q?")}, "missing_key", 2),
    ],
)
async def test_facts_that_are_not_as_asked_are_dropped(tmp_path, replies, reason, num_calls):
    strategy = grounded("facts", domain=domain_of(sources=(LEAVE,)))
    teacher = Good(**replies)
    ((_, (sample,)),) = await generate(tmp_path, strategy, teacher, {"leave": 1})
    assert await fate(sample) == reason and len(teacher.requests) == num_calls


# all kinds together


def test_kinds_get_their_shares_over_all_and_over_each_section():
    shares = {"single": 6, "facts": 2, "multi_hop": 1, "unanswerable": 1}
    strategy = build("grounded", kinds=shares, unanswerable_answer=SILENT)
    tasks = list(strategy.plan({"claims": 300}, 3))
    total, of_section = Counter(), defaultdict(Counter)
    for task in tasks:
        total[task.attributes["kind"]] += 1
        of_section[task.source.key][task.attributes["kind"]] += 1
    for kind, share in shares.items():
        assert abs(total[kind] - 30 * share) <= 3
        assert all(abs(found[kind] - 10 * share) <= 3 for found in of_section.values())
    orders = {tuple(task.attributes["kind"] for task in strategy.plan({"claims": 12}, n)) for n in range(9)}
    assert len(orders) > 4  # rounds do not begin alike
    assert tasks == list(strategy.plan({"claims": 300}, 3))


async def test_each_section_is_asked_about_in_every_manner_whatever_the_kind(tmp_path):
    manners = {"plain": "Ask it plainly.", "story": "Tell a story first."}
    strategy = grounded("single", "multi_hop", "unanswerable", "facts", manners=manners)
    teacher, met = Good(list=answer(facts=["The limit holds."])), set()
    for task, samples in await generate(tmp_path, strategy, teacher, {"claims": 40}):
        manner = task.attributes["manner"]
        met.add((task.source.key, task.attributes["kind"], manner))
        assert [sample.attributes["manner"] for sample in samples] == [manner]
        (prompt, *_) = [
            request.messages[-1].content
            for request in teacher.requests
            if request.ordinal == task.ordinal and kind_of(request.messages[-1].content) != "list"
        ]
        assert [name for name, sentence in manners.items() if sentence in prompt] == [manner]
    for key, kind, _ in met:
        assert {(key, kind, name) for name in manners} <= met


async def test_single_alone_asks_what_it_always_asked(tmp_path):
    """Stored answers and samples of `grounded` without options stay those of the same requests."""
    teacher = Good()
    ((task, (sample,)),) = await generate(tmp_path, build("grounded"), teacher, {"benefits": 1})
    assert sample.attributes == {"slice": "benefits", "strategy": "grounded", "source_key": task.source.key}
    assert (sample.id, teacher.requests[0].id) == ("smp_5aea4517e52743b4e77b", "call_3ea3df5f3874695e0826")


async def test_running_again_finds_everything_stored(tmp_path):
    strategy = grounded("single", "multi_hop", "unanswerable", "facts")
    await check_repeats(tmp_path, strategy, Good(list=answer(facts=["The limit holds."])), {"claims": 12})


async def test_what_wraps_it_sees_every_section(tmp_path):
    class Both(Good):
        def write(self, prompt: str) -> str | Completion:
            if prompt.startswith("Judge the answer"):
                judged.append(prompt)
                return answer(critique="", verdict="good")
            return super().write(prompt)

    judged: list[str] = []
    strategy = build("critique", of={"name": "grounded", "kinds": {"multi_hop": 1}})
    ((task, (sample,)),) = await generate(tmp_path, strategy, Both(), {"claims": 1})
    assert task.source.text in judged[0] and task.beside[0].text in judged[0]
    assert relations(sample)[:2] == ["source", "source"]


def test_the_plan_bounds_calls_and_sections():
    def tokens(**options) -> tuple[int, int]:
        spec = StrategySpec.model_validate({"name": "grounded", **options})
        base = domain_of(sources=[replace(SOURCES[0], text="x" * 3000), *SOURCES[1:]])
        models = {"teacher": ModelSpec(server="s", sampling=SamplingSpec(max_tokens=1))}
        update = {"strategies": [spec], "models": models, "servers": {"s": ScriptedServer(kind="scripted")}}
        row = forecast(replace(base, recipe=base.recipe.model_copy(update=update)))[0]
        return row["calls"], row["tokens"] // row["calls"] // 1000

    rounds = 2 * 256
    assert tokens() == (rounds, 1)
    assert tokens(kinds={"multi_hop": 1.0}, num_sections=3) == (rounds * 4, 3)
    assert tokens(kinds={"facts": 1.0}) == (rounds * 2 + len(SOURCES), 1)


def test_the_page_names_papers_and_options_and_its_recipe_works(tmp_path):
    (strategy,) = check_page("grounded", tmp_path)
    assert strategy.options.kinds == {"single": 5, "facts": 3, "multi_hop": 1, "unanswerable": 1}
