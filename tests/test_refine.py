from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from edited import with_answer
from pydantic import BaseModel

from factory.errors import EndpointError, FactoryError
from factory.ports import Ask
from factory.refine import MAX_REWRITES, Refining, refine_round
from factory.store.rows import sample_rows
from factory.store.store import Store
from factory.types import Completion, Decision, Message, Parent, Sample, Score

RUN = "run_1"
Rule = Callable[[Sample], Decision]


class Rules:
    """A refiner that follows a function and remembers what it saw."""

    Options: ClassVar[type[BaseModel]] = BaseModel
    uses_model: bool = False

    def __init__(self, name: str, rule: Callable[[str], str] = lambda answer: answer) -> None:
        self.name = name
        self.rule = rule
        self.opened: list[Sample] = []
        self.batches: list[list[str]] = []

    def open(self, accepted: Iterable[Sample]) -> None:
        self.opened = list(accepted)

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        self.batches.append([sample.answer for sample in samples])
        return [self.judge(sample) for sample in samples]

    def judge(self, sample: Sample, *parents: Parent) -> Decision:
        """Keeps where the rule gives the answer back, drops where it gives none, else rewrites."""
        answer = self.rule(sample.answer)
        if answer == sample.answer:
            return Decision(sample.id, self.name, "keep", "ok")
        if not answer:
            return Decision(sample.id, self.name, "drop", "bad")
        child = with_answer(sample, answer, parents)
        return Decision(sample.id, self.name, "rewrite", "better", child)

    @property
    def seen(self) -> list[str]:
        return [answer for batch in self.batches for answer in batch]


class Asking(Rules):
    """The same with a model: it asks about each sample and scores it."""

    uses_model = True

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        self.batches.append([sample.answer for sample in samples])
        decisions = []
        for sample in samples:
            completion = await ask([Message("user", sample.answer)])
            decision = self.judge(sample, Parent(completion.call_id, "call"))
            scores = (Score(sample.id, "grounded", 1.0, self.name),)
            decisions.append(
                Decision(
                    sample.id, self.name, decision.action, decision.reason, decision.rewrite, scores, {"n": 1}
                )
            )
        return decisions


class Unique(Rules):
    """Drops an answer that passed before."""

    def open(self, accepted: Iterable[Sample]) -> None:
        self.known = {sample.answer for sample in accepted}

    def judge(self, sample: Sample, *parents: Parent) -> Decision:
        if sample.answer in self.known:
            return Decision(sample.id, self.name, "drop", "seen")
        self.known.add(sample.answer)
        return Decision(sample.id, self.name, "keep", "ok")


async def ask(messages: Sequence[Message], **options: Any) -> Completion:
    return Completion("{}", call_id=f"call_for_{messages[0].content}")


async def down(messages: Sequence[Message], **options: Any) -> Completion:
    raise EndpointError("down", kind="unreachable")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path) as opened:
        yield opened


def generate(store: Store, answers: Iterable[str]) -> list[Sample]:
    samples = [
        Sample.create(
            [Message("user", "Q?"), Message("assistant", answer)],
            [Parent(f"call_{number}", "call"), Parent("src_1", "source")],
            "grounded",
            {"slice": "notice", "strategy": "grounded"},
        )
        for number, answer in enumerate(answers)
    ]
    rows, edges = sample_rows(samples, RUN, 1)
    store.append("samples", rows)
    store.append("edges", edges)
    return samples


def steps(*refiners: Rules) -> list[tuple[str, Any]]:
    return [(refiner.name, refiner) for refiner in refiners]


def finals(store: Store) -> dict[str, tuple[str, str, str]]:
    """Answer → refiner, action and reason of the final decision; every sample has exactly one."""
    rows = store.select(
        """SELECT s.answer, s.id, d.refiner, d.action, d.reason FROM samples s
           LEFT JOIN decisions d ON d.sample_id = s.id AND d.final"""
    )
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(row["action"] for row in rows)
    return {row["answer"]: (row["refiner"], row["action"], row["reason"]) for row in rows}


def contents(store: Store) -> list[Any]:
    """All decisions, scores, samples and edges but for the time at which they were written."""
    return [
        store.select("SELECT * EXCLUDE created_at FROM decisions ORDER BY sample_id, step"),
        store.select("SELECT * EXCLUDE created_at FROM samples ORDER BY id"),
        store.select("SELECT * FROM edges ORDER BY ALL"),
        store.select("SELECT * FROM scores ORDER BY ALL"),
    ]


async def test_each_sample_is_settled_once_with_its_reason(store: Store) -> None:
    samples = generate(store, ["good", "empty", "wrong", "hopeless"])
    form = Rules("form", lambda answer: "" if answer == "empty" else answer)
    edit = Asking("edit", lambda answer: {"wrong": "right", "hopeless": ""}.get(answer, answer))
    citation = Rules("citation")
    counts = await refine_round(store, RUN, 1, steps(form, edit, citation), samples, ask)
    assert counts == Counter(keep=2, rewrite=1, drop=2)
    assert finals(store) == {
        "good": ("citation", "keep", "ok"),
        "empty": ("form", "drop", "bad"),
        "wrong": ("edit", "rewrite", "better"),
        "hopeless": ("edit", "drop", "bad"),
        "right": ("citation", "keep", "ok"),
    }


async def test_a_rewrite_passes_the_checks_again_but_not_the_model(store: Store) -> None:
    form, edit, citation = Rules("form"), Asking("edit", lambda _: "right"), Rules("citation")
    await refine_round(store, RUN, 1, steps(form, edit, citation), generate(store, ["wrong"]), ask)
    assert (form.seen, edit.seen, citation.seen) == (["wrong", "right"], ["wrong"], ["right"])
    kept = store.select("SELECT step FROM decisions WHERE final AND action = 'keep'")
    assert kept == [{"step": 2}]


async def test_a_check_before_the_model_may_drop_the_rewrite(store: Store) -> None:
    form = Rules("form", lambda answer: "" if answer == "worse" else answer)
    edit = Asking("edit", lambda _: "worse")
    await refine_round(store, RUN, 1, steps(form, edit), generate(store, ["wrong"]), ask)
    assert finals(store)["worse"] == ("form", "drop", "bad")


async def test_a_model_later_in_the_list_sees_the_rewrite_once(store: Store) -> None:
    redact = Rules("redact", lambda answer: answer.replace("Jane", "N. N."))
    edit = Asking("edit", lambda answer: answer.replace("wrong", "right"))
    judge = Asking("judge")
    await refine_round(store, RUN, 1, steps(redact, edit, judge), generate(store, ["Jane wrong"]), ask)
    assert edit.seen == ["N. N. wrong"]
    assert judge.seen == ["N. N. right"]
    assert finals(store)["N. N. right"] == ("judge", "keep", "ok")


async def test_a_rewrite_with_no_check_left_is_accepted_as_unchecked(store: Store) -> None:
    await refine_round(
        store, RUN, 1, steps(Asking("edit", lambda _: "right")), generate(store, ["wrong"]), ask
    )
    assert finals(store)["right"] == ("none", "keep", "unchecked")


async def test_without_refiners_everything_is_accepted(store: Store) -> None:
    counts = await refine_round(store, RUN, 1, [], generate(store, ["a", "b"]), ask)
    assert counts == Counter(keep=2)
    assert set(finals(store)) == {"a", "b"}


async def test_a_rewriter_that_never_rests_is_stopped(store: Store) -> None:
    restless = Rules("restless", lambda answer: answer + "!")
    await refine_round(store, RUN, 1, steps(restless), generate(store, ["a"]), ask)
    assert finals(store)["a" + "!" * MAX_REWRITES] == ("restless", "drop", "rewritten_too_often")


async def test_a_child_has_its_edges_and_its_parent_a_score(store: Store) -> None:
    (parent,) = generate(store, ["wrong"])
    await refine_round(store, RUN, 1, steps(Asking("edit", lambda _: "right"), Rules("end")), [parent], ask)
    (child,) = store.select("SELECT * FROM samples WHERE operation = 'edit'")
    assert (child["round"], child["strategy"], child["slice"]) == (1, "grounded", "notice")
    edges = store.select(
        "SELECT parent, relation FROM edges WHERE child = ? ORDER BY relation", (child["id"],)
    )
    assert edges == [
        {"parent": "call_for_wrong", "relation": "call"},
        {"parent": parent.id, "relation": "rewrite_of"},
    ]
    assert store.select("SELECT sample_id, metric, value, scorer FROM scores") == [
        {"sample_id": parent.id, "metric": "grounded", "value": 1.0, "scorer": "edit"}
    ]


async def test_batches_keep_their_order_and_progress_is_told(store: Store) -> None:
    told: list[tuple[int, int, str]] = []
    form = Rules("form", lambda answer: "" if answer == "b" else answer)
    samples = generate(store, "abcde")
    await refine_round(
        store,
        RUN,
        1,
        steps(form),
        iter(samples),
        ask,
        2,
        lambda done, total, detail="": told.append((done, total, detail)),
    )
    assert form.batches == [["a", "b"], ["c", "d"], ["e"]]
    assert [done for done, _, _ in told] == [2, 4, 5]
    assert told[-1][2] == "drop 1, keep 4"


async def test_a_sample_that_comes_twice_is_settled_once(store: Store) -> None:
    (sample,) = generate(store, ["a"])
    form = Rules("form")
    await refine_round(store, RUN, 1, steps(form), [sample, sample, sample], ask, batch_size=2)
    assert form.seen == ["a"]


async def test_running_again_decides_nothing_anew(store: Store) -> None:
    samples = generate(store, ["good", "bad", "wrong"])

    def refiners() -> tuple[Rules, Rules]:
        form = Rules("form", lambda answer: "" if answer == "bad" else answer)
        return form, Asking("edit", lambda answer: answer.replace("wrong", "right"))

    await refine_round(store, RUN, 1, steps(*refiners()), samples, ask)
    before = contents(store)
    form, edit = refiners()
    assert await refine_round(store, RUN, 1, steps(form, edit), samples, ask) == Counter()
    assert (form.seen, edit.seen) == ([], [])
    assert contents(store) == before


async def test_new_samples_cost_no_question_to_the_database(store: Store, monkeypatch: Any) -> None:
    samples, asked = generate(store, "abcd"), list[str]()
    refining = Refining(store, RUN, 1, steps(Rules("form")))
    select = store.select
    monkeypatch.setattr(store, "select", lambda sql, params=(): asked.append(sql) or select(sql, params))
    await refining.settle(samples[:2], ask)
    await refining.settle(samples[2:], ask)
    assert asked == []  # each waits for the disk, and with it everything that is under way
    assert await refining.settle(samples[1:3], ask) == Counter()
    assert len(asked) == 1


async def test_another_run_decides_by_itself(store: Store) -> None:
    samples = generate(store, ["a"])
    await refine_round(store, RUN, 1, steps(Rules("form")), samples, ask)
    control = Rules("form", lambda _: "")
    await refine_round(store, "run_1_control", 1, steps(control), samples, ask)
    assert control.opened == []
    rows = store.select("SELECT run_id, action FROM decisions ORDER BY run_id")
    assert [(row["run_id"], row["action"]) for row in rows] == [("run_1", "keep"), ("run_1_control", "drop")]


async def test_refiners_open_over_what_they_let_pass_with_its_descent(store: Store) -> None:
    samples = generate(store, ["good", "bad", "wrong"])
    first = Rules("first", lambda answer: "" if answer == "bad" else answer)
    second = Asking("second", lambda answer: answer.replace("wrong", "right"))
    await refine_round(store, RUN, 1, steps(first, second), samples, ask)
    first, second = Rules("first"), Asking("second")
    await refine_round(store, RUN, 2, steps(first, second), [], ask)
    assert sorted(sample.answer for sample in first.opened) == ["good", "right", "wrong"]
    assert sorted(sample.answer for sample in second.opened) == ["good", "wrong"]
    (child,) = [sample for sample in first.opened if sample.answer == "right"]
    assert set(child.parents) == {Parent("call_for_wrong", "call"), Parent(samples[2].id, "rewrite_of")}


class Replays(Rules):
    """Remembers in which order it was told of what it had decided about."""

    told: ClassVar[list[str]] = []

    def replay(self, decided: Iterable[Sample]) -> None:
        self.told[:] = [sample.answer for sample in decided]


async def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path, monkeypatch: Any) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    answers = [f"{number}." for number in (5, 3, 9, 1, 7, 2)]
    for at in range(0, len(answers), 2):  # three processes, each an hour earlier than the one before it
        moment = noon - timedelta(hours=at)
        monkeypatch.setattr("factory.store.columns._now", lambda moment=moment: moment)
        with Store.open(tmp_path) as store:
            samples = generate(store, answers)
            await refine_round(store, RUN, 1, steps(Replays("replays")), samples[at : at + 2], ask)
    with Store.open(tmp_path) as store:
        Refining(store, RUN, 1, steps(Replays("replays")))
        assert Replays.told == answers


async def test_an_endpoint_that_is_down_leaves_finished_batches(store: Store) -> None:
    samples = generate(store, "abcd")

    async def fails_at_c(messages: Sequence[Message], **options: Any) -> Completion:
        return await (down if messages[0].content == "c" else ask)(messages)

    with pytest.raises(EndpointError):
        await refine_round(store, RUN, 1, steps(Asking("edit")), samples, fails_at_c, batch_size=2)
    assert len(store.select("SELECT * FROM decisions")) == 2
    edit = Asking("edit")
    await refine_round(store, RUN, 1, steps(edit), samples, ask, batch_size=2)
    assert edit.seen == ["c", "d"]
    assert set(finals(store)) == set("abcd")


ANSWERS = ["wrong", "good", "bad", "right", "wrong", "good", "odd"]


def pipeline() -> list[tuple[str, Any]]:
    return steps(
        Rules("form", lambda answer: "" if answer == "bad" else answer),
        Unique("unique"),
        Asking("edit", lambda answer: {"wrong": "right", "odd": "even"}.get(answer, answer)),
        Rules("citation"),
    )


async def test_any_beginning_of_a_batch_is_completed_to_the_same_result(tmp_path: Path) -> None:
    """As if the process were killed after each row in turn, and started again."""

    async def run(store: Store) -> list[Any]:
        await refine_round(store, RUN, 1, pipeline(), generate(store, ANSWERS), ask, batch_size=4)
        return contents(store)

    written: list[tuple[str, Any]] = []
    with Store.open(tmp_path / "whole") as store:
        append = store.append
        generated = len(ANSWERS) * 3

        def record(table: str, rows: Sequence[Any]) -> None:
            written.extend((table, row) for row in rows)
            append(table, rows)

        store.append = record  # type: ignore[method-assign]
        whole = await run(store)
    assert len(written) > generated
    for num_rows in range(generated, len(written)):
        with Store.open(tmp_path / str(num_rows)) as store:
            for table, row in written[:num_rows]:
                store.append(table, [row])
            assert not store.select(
                """SELECT sample_id FROM decisions WHERE rewrite_id NOT IN (SELECT id FROM samples)
                   UNION ALL SELECT id FROM samples WHERE id NOT IN (SELECT child FROM edges)"""
            )
            assert await run(store) == whole


@pytest.mark.parametrize("fault", ["too_few", "other_order", "no_rewrite"])
async def test_a_refiner_that_breaks_its_contract_is_named(store: Store, fault: str) -> None:
    class Broken(Rules):
        async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
            decisions = await super().refine(samples, ask)
            if fault == "no_rewrite":
                return [Decision(sample.id, "x", "rewrite", "r") for sample in samples]
            return decisions[:-1] if fault == "too_few" else decisions[::-1]

    with pytest.raises(FactoryError, match="'broken'"):
        await refine_round(store, RUN, 1, steps(Broken("broken")), generate(store, "ab"), ask)
    assert store.select("SELECT * FROM decisions") == []
