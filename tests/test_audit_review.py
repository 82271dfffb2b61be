"""Verdicts through the audit page over real HTTP: deciding, undo, queues, the estimate, the next training."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from audit_http import Visitor, served
from hypothesis import given
from hypothesis import strategies as st

from factory import cli
from factory.audit.access import Access
from factory.audit.forms import read_fields, unsigned
from factory.audit.queues import next_at_random, next_turn, raw_threshold
from factory.errors import InputError, WorkspaceError
from factory.init import write_template
from factory.load import load
from factory.printable import printable
from factory.significance import wilson
from factory.store.queries import Reader, read
from factory.store.rows import decision_rows, sample_rows, source_row
from factory.store.store import Store
from factory.store.verdicts import STANDING, Said, slug, undone
from factory.types import Decision, Message, Parent, Sample, Score, Source

RUN = "run_a"
CONFIG = {"refiners": [{"name": "edit"}, {"name": "citation"}, {"name": "judge", "drop_below": 3.5}]}
SOURCE = Source.create("k1", "h.md", "§ 1", "Loans", "Books are lent for 21 days.", "loans")


def make(number: int, answer: str = "For 14 days.", source: Source = SOURCE) -> Sample:
    messages = [Message("user", f"How long, number {number}?"), Message("assistant", answer)]
    return Sample.create(
        messages, [Parent(source.id, "source")], "grounded", {"slice": "loans", "strategy": "grounded"}
    )


def add(store: Store, *samples: Sample) -> None:
    for table, rows in zip(("samples", "edges"), sample_rows(samples, RUN, 1), strict=True):
        store.append(table, rows)
    store.flush()


def decide(store: Store, step: int, *decisions: Decision, final: bool = False) -> None:
    ids = {each.sample_id for each in decisions} if final else set()
    rows, scores = decision_rows(decisions, RUN, 1, step, ids)
    store.append("decisions", rows)
    store.append("scores", scores)
    store.flush()


def say(store: Store, sample: Sample, action: str, reviewer: str = "Bob", reason: str = "r") -> None:
    row = {"sample_id": sample.id, "reviewer": reviewer, "action": action, "reason": reason}
    store.append("verdicts", [row])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "w") as store:
        store.append(
            "runs", [{"id": RUN, "recipe": "library", "digest": "d", "config": CONFIG, "version": "0"}]
        )
        store.append("sources", [source_row(SOURCE)])
        yield store


def kept_samples(store: Store, num: int) -> list[Sample]:
    """Samples that the run kept; the refiner's probability of the n-th is n / num."""
    samples = [make(number) for number in range(num)]
    add(store, *samples)
    for number, sample in enumerate(samples):
        score = Score(sample.id, "keep", number / num, "edit_probability")
        decide(store, 0, Decision(sample.id, "edit", "keep", "ok", None, (score,)))
    decide(store, 1, *(Decision(each.id, "citation", "keep", "ok") for each in samples), final=True)
    return samples


def about(page: str) -> str:
    """The sample that a page asks about."""
    (found,) = re.findall(r'id="verdict".*?name="about" value="([^"]+)"', page, re.DOTALL)
    return str(found)


def rows(workspace: Path) -> list[tuple[Any, ...]]:
    sql = "SELECT reviewer, action, reason, corrected FROM verdicts ORDER BY created_at, rowid"
    return list(read(workspace, sql).rows)


def test_verdicts_by_form_are_in_the_store_at_once_and_lead_to_the_next(store: Store, tmp_path: Path) -> None:
    samples = kept_samples(store, 4)
    with served(tmp_path / "w") as server:  # while the run goes on
        visitor = Visitor(server).enter().named("Ada Löwe")
        state = {"queue": "uncertain", "run": RUN}
        first = visitor.get("/review").text
        assert about(first) == samples[2].id and "50.0%; it turns at 50%" in first
        answer = visitor.post("/review", {**state, "about": samples[2].id, "action": "keep"})
        assert (answer.status, answer.headers["Location"]) == (303, f"/review?queue=uncertain&run={RUN}")
        second = visitor.get(answer.headers["Location"]).text
        assert about(second) == samples[1].id and "You said <strong>keep</strong>" in second
        drop = {**state, "about": samples[1].id, "action": "drop", "other": "Wrong citation!"}
        assert visitor.post("/review", drop).status == 303
        third = visitor.get("/review").text
        assert about(third) == samples[3].id and 'value="wrong_citation"' in third
        keys = r'value="(\w+)" data-key="(\d)"'  # they choose the same reason whatever was said before
        assert re.findall(keys, third) == re.findall(keys, first) != []
        edit = {**state, "about": samples[3].id, "action": "edit", "reason": "wrong_quantity"}
        visitor.post("/review", {**edit, "corrected": "For 21 days.\r\nNot more."})
        assert rows(tmp_path / "w") == [
            ("Ada Löwe", "keep", "ok", None),
            ("Ada Löwe", "drop", "wrong_citation", None),
            ("Ada Löwe", "edit", "wrong_quantity", "For 21 days.\nNot more."),
        ]
        assert about(visitor.get("/review").text) == samples[0].id
        visitor.post("/review", {**state, "about": samples[0].id, "action": "keep"})
        assert "Nothing is left to decide" in visitor.get("/review").text
        other = Visitor(server).enter().named("Bob")
        (later,) = re.findall(
            r'href="(/review\?[^"]*)" data-key="n"', other.get("/review?sample=" + samples[0].id).text
        )
        assert about(other.get(unescape(later)).text) == samples[1].id
        assert about(other.get("/review").text) == samples[2].id


def test_what_is_not_clear_is_said_and_what_was_typed_stays(store: Store, tmp_path: Path) -> None:
    (sample,) = kept_samples(store, 1)
    with served(tmp_path / "w") as server:
        visitor = Visitor(server).enter()
        page = visitor.get("/review").text
        assert 'id="verdict"' not in page and "write yours above" in page
        fields = {"about": sample.id, "action": "edit", "corrected": "For <21> days."}
        for more, why in (
            ({}, "who are you"),
            ({}, "choose or write a reason"),
            ({"reason": "wrong", "corrected": "For 14 days."}, "the answer is as it was"),
            ({"reason": "wrong", "action": "burn"}, "is no verdict"),
            ({"reason": "wrong", "action": "refined"}, "the refiner made nothing"),
            ({"reason": "§§", "action": "drop"}, "needs a reason"),
            ({"reason": "wrong", "corrected": "x" * (2**20 + 1)}, "characters at most"),
        ):
            answer = visitor.post("/review", {**fields, **more})
            assert answer.status == 422 and why in unescape(answer.text), why
            if why == "choose or write a reason":
                assert "For &lt;21&gt; days.</textarea>" in answer.text
            visitor.named("Ada")
        assert visitor.post("/review/name", {"reviewer": "two\nlines\x1b"}).status == 422
        assert visitor.post("/review", {**fields, "about": "smp_none", "action": "keep"}).status == 400
        assert visitor.post("/review/undo", {"about": sample.id}).status == 400
        assert visitor.get("/review?queue=all").status == 400
        assert visitor.get("/review?sample=smp_none").status == 400
        assert visitor.post("/review", {**fields, "corrected": "y" * 9_000_000}).status == 400
    assert rows(tmp_path / "w") == []


def test_a_workspace_that_cannot_be_written_keeps_what_was_typed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise WorkspaceError("verdicts cannot be written there")

    (sample,) = kept_samples(store, 1)
    with served(tmp_path / "w") as server:
        visitor = Visitor(server).enter()
        visitor.named("Ada")
        visitor.get("/review")
        monkeypatch.setattr(Access, "add_verdicts", refuse)
        fields = {"about": sample.id, "action": "edit", "corrected": "For <21> days.", "reason": "wrong"}
        answer = visitor.post("/review", fields)
        assert answer.status == 422 and "verdicts cannot be written there" in answer.text
        assert "For &lt;21&gt; days.</textarea>" in answer.text


def test_undo_restores_what_stood_and_goes_on_to_the_one_before(store: Store, tmp_path: Path) -> None:
    first, second = kept_samples(store, 2)
    with served(tmp_path / "w") as server:
        visitor = Visitor(server).enter().named("Ada")
        visitor.post("/review", {"about": first.id, "action": "keep"})
        visitor.post("/review", {"about": second.id, "action": "keep"})
        visitor.post("/review", {"about": second.id, "action": "drop", "reason": "useless"})
        undone_at = []
        for _ in range(3):
            page = visitor.get("/review").text
            (last,) = re.findall(r'action="/review/undo".*?name="about" value="([^"]+)"', page, re.DOTALL)
            answer = visitor.post("/review/undo", {"about": last, "queue": "uncertain"})
            undone_at.append(last)
            assert about(visitor.get(answer.headers["Location"]).text) == last
        assert undone_at == [second.id, second.id, first.id]
        assert "/review/undo" not in visitor.get("/review").text
    assert [row[1:3] for row in rows(tmp_path / "w")[3:]] == [
        ("keep", "ok"),
        ("withdrawn", "undo"),
        ("withdrawn", "undo"),
    ]
    assert store.select("SELECT * FROM standing_verdicts") == []


def test_undo_in_a_tab_that_is_behind_takes_back_nothing_else(store: Store, tmp_path: Path) -> None:
    (first,) = kept_samples(store, 1)
    with served(tmp_path / "w") as server:
        visitor = Visitor(server).enter().named("Ada")
        visitor.post("/review", {"about": first.id, "action": "keep"})
        visitor.post("/review", {"about": first.id, "action": "drop", "reason": "useless"})
        page = visitor.get("/review").text
        form = re.findall(r'action="/review/undo".*?</form>', page, re.DOTALL)[0]
        fields = dict(re.findall(r'name="(about|said)" value="([^"]+)"', form))
        assert [visitor.post("/review/undo", fields).status for _ in range(2)] == [303, 400]
    assert store.select("SELECT action FROM standing_verdicts") == [{"action": "keep"}]


SAID = st.sampled_from([Said("keep", "ok"), Said("drop", "a"), Said("drop", "b"), Said("edit", "a", "x")])


@given(st.lists(SAID, max_size=6))
def test_undoing_takes_back_one_after_the_other(said: list[Said]) -> None:
    """Any verdicts, of which none says what the one before or the one before that says: that is an undo."""
    history: list[Said] = []
    for each in said:
        if each not in history[-2:]:
            history.append(each)
    standing, written = list(history), list(history)
    while standing:
        standing.pop()
        written.append(undone(written))
        if standing:
            assert written[-1] == standing[-1]
        else:
            assert written[-1].action == "withdrawn"


def test_a_verdict_is_in_the_next_training_set_until_it_is_undone(tmp_path: Path, capsys: Any) -> None:
    write_template(tmp_path / "domain")
    domain = load(tmp_path / "domain")
    with Store.open(tmp_path / "w") as store:
        store.append("runs", [{"id": RUN, "recipe": "r", "digest": "d", "config": {}, "version": "0"}])
        store.append("sources", [source_row(source) for source in domain.sources])
        sample = make(1, source=domain.sources[0])
        add(store, sample)

    def trained_on() -> list[str]:
        words = ["refiner", "data", str(tmp_path / "domain"), "--workspace", str(tmp_path / "w"), "--json"]
        files = ["--output", str(tmp_path / "chats"), "--held-out", str(tmp_path / "drafts")]
        assert cli.main([*words, *files]) == 0
        capsys.readouterr()
        lines = (tmp_path / "chats").read_text().splitlines() + (tmp_path / "drafts").read_text().splitlines()
        return [line for line in lines if sample.question in line]

    with served(tmp_path / "w") as server:
        visitor = Visitor(server).enter().named("Ada")
        fields = {"about": sample.id, "action": "edit", "reason": "wrong_quantity"}
        assert trained_on() == []
        visitor.post("/review", {**fields, "corrected": "For 21 days exactly."})
        assert any("21 days exactly" in line for line in trained_on())
        visitor.post("/review/undo", {"about": sample.id})
        assert trained_on() == []


def test_what_the_refiner_made_is_shown_and_taken(store: Store, tmp_path: Path) -> None:
    draft = make(1)
    better = Sample.create(
        [draft.messages[0], Message("assistant", "For 21 days.")],
        [Parent(draft.id, "rewrite_of"), Parent(SOURCE.id, "source")],
        "edit",
        draft.attributes,
    )
    add(store, draft, better)
    decide(store, 0, Decision(draft.id, "edit", "rewrite", "wrong_quantity", better), final=True)
    decide(store, 1, Decision(better.id, "citation", "drop", "no_citation"), final=True)
    with served(tmp_path / "w") as server:
        visitor = Visitor(server).enter().named("Ada")
        page = visitor.get(f"/review?sample={draft.id}").text
        change = re.sub(r'<span class="unseen">.*?</span>', "", page)
        assert "For <del>14</del><ins>21</ins> days." in change and "Books are lent for 21 days." in page
        assert "no_citation" in page and "What it became" in page
        later = visitor.get("/review?queue=disputed").text
        assert about(later) == better.id and "citation dropped it: no_citation" in later
        assert "What the refiner made it from" in later
        visitor.post("/review", {"about": draft.id, "action": "refined", "reason": "wrong_quantity"})
        page = visitor.get(f"/review?sample={draft.id}").text
        assert "You said edit (wrong_quantity)" in page
    assert rows(tmp_path / "w") == [("Ada", "edit", "wrong_quantity", "For 21 days.")]


def test_disputed_are_people_first_then_checks_then_the_judge(store: Store, tmp_path: Path) -> None:
    by_people, by_check, by_judge, agreed, twin, by_me = samples = [make(number) for number in range(6)]
    add(store, *samples)
    decide(store, 0, *(Decision(each.id, "edit", "keep", "ok") for each in samples))
    decide(store, 1, Decision(by_check.id, "citation", "drop", "no_citation"), final=True)
    decide(store, 1, Decision(twin.id, "exact", "drop", "exact_duplicate"), final=True)
    for sample, overall in ((by_judge, 3.4), (by_people, 4.0), (agreed, 3.5), (by_me, 5.0)):
        score = Score(sample.id, "overall", overall, "judge")
        decide(store, 2, Decision(sample.id, "judge", "keep", "ok", None, (score,)), final=True)
    for sample, action in ((by_people, "drop"), (agreed, "keep"), (twin, "drop")):
        say(store, sample, action)
    say(store, by_me, "drop", reviewer="Ada")

    def in_order(reviewer: str) -> list[str]:
        turns = [next_turn(store, "disputed", RUN, reviewer, skip) for skip in range(4)]
        return [turn.sample_id for turn in turns if turn]

    assert in_order("Ada") == [by_people.id, by_check.id, by_judge.id]
    assert in_order("Bob") == [by_me.id, by_check.id, by_judge.id]
    say(store, by_people, "withdrawn")
    assert in_order("Ada") == [by_check.id, by_judge.id]


def test_uncertain_follows_the_calibrated_score_or_the_map(store: Store) -> None:
    samples = kept_samples(store, 5)
    assert next_turn(store, "uncertain", RUN, "Ada").sample_id in {samples[2].id, samples[3].id}  # type: ignore[union-attr]
    measured = {"id": "e", "run_id": RUN, "model_id": "m", "num_drafts": 1, "figures": {}}
    fitted = {"calibration": {"slope": 1.0, "intercept": -1.3862943611198906}}  # a half at 0.8
    store.append("refiner_evaluations", [{**measured, "calibration": fitted}])
    assert raw_threshold(store, RUN) == pytest.approx(0.8)
    assert next_turn(store, "uncertain", RUN, "Ada").sample_id == samples[4].id  # type: ignore[union-attr]
    calibrated = {"run_id": RUN, "sample_id": samples[0].id, "metric": "keep", "scorer": "edit_calibrated"}
    store.append("scores", [{**calibrated, "value": 0.6}])
    assert next_turn(store, "uncertain", RUN, "Ada").sample_id == samples[0].id  # type: ignore[union-attr]


def test_without_a_probability_to_keep_the_worse_digit_stands_for_it(store: Store) -> None:
    samples = [make(number) for number in range(2)]
    add(store, *samples)
    for sample, grounded, form in zip(samples, (0.9, 0.55), (0.1, 0.9), strict=True):
        for metric, value in (("grounded", grounded), ("form", form)):
            row = {"run_id": RUN, "sample_id": sample.id, "metric": metric, "scorer": "edit_probability"}
            store.append("scores", [{**row, "value": value}])
    first = next_turn(store, "uncertain", RUN, "Ada")
    assert first == (samples[1].id, "the lower of its scores grounded and form is 55.0%")
    assert next_turn(store, "uncertain", RUN, "Ada", skip=1).sample_id == samples[0].id  # type: ignore[union-attr]
    assert next_turn(store, "uncertain", RUN, "Ada", skip=2) is None


def test_the_estimate_is_over_the_beginning_of_the_order_and_nothing_else(store: Store) -> None:
    samples = kept_samples(store, 40)
    order = sorted(samples, key=lambda each: each.id)
    for sample in order[30:]:  # decided elsewhere, far down the order
        say(store, sample, "drop", "Ada")
    assert next_at_random(store, RUN, "Ada")[1] is None
    for number, sample in enumerate(order[:17]):
        turn, _ = next_at_random(store, RUN, "Ada")
        assert turn is not None and turn.sample_id == sample.id
        say(store, sample, ("keep", "keep", "keep", "edit", "drop")[number % 5], "Ada")
    turn, estimate = next_at_random(store, RUN, "Ada")
    assert turn is not None and turn.sample_id == order[17].id and estimate is not None
    assert (estimate.num_judged, estimate.num_items) == (17, 10)
    assert (estimate.num_kept, estimate.num_edited, estimate.num_dropped, estimate.share) == (6, 2, 2, 0.6)
    assert (estimate.low, estimate.high) == wilson(0.6, 10)
    say(store, order[3], "withdrawn", "Ada")  # a gap: what comes after it counts no more
    turn, estimate = next_at_random(store, RUN, "Ada")
    assert turn is not None and turn.sample_id == order[3].id and estimate is None
    turn, estimate = next_at_random(store, RUN, "Bob")
    assert turn is not None and turn.sample_id == order[0].id and estimate is None


def test_a_seed_begins_elsewhere_in_the_same_circle(store: Store) -> None:
    samples = kept_samples(store, 30)
    order = sorted(each.id for each in samples)
    turn, _ = next_at_random(store, RUN, "Ada", "another")
    assert turn is not None and turn.sample_id in order
    at, by_id = order.index(turn.sample_id), {each.id: each for each in samples}
    for number in range(30):
        turn, _ = next_at_random(store, RUN, "Ada", "another")
        assert turn is not None and turn.sample_id == order[(at + number) % 30]
        say(store, by_id[turn.sample_id], "keep", "Ada")
    turn, estimate = next_at_random(store, RUN, "Ada", "another")
    assert turn is None and estimate is not None and estimate.num_items == 30


def test_the_view_and_the_table_of_what_stands_are_the_same(store: Store) -> None:
    samples = kept_samples(store, 3)
    for sample, *actions in ((samples[0], "keep", "drop"), (samples[1], "keep", "withdrawn")):
        for action in actions:
            say(store, sample, action, "Ada")
    say(store, samples[1], "keep", "Bob")
    say(store, samples[2], "withdrawn", "Ada")
    names = "sample_id, reviewer, action, reason, corrected, created_at"
    ours = store.select(f"SELECT {names} FROM {STANDING} ORDER BY ALL")
    assert ours == store.select("SELECT * FROM standing_verdicts ORDER BY ALL")
    assert [(row["reviewer"], row["action"]) for row in ours if row["sample_id"] != samples[0].id] == [
        ("Bob", "keep")
    ]
    decided = "SELECT num_items FROM agreement WHERE kind = 'decision'"
    assert store.select(decided) == [{"num_items": 2}]


@given(st.text(alphabet="ab\u200f\u202e\x1b\x7f\n", max_size=30))
def test_signs_of_characters_that_are_not_shown_go_back_to_them(text: str) -> None:
    assert unsigned(printable(text), text) == text
    assert unsigned("<U+202E>", "plain") == "<U+202E>"


@pytest.mark.parametrize("body", [b"\xff", b"a=1&" * 60])
def test_a_body_that_is_no_form_is_refused(body: bytes) -> None:
    with pytest.raises(InputError):
        read_fields(body)


def test_reasons_become_slugs() -> None:
    assert slug(" Wrong  citation! ") == "wrong_citation"
    assert slug("x" * 60) == "x" * 40


def test_the_whole_of_a_long_text_is_a_file_to_save(store: Store, tmp_path: Path) -> None:
    sample = make(1, answer="<b>word</b> " * 5000)
    add(store, sample)
    with served(tmp_path / "w") as server:
        visitor = Visitor(server).enter().named("Ada")
        page = visitor.get(f"/review?sample={sample.id}").text
        assert len(page) < 60_000 and "too long to be edited" in page
        answer = visitor.get(f"/review/text/answer?id={sample.id}")
        assert answer.text == sample.answer and answer.headers["Content-Type"].startswith("text/plain")
        assert answer.headers["Content-Disposition"] == 'attachment; filename="answer.txt"'
        assert visitor.get("/review/text/messages?id=x").status == 400
        assert visitor.get("/review/text/answer?id=x").status == 400


def test_the_reader_is_asked_nothing_that_a_file_cannot_answer(store: Store, tmp_path: Path) -> None:
    """The queues are plain SELECTs, the same through a run's socket and from the file itself."""
    (sample,) = kept_samples(store, 1)
    store.flush()
    with Reader(tmp_path / "w") as reader:
        assert next_turn(reader, "uncertain", RUN, "Ada") == next_turn(store, "uncertain", RUN, "Ada")
        assert next_at_random(reader, RUN, "Ada")[0].sample_id == sample.id  # type: ignore[union-attr]
        assert json.dumps(next_turn(reader, "disputed", RUN, "Ada")) == "null"
