"""How likely a given answer is, from the endpoint to the store, and the step that refuses edits by it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from edited import with_answer
from fake_endpoint import FakeEndpoint, Status, answer
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel
from test_refiners import NOTICE, make, make_domain

from factory.asking import Bound, role_of
from factory.budget import Budget
from factory.consistency import check_consistency
from factory.domain import Domain
from factory.engine import Engine
from factory.errors import EndpointError, FactoryError, RecipeError
from factory.forecast import forecast
from factory.models.batch_log import BatchLog
from factory.models.batches import BatchModel, Carrier
from factory.models.chat import ChatRequests
from factory.models.client import EndpointModel
from factory.models.scripted import SCRIPTS, ScriptedModel, echo
from factory.ports import Ask, Refiner
from factory.recipe import BudgetSpec, ModelSpec, Recipe
from factory.refine import refine_round
from factory.store.rows import sample_rows
from factory.store.store import Store
from factory.tokens import Token, read_given
from factory.types import Completion, Decision, Message, Parent, Request, Sample, Sampling
from refiners.citation import Citation
from refiners.exact import Exact
from refiners.form import Form
from refiners.likelihood import Fit, Likelihood, is_worse
from refiners.near import Near
from refiners.round_trip import RoundTrip

RUN = "run_1"
ASKED = Request("m", (Message("user", "Q?"), Message("assistant", "30 days")), None, Sampling(), given=True)


def place(text: str, logprob: float = -0.5, number: int = 7) -> dict[str, Any]:
    return {str(number): {"logprob": logprob, "rank": 1, "decoded_token": text}}


# the tokens of a given answer

WORDS = st.text("ab1-é§\U0001f600", min_size=1, max_size=4)


@given(st.lists(WORDS, min_size=1), st.lists(st.sampled_from(["", " "])), st.booleans())
def test_the_tokens_are_the_answers_own_whatever_stands_before_and_between(
    words: list[str], spaces: list[str], loses: bool
) -> None:
    """However it is cut, where a tokenizer loses the space before a word, and a character is two tokens."""
    before = ["", *spaces, *[" "] * len(words)]
    pieces = [space + word for word, space in zip(words, before, strict=False)]
    text, prompt, wanted = "".join(pieces), [None, place("<|user|>"), place("Q? ")], 0
    for piece in pieces:
        begun = [""] * (len(piece.strip()[0].encode()) - 1)  # bytes of a character that are no text yet
        for part in [*begun, piece.strip() if loses else piece]:
            prompt.append(place(part, -wanted / 8))
            wanted += 1
    found = read_given(prompt, text)
    assert "".join("".join(token.text for token in found).split()) == "".join(text.split())
    assert [token.logprob for token in found] == [-number / 8 or 0.0 for number in range(wanted)]


def test_a_character_of_two_tokens_at_the_beginning_is_the_answers() -> None:
    prompt = [None, place("<|assistant|>"), place("", -3), place("", -2), place("日", -1), place("t", -0.25)]
    assert read_given(prompt, "日t") == (Token("", -3), Token("", -2), Token("日", -1), Token("t", -0.25))
    prompt = [None, place("<|assistant|>"), place("", -2), place("e", -1)]
    assert read_given(prompt, "e") == (Token("e", -1),)  # what says nothing before a whole character


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ([None, place("a"), place("c")], "ab"),
        ([None, place("b")], "ab"),
        ([place("Xa"), place("b")], "ab"),  # it begins within a token
        ([place("a")], " "),
        ([], "a"),
        ("x", "a"),
        ([{"7": {"decoded_token": "a"}}], "a"),
        ([{"7": {"decoded_token": "a", "logprob": "x"}}], "a"),
        ([{}], "a"),
        (3, "a"),
    ],
)
def test_a_prompt_that_does_not_end_with_the_answer_has_no_tokens_of_it(prompt: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_given(prompt, text)


def test_what_is_impossible_has_a_finite_probability() -> None:
    assert read_given([place("a", -math.inf)], "a") == (Token("a", -1e4),)


# asked of an endpoint


def scored(*places: dict[str, Any] | None, **body: Any) -> Status:
    found = answer("x")
    return Status(200, {**found.body, "prompt_logprobs": list(places), **body})


async def complete(answers: Sequence[Any], asked: Request = ASKED) -> tuple[Completion, dict[str, Any]]:
    async with FakeEndpoint(answers) as endpoint:
        model = EndpointModel(endpoint.base_url, "fake", "m", "sk-secret")
        try:
            return await model.complete(asked), endpoint.requests[0]
        finally:
            await model.close()


async def test_the_answer_goes_out_as_it_is_and_comes_back_with_its_tokens() -> None:
    places = (None, place("Q?"), place("30", -1.5), place(" days", -0.25))
    found, sent = await complete([scored(*places)])
    assert (found.text, found.finish_reason, found.prompt_tokens) == ("30 days", "stop", 7)
    assert found.logprobs == (Token("30", -1.5), Token(" days", -0.25))
    assert sent["messages"][-1] == {"role": "assistant", "content": "30 days"}
    wanted = {"add_generation_prompt": False, "continue_final_message": True, "prompt_logprobs": 0}
    assert sent.items() >= wanted.items()
    usual = json.loads(ChatRequests("m").encode(Request("m", ASKED.messages, None, Sampling())))
    assert not usual.keys() & wanted.keys()


@pytest.mark.parametrize(
    ("reply", "kind", "says", "hint"),
    [
        (answer("x"), "refused", "does not tell how likely", "vLLM tells it"),
        (Status(400, {"error": {"message": "Unknown: 'prompt_logprobs'"}}), "refused", "Unknown", "vLLM"),
        (Status(400, {"error": {"message": "too long"}}), "refused", "too long", ""),
        (scored(None, place("other")), "malformed", "do not end with the answer", ""),
    ],
)
async def test_an_endpoint_that_cannot_tell_says_so(reply: Status, kind: str, says: str, hint: str) -> None:
    with pytest.raises(EndpointError, match=says) as raised:
        await complete([reply])
    assert raised.value.kind == kind and raised.value.where.startswith("http://127.0.0.1")
    assert raised.value.retryable == (kind == "malformed")
    assert raised.value.hint.startswith(hint) and bool(raised.value.hint) == bool(hint)


async def test_a_script_that_does_not_tell_and_a_batch_refuse() -> None:
    with pytest.raises(EndpointError, match="does not tell how likely") as raised:
        await ScriptedModel(echo, "echo").complete(ASKED)
    assert (raised.value.kind, raised.value.where) == ("refused", "scripted:echo")
    log = cast(BatchLog, SimpleNamespace(open_batches=lambda: []))
    carrier = cast(Carrier, SimpleNamespace(is_ours=True, where="http://there/v1"))
    model = BatchModel("m", ChatRequests("m"), carrier, log, 8, print)
    with pytest.raises(EndpointError, match="cannot be asked in batches") as raised:
        await model.complete(ASKED)
    assert (raised.value.kind, raised.value.where) == ("refused", "http://there/v1")


def test_a_request_that_is_given_an_answer_is_another_one() -> None:
    plain = Request("m", ASKED.messages, None, Sampling())
    assert plain.id != ASKED.id
    assert plain.id == "call_08b7738dfaed960b699f"


# what is worse

PERPLEXITIES = st.floats(1, 1e6)
FITS = st.builds(Fit, PERPLEXITIES, PERPLEXITIES)
MARGINS = st.floats(0, 2)


@given(FITS, FITS, MARGINS, MARGINS)
@example(Fit(2, 4), Fit(2, 4), 0, 0)
def test_of_two_answers_one_at_most_is_worse_and_a_margin_spares(
    a: Fit, b: Fit, low: float, more: float
) -> None:
    assert not (is_worse(a, b, low) and is_worse(b, a, low))
    assert is_worse(a, b, low) or not is_worse(a, b, low + more)
    if is_worse(a, b, low):
        assert a.prompted > b.prompted and a.ifd > b.ifd


@pytest.mark.parametrize(
    ("edited", "original", "worse"),
    [
        (Fit(2, 10), Fit(1, 10), True),
        (Fit(1, 10), Fit(2, 10), False),
        (Fit(1.05, 10), Fit(1, 10), False),  # within the margin
        (Fit(1.02, 1), Fit(0.99, 1), True),  # the prompt helped, and helps no more
        (Fit(1.02, 1), Fit(1, 1), False),
        (Fit(2, 4), Fit(3, 100), False),  # mended form: likelier in itself, and likelier after the prompt
        (Fit(3, 100), Fit(2, 10), False),  # less likely, but more of it follows from the prompt
    ],
)
def test_worse_is_less_likely_after_the_prompt_and_by_the_ratio(
    edited: Fit, original: Fit, worse: bool
) -> None:
    assert is_worse(edited, original, 0.1) == worse


# the step

RIGHT, WRONG = "30 days (§ 34-9-80)", "21 days (§ 34-9-80)"


class Student:
    """Holds an answer's words likely as a function says, which sees the prompt, and remembers what it saw."""

    def __init__(self, logprob: Callable[[str, str], float]) -> None:
        self.logprob = logprob
        self.seen: list[Request] = []

    def __call__(self, request: Request) -> Completion:
        self.seen.append(request)
        text = request.messages[-1].content
        prompt = "\n".join(message.content for message in request.messages[:-1])
        value = self.logprob(prompt, text)
        return Completion(text, logprobs=tuple(Token(f" {word}", value) for word in text.split()))


def reads(prompt: str, text: str) -> float:
    """It can read: what a number has no place in its prompt is unlikely, and any answer is alone."""
    numbers = [word for word in text.split() if word.isdigit()]
    return -3.0 if not prompt or any(number not in prompt.split() for number in numbers) else -0.5


def asking(script: Callable[[Request], Completion | Exception]) -> Ask:
    model = ScriptedModel(script)

    async def ask(
        messages: Sequence[Message], *, sampling: Sampling, given: bool = False, **_: Any
    ) -> Completion:
        request = Request("m", tuple(messages), None, sampling, given=given)
        return Completion(**{**_fields(await model.complete(request)), "call_id": request.id})

    return cast(Ask, ask)


def _fields(completion: Completion) -> dict[str, Any]:
    return {name: getattr(completion, name) for name in Completion.__slots__}


def edited(sample: Sample, text: str) -> Sample:
    return with_answer(sample, text, [Parent("call_e", "call"), Parent(NOTICE.id, "source")])


def step(domain: Domain | None = None, **options: Any) -> Likelihood:
    return Likelihood(Likelihood.Options.model_validate(options), domain or make_domain())


ORIGINAL = make("How long is notice?", RIGHT, error="so it was found")
SPOILT = edited(ORIGINAL, WRONG)


async def decide(sample: Sample, original: Sample | None, student: Any, **options: Any) -> Decision:
    (found,) = await step(**options).compare([sample], [original], asking(student))
    return found


async def test_an_edit_that_the_section_does_not_bear_out_gives_way_to_its_original() -> None:
    student = Student(reads)
    found = await decide(SPOILT, ORIGINAL, student)
    assert (found.action, found.reason, found.refiner) == ("rewrite", "less_likely", "likelihood")
    back = found.rewrite
    assert back and (back.messages, back.attributes) == (ORIGINAL.messages, ORIGINAL.attributes)
    assert back.operation == "likelihood" and back.id not in (SPOILT.id, ORIGINAL.id)
    parents = [parent for parent in back.parents if parent.relation != "call"]
    assert parents == [
        Parent(SPOILT.id, "rewrite_of"),
        Parent(ORIGINAL.id, "rewrite_of"),
        Parent(NOTICE.id, "source"),
    ]
    assert {score.metric: score.value for score in found.scores} == {
        "ifd": pytest.approx(1),
        "ifd_original": pytest.approx(math.exp(-2.5)),
    }
    assert {(score.sample_id, score.scorer) for score in found.scores} == {(SPOILT.id, "likelihood")}
    evidence = dict(found.evidence)
    assert evidence.pop("calls") == [request.id for request in student.seen]
    assert evidence == {
        "original": ORIGINAL.id,
        "ifd": 1.0,
        "ifd_original": 0.08208,
        "perplexity": 20.09,
        "perplexity_original": 1.649,
        "margin": 0.1,
    }


async def test_the_student_sees_section_and_question_and_the_answer_alone() -> None:
    student = Student(reads)
    found = await decide(edited(SPOILT, RIGHT), SPOILT, student)
    assert (found.action, found.reason) == ("keep", "ok")
    shown = f"{NOTICE.citation} {NOTICE.title}\n{NOTICE.text}\n\nHow long is notice?"
    assert [[message.content for message in request.messages] for request in student.seen] == [
        [shown, RIGHT],
        [shown, WRONG],
        ["", RIGHT],
        ["", WRONG],
    ]
    assert all(request.given and request.sampling == Sampling(max_tokens=1) for request in student.seen)


async def test_the_margin_is_how_much_worse_an_edit_may_be() -> None:
    def slightly(prompt: str, text: str) -> float:
        return -2.0 if not prompt else -0.5 if text == RIGHT else -0.75

    assert (await decide(SPOILT, ORIGINAL, Student(slightly))).reason == "less_likely"
    assert (await decide(SPOILT, ORIGINAL, Student(slightly), margin=0.3)).reason == "ok"
    with pytest.raises(ValueError, match="margin"):
        step(margin=-0.1)


UNASKED = [
    Sample.create(SPOILT.messages[1:], [], "edit", {}),
    Sample.create(ORIGINAL.messages[1:], [], "grounded", {}),
]


@pytest.mark.parametrize(
    ("sample", "original", "reason"),
    [
        (ORIGINAL, None, "not_an_edit"),
        (Sample.create(SPOILT.messages, SPOILT.parents, "pii", {}), ORIGINAL, "not_an_edit"),
        (SPOILT, make("How long is notice?", " "), "not_comparable"),
        (SPOILT, make("How long is it?", RIGHT), "not_comparable"),  # the question changed too
        (*UNASKED, "not_comparable"),
    ],
)
async def test_what_is_no_edit_of_an_answer_costs_no_call(
    sample: Sample, original: Sample | None, reason: str
) -> None:
    student = Student(reads)
    found = await decide(sample, original, student)
    assert (found.action, found.reason, found.scores, student.seen) == ("keep", reason, (), [])


def conversation(said: Sequence[tuple[Any, str]], operation: str) -> Sample:
    return Sample.create([Message(*turn) for turn in said], [], operation, {"source_key": "34-9-80"})


async def test_of_a_conversation_the_changed_answers_count_each_after_what_was_said_before_it() -> None:
    said = [("system", "Be brief."), ("user", "Notice?"), ("assistant", "30 days")]
    said += [("user", "And a claim?"), ("assistant", "1 year")]
    original = conversation(said, "grounded")
    sample = conversation([*said[:2], ("assistant", "21 days"), said[3], ("assistant", "2 years")], "edit")
    student = Student(lambda prompt, text: -4.0 if not prompt else -2.0 if text[0] == "2" else -1.0)
    found = await decide(sample, original, student)
    assert found.reason == "less_likely" and len(student.seen) == 8
    of_edit, of_original = ([m.content for m in student.seen[at].messages] for at in (1, 3))
    assert of_edit[0] == of_original[0] == "Be brief."
    assert of_edit[1] == of_original[1] == f"{NOTICE.citation} {NOTICE.title}\n{NOTICE.text}\n\nNotice?"
    assert of_edit[2:] == ["21 days", "And a claim?", "2 years"]
    assert of_original[2:] == ["30 days", "And a claim?", "1 year"]
    last = conversation([*said[:4], ("assistant", "2 years")], "edit")
    student.seen.clear()
    await decide(last, original, student)
    assert len(student.seen) == 4  # the first answer is as it was


async def test_a_refused_request_costs_an_edit_its_scores_and_an_endpoint_that_cannot_tell_stops() -> None:
    def refuses(request: Request) -> Completion | Exception:
        too_long = EndpointError("too long", kind="refused", retryable=False)
        return too_long if request.messages[-1].content == WRONG else Student(reads)(request)

    found = await decide(SPOILT, ORIGINAL, refuses)
    assert (found.action, found.reason) == ("keep", "student_failed")
    assert [score.value for score in found.scores] == [None, None]
    assert found.evidence["error"] == "too long" and len(found.evidence["calls"]) == 2
    with pytest.raises(
        FactoryError, match="4 of 4 tasks failed: refused 4; the last: the script does not tell"
    ):
        await decide(SPOILT, ORIGINAL, echo)
    with pytest.raises(EndpointError, match="down"):
        await decide(SPOILT, ORIGINAL, lambda _: EndpointError("down", kind="unreachable"))


async def test_what_is_impossible_to_the_student_is_no_overflow() -> None:
    found = await decide(SPOILT, ORIGINAL, Student(lambda prompt, text: -1e4 if text == WRONG else -1.0))
    assert found.scores[0].value == 1 and found.reason == "ok"


# in a round


class Corrector:
    """Edits answers by a table, as the step `edit` does, and remembers what it was asked about."""

    Options: ClassVar[type[BaseModel]] = BaseModel
    uses_model: ClassVar[bool] = True

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table
        self.seen: list[str] = []

    def open(self, accepted: Any) -> None:
        pass

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        self.seen += [sample.answer for sample in samples]
        return [self._decide(sample) for sample in samples]

    def _decide(self, sample: Sample) -> Decision:
        if sample.answer not in self.table:
            return Decision(sample.id, "edit", "keep", "ok")
        child = edited(sample, self.table[sample.answer])
        return Decision(sample.id, "edit", "rewrite", "wrong_quantity", child)


def pipeline(corrector: Corrector, student: Any, domain: Domain) -> list[tuple[str, Refiner]]:
    """As a recipe has it; `likelihood` brings its own `ask`, as it does in a run."""

    async def ask_of(*_: Any) -> tuple[Ask, str]:
        return asking(student), "model_s"

    bound = Bound(step(domain), "student", cast(Any, SimpleNamespace(ask=ask_of)), 1)
    kinds = (Form, Exact, Near, RoundTrip)
    plain = [(kind.__name__.lower(), cast(Any, kind)(kind.Options(), domain)) for kind in kinds]
    return [
        *plain,
        ("edit", corrector),
        ("likelihood", bound),
        ("citation", Citation(Citation.Options(), domain)),
    ]


async def nothing(*_: Any, **__: Any) -> Completion:
    raise AssertionError("the round's own ask is nobody's")


SPOILS = {RIGHT: WRONG, "14 days (§ 34-9-80)": "30 days (§ 34-9-80)", "30 days": "29 days (§ 34-9-80)"}


QUESTIONS = ("How long is notice of the accident?", "When is notice due?", "By when is the accident told?")


def drafts(store: Store) -> list[Sample]:
    pairs = zip(QUESTIONS, SPOILS, strict=True)
    samples = [make(question, text, number) for number, (question, text) in enumerate(pairs)]
    rows, edges = sample_rows(samples, RUN, 1)
    store.append("samples", rows)
    store.append("edges", edges)
    return samples


def contents(store: Store) -> list[Any]:
    sql = """SELECT s.answer, s.operation, d.step, d.action, d.reason, d.final, d.rewrite_id, d.sample_id
             FROM decisions d JOIN samples s ON s.id = d.sample_id ORDER BY ALL"""
    return store.select(sql)


async def test_the_original_goes_on_through_every_step_and_no_model_is_asked_again(tmp_path: Path) -> None:
    """A right edit stays, a wrong one of a right answer gives way, and an original may fail a later check."""
    corrector, student = Corrector(SPOILS), Student(reads)
    with Store.open(tmp_path) as store:
        samples = drafts(store)
        await refine_round(store, RUN, 1, pipeline(corrector, student, make_domain()), samples, nothing)
        sql = """SELECT s.answer, s.operation, d.refiner, d.action, d.reason FROM decisions d
                 JOIN samples s ON s.id = d.sample_id WHERE d.final AND d.action <> 'rewrite' ORDER BY ALL"""
        assert [tuple(row.values()) for row in store.select(sql)] == [
            ("30 days", "likelihood", "citation", "drop", "missing_citation"),
            (RIGHT, "edit", "citation", "keep", "ok"),
            (RIGHT, "likelihood", "citation", "keep", "ok"),
        ]
        assert sorted(corrector.seen) == sorted(SPOILS)  # nothing that came of them
        assert len(student.seen) == 4 * len(SPOILS)
        funnel = store.select(
            "SELECT num_samples FROM funnel WHERE refiner = 'likelihood' AND reason = 'less_likely'"
        )
        assert [row["num_samples"] for row in funnel] == [2]
        scores = store.select(
            "SELECT DISTINCT metric, model_id FROM scores WHERE scorer = 'likelihood' ORDER BY ALL"
        )
        assert [tuple(row.values()) for row in scores] == [("ifd", "model_s"), ("ifd_original", "model_s")]
        root = store.select(
            """SELECT DISTINCT l.ancestor FROM lineage l JOIN samples s ON s.id = l.sample_id
               WHERE s.operation = 'likelihood' AND s.answer = ? AND l.kind = 'sample'""", (RIGHT,)
        )  # fmt: skip
        assert samples[0].id in {row["ancestor"] for row in root}


async def test_any_beginning_of_a_batch_is_completed_to_the_same_result(tmp_path: Path) -> None:
    """As if the process were killed after each row in turn: the original is found again each time."""

    async def run(store: Store) -> list[Any]:
        refiners = pipeline(Corrector(SPOILS), Student(reads), make_domain())
        await refine_round(store, RUN, 1, refiners, drafts(store), nothing)
        return contents(store)

    written: list[tuple[str, Any]] = []
    with Store.open(tmp_path / "whole") as store:
        append = store.append

        def record(table: str, rows: Sequence[Any]) -> None:
            written.extend((table, row) for row in rows)
            append(table, rows)

        store.append = record  # type: ignore[method-assign]
        whole = await run(store)
    generated = sum(table in ("samples", "edges") for table, _ in written[:6])
    for num_rows in range(generated, len(written), 3):
        with Store.open(tmp_path / str(num_rows)) as store:
            for table, row in written[:num_rows]:
                store.append(table, [row])
            assert await run(store) == whole


async def test_what_was_asked_of_the_student_is_stored_and_found(tmp_path: Path) -> None:
    student = Student(reads)

    async def ask(store: Store) -> Completion:
        engine = Engine(store, Budget(BudgetSpec()), RUN)
        asked = engine.ask("student", ScriptedModel(student), ModelSpec(server="here"), "refine", 1)
        turns = [Message("user", "30"), Message("assistant", "30 days")]
        return await asked(turns, sampling=Sampling(max_tokens=1), given=True)

    for _ in range(2):
        with Store.open(tmp_path) as store:
            found = await ask(store)
            assert found.logprobs == (Token(" 30", -0.5), Token(" days", -0.5))
            (row,) = store.select("SELECT request, response FROM calls")
            assert json.loads(row["request"])["given"] is True and row["response"] == "30 days"
    assert len(student.seen) == 1


# in a recipe


def recipe(*steps: str, **changes: Any) -> Recipe:
    values = make_domain().recipe.model_dump(mode="json") | {"sources": {"paths": ["handbook.md"]}}
    models = {"teacher": {"server": "here"}, "refiner": {"server": "here"}, "student": {"server": "here"}}
    refiners = [{"name": name} for name in steps]
    return Recipe.model_validate({**values, "models": models, "refiners": refiners, **changes})


def test_a_recipe_with_it_needs_the_student_and_an_edit_before_it_and_counts_its_calls() -> None:
    check_consistency(recipe("edit", "likelihood"))
    with pytest.raises(RecipeError, match="none come to it") as raised:
        check_consistency(recipe("likelihood", "edit"))
    assert (raised.value.where, raised.value.hint) == ("refiners[0].name", "put it after 'edit'")
    models = {role: {"server": "here"} for role in ("teacher", "refiner")}
    with pytest.raises(RecipeError, match="'likelihood' needs a model") as raised:
        check_consistency(recipe("edit", "likelihood", models=models))
    assert raised.value.hint == "add `models.student`"
    there = {"kind": "endpoint", "base_url": "http://x/v1", "batch": True}
    servers = {"here": {"kind": "scripted"}, "there": there}
    models["student"] = {"server": "there", "model": "m"}
    with pytest.raises(RecipeError, match="'there' is asked in batches"):
        check_consistency(recipe("edit", "likelihood", servers=servers, models=models))
    plan = forecast(make_domain_of(recipe("edit", "likelihood", loop={"samples_per_round": 50, "rounds": 1})))
    assert {row["role"]: row["calls"] for row in plan if row["stage"] == "refine"} == {
        "refiner": 50,
        "student": 200,
    }


def make_domain_of(made: Recipe) -> Domain:
    return Domain(recipe=made, folder=Path(), sources=(NOTICE,), seeds=(), dev=(), test=(), drafts=())


def test_its_role_is_the_students() -> None:
    assert role_of(Likelihood) == "student" and "echo" in SCRIPTS
