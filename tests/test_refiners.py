import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from edited import with_answer
from hypothesis import example, given
from hypothesis import strategies as st

from factory.domain import Domain
from factory.edits import EDIT_SCHEMA, target
from factory.errors import EndpointError, FactoryError
from factory.overlap import Texts, overlap
from factory.ports import Ask
from factory.recipe import Recipe
from factory.registry import find, names
from factory.types import CheckedDraft, Completion, Decision, GoldItem, Message, Parent, Sample, Source
from factory.words import jaccard, words
from refiners.citation import Citation
from refiners.contamination import Contamination
from refiners.edit import Edit
from refiners.exact import Exact
from refiners.form import Form
from refiners.near import Near
from refiners.review import slug

NOTICE = Source.create(
    "34-9-80", "handbook.md", "§ 34-9-80", "Notice", "Notice of the accident is due within 30 days.", "notice"
)
CLAIM = Source.create(
    "34-9-82", "handbook.md", "§ 34-9-82", "Claim", "A claim must be filed within 1 year.", "claims"
)


def make_domain(**changes: Any) -> Domain:
    spec = {"title": "Law", "citation_pattern": r"§ \d+-\d+-\d+", **changes.pop("domain", {})}
    recipe = Recipe.model_validate(
        {
            "name": "law",
            "domain": spec,
            "gold": {"dev": "dev.jsonl", "test": "test.jsonl"},
            "servers": {"here": {"kind": "scripted"}},
            "models": {"teacher": {"server": "here"}},
            "strategies": [{"name": "grounded"}],
        }
    )
    values: dict[str, Any] = {"sources": (NOTICE, CLAIM), "seeds": (), "dev": (), "test": (), "drafts": ()}
    return Domain(recipe=recipe, folder=Path(), **{**values, **changes})


def make(question: str, answer: str, number: int = 0, **attributes: str) -> Sample:
    messages = [Message("user", question), Message("assistant", answer)]
    given = {"slice": "notice", "source_key": "34-9-80", **attributes}
    return Sample.create(messages, [Parent(f"call_{number}", "call")], "grounded", given)


def rewrite(sample: Sample, answer: str) -> Sample:
    return with_answer(sample, answer, [Parent("call_r", "call")])


async def no_model(messages: Sequence[Message], **options: Any) -> Completion:
    raise AssertionError("no model may be asked")


def create(name: str, domain: Domain | None = None, **options: Any) -> Any:
    found = find("refiners", name)
    return found(found.Options(**options), domain or make_domain())


async def one(refiner: Any, sample: Sample, ask: Ask = no_model) -> Decision:
    (decision,) = await refiner.refine([sample], ask)
    assert decision.sample_id == sample.id
    return decision  # type: ignore[no-any-return]


async def reasons(refiner: Any, samples: Sequence[Sample]) -> list[str]:
    decisions = await refiner.refine(samples, no_model)
    assert [decision.sample_id for decision in decisions] == [sample.id for sample in samples]
    assert {d.action for d in decisions} <= {"keep", "drop"}
    return [decision.reason for decision in decisions]


def test_all_six_are_registered_under_their_names() -> None:
    classes = {Form, Exact, Near, Contamination, Edit, Citation}
    assert {find("refiners", name) for name in names("refiners")} >= classes
    assert [cls for cls in classes if cls.uses_model] == [Edit]


# words


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("Notice,  within\n30 days!", "notice within 30 DAYS", True),
        ("The employer’s", "the employer's", True),
        ("ｆｕｌｌ width", "full width", True),
        ("1,000", "1 000", False),
        ("$50", "50", False),
        ("50 %", "50", False),
        ("about -5 degrees", "about 5 degrees", False),
        ("34-9-80", "34 9 80", False),
        ("I am 🙂", "I am 🙃", False),
    ],
)
def test_words(left: str, right: str, equal: bool) -> None:
    assert (words(left) == words(right)) == equal


# form


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (make("How long?", "30 days (§ 34-9-80)"), "ok"),
        (make("", '{"question": "How', malformed="truncated"), "truncated"),
        (make("  \n", "30 days"), "empty_question"),
        (make("How long?", " "), "empty_answer"),
        (make("q" * 2001, "30 days"), "question_too_long"),
        (make("How long?", "a" * 4001), "answer_too_long"),
        (make("How long?", "<think>hm</think> 30 days"), "leftover_markup"),
        (make("How long?", "30 days<|im_end|>"), "leftover_markup"),
        (make("How long?", "[/INST] 30 days"), "leftover_markup"),
        (make("Tell me the term.", "a < b and b > c | d"), "ok"),
    ],
)
async def test_form(sample: Sample, reason: str) -> None:
    decision = await one(create("form"), sample)
    assert (decision.reason, decision.action) == (reason, "keep" if reason == "ok" else "drop")


async def test_form_has_limits_of_its_own() -> None:
    decision = await one(create("form", max_answer_chars=3), make("How long?", "30 days"))
    assert decision.evidence == {"chars": 7, "limit": 3}


# exact


async def test_exact_keeps_the_first_and_names_it() -> None:
    refiner = create("exact")
    first, second = make("How long?", "30 days", 1), make("how LONG", "30  days.", 2)
    assert (await one(refiner, first)).action == "keep"
    decision = await one(refiner, second)
    assert (decision.reason, decision.evidence) == ("exact_duplicate", {"of": first.id})
    assert (await one(refiner, make("How long?", "31 days", 3))).action == "keep"
    assert (await one(refiner, first)).action == "keep"


async def test_exact_knows_what_passed_before() -> None:
    refiner = create("exact")
    refiner.open(iter([make("How long?", "30 days", 1)]))
    assert await reasons(refiner, [make("How long?", "30 days", 2)]) == ["exact_duplicate"]


async def test_a_rewrite_is_no_duplicate_of_its_own_parent_but_of_others() -> None:
    refiner = create("exact")
    parent, other = make("How long?", "30 days (34-9-80)", 1), make("How long?", "31 days", 2)
    assert await reasons(refiner, [parent, other]) == ["ok", "ok"]
    assert await reasons(refiner, [rewrite(parent, "30 days (§ 34-9-80)")]) == ["ok"]
    assert await reasons(refiner, [rewrite(parent, "31 days")]) == ["exact_duplicate"]


async def test_texts_without_words_are_compared_as_they_are() -> None:
    assert await reasons(create("exact"), [make("?", "!", 1), make("!", "?", 2)]) == ["ok", "ok"]


# near

LONG_QUESTION = "Within how many days must an injured employee tell the employer about the accident at work"


async def test_near_finds_almost_equal_questions_and_names_the_first() -> None:
    refiner = create("near")
    first = make(LONG_QUESTION + "?", "30 days (§ 34-9-80)", 1)
    second = make("So " + LONG_QUESTION + "?", "30 days (§ 34-9-80)", 2)
    assert await reasons(refiner, [first]) == ["ok"]
    decision = await one(refiner, second)
    assert (decision.reason, decision.evidence["of"]) == ("near_duplicate", first.id)
    assert 0.8 <= decision.evidence["jaccard"] < 1


@pytest.mark.parametrize(
    ("question", "answer", "source_key"),
    [
        (LONG_QUESTION, "31 days (§ 34-9-80)", "34-9-80"),  # another number
        (LONG_QUESTION, "30 weeks (§ 34-9-80)", "34-9-80"),  # another unit
        (LONG_QUESTION, "30 days (§ 34-9-80)", "34-9-82"),  # another section
        ("Is there a term for telling anybody about it?", "30 days (§ 34-9-80)", "34-9-80"),
    ],
)
async def test_near_lets_other_facts_and_other_questions_pass(
    question: str, answer: str, source_key: str
) -> None:
    refiner = create("near")
    assert await reasons(refiner, [make(LONG_QUESTION, "30 days (§ 34-9-80)", 1)]) == ["ok"]
    assert await reasons(refiner, [make(question, answer, 2, source_key=source_key)]) == ["ok"]


async def test_near_takes_an_unknown_section_for_any() -> None:
    refiner = create("near")
    refiner.open([make(LONG_QUESTION, "30 days", 1)])
    assert await reasons(refiner, [make(LONG_QUESTION, "30 days", 2, source_key="")]) == ["near_duplicate"]


async def test_near_spares_a_rewrite_of_the_sample_itself() -> None:
    refiner = create("near")
    parent = make(LONG_QUESTION, "30 days", 1)
    assert await reasons(refiner, [parent, rewrite(parent, "30 days.")]) == ["ok", "ok"]


async def test_near_agrees_with_comparing_all_pairs() -> None:
    """Every dropped sample has a near one that was kept, and hardly a pair of kept ones is near."""
    samples = [
        make(f"{LONG_QUESTION} {' '.join(f'w{(i * k) % 7}' for k in range(1, 4))}", "30 days", i)
        for i in range(60)
    ]
    found = await reasons(create("near"), samples)

    def shingles(sample: Sample) -> set[tuple[str, ...]]:
        tokens = [*words(sample.question), "\n", *words(sample.answer)]
        return {tuple(tokens[at : at + 3]) for at in range(len(tokens) - 2)}

    kept: list[Sample] = []
    for sample, reason in zip(samples, found, strict=True):
        near = any(jaccard(shingles(sample), shingles(other)) >= 0.8 for other in kept)
        assert (reason == "near_duplicate") == near
        if not near:
            kept.append(sample)
    assert 1 < len(kept) < len(samples)


# contamination

LONG_ITEM = (
    "A roofer kept quiet about his accident for weeks and asks at which point missing notice hurts him"
)
LONG_ANSWER = "Notice must reach the employer within thirty days of the accident or the claim is barred"


def contamination() -> Any:
    dev = (GoldItem("dev-1", LONG_ITEM, "30 days (§ 34-9-80)", "notice"),)
    test = (
        GoldItem("test-1", "When does missing notice hurt him?", LONG_ANSWER, "notice"),
        GoldItem("test-2", "How long?", "30 days (§ 34-9-80)", "notice"),
    )
    return create("contamination", make_domain(dev=dev, test=test))


@pytest.mark.parametrize(
    ("question", "measure"),
    [
        (LONG_ITEM.upper() + "?", "equal"),
        ("How long?", "equal"),
        ("Tell me: " + " ".join(LONG_ITEM.split()[2:16]), "run_of_13"),
        (" ".join(LONG_ITEM.split()[:11]) + " is a fact", "coverage_by_8"),
        ("In which case and when does missing notice hurt him in the end?", "longest_run"),
        (" ".join(LONG_ITEM.split()[3:9]), "longest_run"),
    ],
)
async def test_contamination(question: str, measure: str) -> None:
    decision = await one(contamination(), make(question, "31 days"))
    assert (decision.action, decision.reason, decision.evidence["measure"]) == (
        "drop",
        "contaminated",
        measure,
    )
    assert decision.evidence["item"] in {"dev-1", "test-1", "test-2"}
    assert decision.evidence["split"] == decision.evidence["item"].split("-")[0]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which term has a roofer?", "30 days (§ 34-9-80)"),  # short answers recur
        ("So how long?", "30 days (§ 34-9-80)"),  # two common words are no evidence
        ("When does missing pay hurt him most?", "31 days"),
        (" ".join(LONG_ITEM.split()[:8]) + " a b c d e f g h i j", "31 days"),
    ],
)
async def test_what_is_no_contamination(question: str, answer: str) -> None:
    assert await reasons(contamination(), [make(question, answer)]) == ["ok"]


async def test_long_answers_are_compared_too() -> None:
    decision = await one(contamination(), make("Explain the rule to me.", LONG_ANSWER + "!"))
    assert (decision.evidence["item"], decision.evidence["measure"]) == ("test-1", "equal")


async def test_queries_over_the_same_tables_are_no_contamination() -> None:
    """They share their long FROM and JOIN, whatever is asked."""
    joined = "FROM goods JOIN orders USING (goods_id) JOIN people USING (person_id) WHERE orders.paid"
    test = (
        GoldItem(
            "test-1", "Who bought ink from us?", f"SELECT people.name {joined} AND name = 'ink'", "shop"
        ),
    )
    refiner = create("contamination", make_domain(test=test))
    sample = make("What did we earn?", f"SELECT sum(price) {joined}", source_key="schema:shop.sql")
    assert await reasons(refiner, [sample]) == ["ok"]
    asked = make("So who bought ink from us?", "SELECT 1", source_key="schema:shop.sql")
    assert await reasons(refiner, [asked]) == ["contaminated"]


TEXTS = st.lists(st.sampled_from("abcdef"), max_size=20)


@given(TEXTS, st.lists(TEXTS, max_size=4))
@example(["a"] * 20, [["a"] * 12 + ["b"] + ["a"] * 7])
def test_the_index_misses_nothing_that_comparing_finds(left: list[str], others: list[list[str]]) -> None:
    texts = Texts(" ".join(right) for right in others)
    found, found_all = texts.find(" ".join(left)), list(texts.find_all(" ".join(left)))
    hits = [overlap(tuple(left), tuple(right)) for right in others]
    assert (found is not None) == any(hits)
    assert found is None or hits[found[0]] == found[1]
    assert sorted(found_all) == [(index, hit) for index, hit in enumerate(hits) if hit]
    assert hits == [overlap(tuple(right), tuple(left)) for right in others]


# citation


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("30 days (§ 34-9-80)", "ok"),
        ("30 days (§ 34-9-80, again § 34-9-80)", "ok"),
        ("30 days (§ 34-9-82)", "wrong_citation"),
        ("30 days (§ 34-9-80 and § 34-9-82)", "wrong_citation"),
        ("30 days", "missing_citation"),
        ("30 days (34-9-80)", "malformed_citation"),
        ("30 days (§ 34 9 80)", "malformed_citation"),
        ("30 days (§", "malformed_citation"),
    ],
)
async def test_citation(answer: str, reason: str) -> None:
    assert (await one(create("citation"), make("How long?", answer))).reason == reason


async def test_citation_compares_the_first_group() -> None:
    domain = make_domain(domain={"citation_pattern": r"\((§ \d+-\d+-\d+)\)"})
    assert await reasons(create("citation", domain), [make("Q?", "1 (§ 34-9-80)")]) == ["ok"]
    assert await reasons(create("citation", domain), [make("Q?", "1 § 34-9-80")]) == ["malformed_citation"]


async def test_citation_has_nothing_to_check_without_pattern_or_section() -> None:
    no_pattern = create("citation", make_domain(domain={"citation_pattern": ""}))
    assert await reasons(no_pattern, [make("Q?", "x")]) == ["not_applicable"]
    assert await reasons(create("citation"), [make("Q?", "x", source_key="")]) == ["not_applicable"]


# round_trip


@pytest.mark.parametrize(
    ("question", "reason", "found"),
    [
        ("When is notice of an accident due?", "ok", None),
        ("By when must a claim be filed?", "other_source", "34-9-82"),
        ("What holds for falconers?", "no_source", None),
        ("Is notice under § 34-9-82 due?", "other_source", "34-9-82"),
    ],
)
async def test_round_trip(question: str, reason: str, found: str | None) -> None:
    decision = await one(create("round_trip"), make(question, "30 days (§ 34-9-80)"))
    assert decision.reason == reason
    assert decision.evidence == ({} if reason == "ok" else {"source": "34-9-80", "found": found})


async def test_round_trip_reads_all_that_a_conversation_asks() -> None:
    turns = [("When is notice of an accident due?", "30 days."), ("And then?", "Nothing.")]
    messages = [
        Message(role, text) for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    attributes = {"slice": "notice", "source_key": "34-9-80"}
    sample = Sample.create(messages, [Parent("call_0", "call")], "dialogue", attributes)
    assert (await one(create("round_trip"), sample)).reason == "ok"


async def test_round_trip_has_nothing_to_look_for_without_a_section() -> None:
    decision = await one(create("round_trip"), make("When?", "x", source_key=""))
    assert (decision.action, decision.reason) == ("keep", "not_applicable")


# edit


class Replies:
    """An `ask` that gives set answers and remembers the prompts."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []

    async def __call__(self, messages: Sequence[Message], **options: Any) -> Completion:
        assert options["schema"] is EDIT_SCHEMA
        self.prompts.append(messages[0].content)
        answer = self.answers[len(self.prompts) - 1]
        if isinstance(answer, Exception):
            raise answer
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return Completion(text, call_id=f"call_e{len(self.prompts)}")


def said(verdict: str, reason: str = "", **parts: Any) -> dict[str, Any]:
    scores = {"grounded": 1, "form": 0}
    return {"verdict": verdict, "reason": reason, "ops": [], "rewrite": None, "scores": scores, **parts}


def op(old: str, new: str, kind: str = "replace") -> dict[str, str]:
    return {"op": kind, "old": old, "new": new}


async def test_edit_makes_a_child_with_its_descent() -> None:
    sample = make("How long?", "21 days (§ 34-9-80)")
    ask = Replies(said("edit", "wrong_quantity", ops=[op("21", "30")]))
    decision = await one(create("edit"), sample, ask)
    assert (decision.action, decision.reason) == ("rewrite", "wrong_quantity")
    child = decision.rewrite
    assert child is not None
    assert (child.answer, child.question, child.operation) == ("30 days (§ 34-9-80)", "How long?", "edit")
    assert child.parents == (
        Parent(sample.id, "rewrite_of"),
        Parent("call_e1", "call"),
        Parent(NOTICE.id, "source"),
    )
    assert decision.evidence == {"source": NOTICE.id, "call": "call_e1", "ops": [op("21", "30")]}
    assert [(s.metric, s.value, s.scorer) for s in decision.scores] == [
        ("grounded", 1, "edit"),
        ("form", 0, "edit"),
    ]


async def test_the_prompt_shows_section_question_and_answer() -> None:
    ask = Replies(said("keep"))
    domain = make_domain(domain={"answer_style": "Cite {{ the }} section."})
    await one(create("edit", domain), make("How {{ long }}?", "21 days"), ask)
    assert ask.prompts == [
        "Check the answer against the section and correct it, as JSON. Cite {{ the }} section.\n\n"
        "§ 34-9-80 Notice\nNotice of the accident is due within 30 days.\n\n"
        "Question: How {{ long }}?\nAnswer: 21 days"
    ]


@pytest.mark.parametrize(
    ("answer", "action", "reason", "text"),
    [
        (said("keep", "ok"), "keep", "ok", None),
        (said("keep"), "keep", "ok", None),
        (said("drop", "Off source!"), "drop", "off_source", None),
        (said("drop"), "drop", "dropped", None),
        (
            said("rewrite", "truncated", rewrite="30 days (§ 34-9-80)"),
            "rewrite",
            "truncated",
            "30 days (§ 34-9-80)",
        ),
        (said("rewrite", "truncated"), "drop", "refiner_unreadable", None),
        (said("rewrite", "truncated", rewrite="21 days"), "keep", "edit_empty", None),
        (said("edit", "wrong_quantity", ops=[op("21", "21")]), "keep", "confirmed", None),
        (said("edit", "wrong_quantity"), "keep", "edit_empty", None),
        (said("edit", "wrong_quantity", ops=[op("9 weeks", "x")]), "drop", "edit_refused", None),
        (said("edit", "", ops=[op(" days", "", "delete")]), "rewrite", "edit", "21"),
        (said("improve"), "drop", "refiner_unreadable", None),
        (said("edit", ops=[op("2", "3", "swap")]), "drop", "refiner_unreadable", None),
        (said("keep", scores={"grounded": 7, "form": 1}), "drop", "refiner_unreadable", None),
        ("keep it", "drop", "refiner_unreadable", None),
        ('{"verdict": "keep", "rea', "drop", "refiner_unreadable", None),
        ("[]", "drop", "refiner_unreadable", None),
        ('{"verdict": "keep"}', "keep", "ok", None),
    ],
)
async def test_verdicts(answer: object, action: str, reason: str, text: str | None) -> None:
    decision = await one(create("edit"), make("How long?", "21 days"), Replies(answer))
    assert (decision.action, decision.reason) == (action, reason)
    assert (decision.rewrite.answer if decision.rewrite else None) == text
    assert [score.metric for score in decision.scores] == ["grounded", "form"]
    if reason == "refiner_unreadable" and not isinstance(answer, dict):
        assert [score.value for score in decision.scores] == [None, None]


async def test_a_refused_operation_leaves_its_evidence() -> None:
    ask = Replies(said("edit", ops=[op("21", "30"), op("9 weeks", "x")]))
    decision = await one(create("edit"), make("How long?", "21 days"), ask)
    assert decision.evidence["refused"] == {"op": 1, "reason": "absent"}


async def test_what_the_refiner_is_trained_to_say_leads_to_the_corrected_answer() -> None:
    draft = CheckedDraft("k", "Q?", "21 days 34-9-80", "30 days (§ 34-9-80)", "wrong_quantity", "s", "n")
    decision = await one(create("edit"), make("Q?", draft.answer), Replies(target(draft)))
    assert decision.rewrite is not None
    assert decision.rewrite.answer == draft.corrected


async def test_an_unknown_section_is_the_one_nearest_to_the_question() -> None:
    ask = Replies(said("keep"))
    sample = make("By when is a claim filed?", "1 year", source_key="", slice="claims")
    decision = await one(create("edit"), sample, ask)
    assert decision.evidence["source"] == CLAIM.id


async def test_what_was_made_from_another_text_is_not_corrected_from_the_nearest_section() -> None:
    near = make("By when is a claim filed?", "1 year", source_key="", slice="claims")
    foreign = Sample.create(near.messages, [Parent("src_of_a_topic", "source")], "taxonomy", near.attributes)
    decision = await one(create("edit"), foreign)
    assert (decision.action, decision.reason) == ("drop", "no_source")


async def test_without_any_section_the_model_is_not_asked() -> None:
    decision = await one(create("edit"), make("Qwxz?", "1 year", source_key=""))
    assert (decision.action, decision.reason) == ("drop", "no_source")


async def test_a_request_that_is_refused_costs_one_sample() -> None:
    ask = Replies(said("keep"), EndpointError("prompt too long", kind="refused"), said("keep"))
    samples = [make(f"Q{i}?", "30 days", i) for i in range(3)]
    decisions = await create("edit").refine(samples, ask)
    assert [decision.reason for decision in decisions] == ["ok", "refiner_failed", "ok"]
    assert "too long" in decisions[1].evidence["error"]


@pytest.mark.parametrize("kind", ["unreachable", "timeout", "unauthorized", "server_error", "rate_limited"])
async def test_an_endpoint_that_is_down_stops_the_round(kind: str) -> None:
    ask = Replies(said("keep"), EndpointError("down", kind=kind), said("keep"))
    with pytest.raises(EndpointError):
        await create("edit").refine([make(f"Q{i}?", "30 days", i) for i in range(3)], ask)
    assert len(ask.prompts) == 3


@pytest.mark.parametrize("num_good", [0, 15])
async def test_an_endpoint_that_refuses_too_much_is_at_fault_itself(num_good: int) -> None:
    ask = Replies(*[said("keep")] * num_good, *[EndpointError("no", kind="malformed")] * 10)
    with pytest.raises(FactoryError, match="malformed"):
        await create("edit").refine([make(f"Q{i}?", "30 days", i) for i in range(num_good + 10)], ask)


@given(st.text())
def test_slug(text: str) -> None:
    assert slug(text) == slug(slug(text))
    assert len(slug(text)) <= 40
    assert set(slug(text)) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")
