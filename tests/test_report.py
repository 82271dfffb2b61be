"""The report says what the database holds, however it is drawn."""

import json
from dataclasses import asdict, replace
from html.parser import HTMLParser

import pytest
from rich.console import Console
from synthetic_run import NUM_ITEMS, RIGHT, RUN, fill

from factory.errors import InputError
from factory.findings import Gate
from factory.gate_grids import grid_gate_slices, grid_gates
from factory.grids import describe_spend, grid_results, grid_spend
from factory.report import collect, final_table, render_html, render_terminal, shorten
from factory.store.store import Store
from factory.types import Evaluation, ItemResult
from training.gate import Rule, compare


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("workspace")) as store:
        fill(store)
        yield store


@pytest.fixture(scope="module")
def report(store):
    return collect(store)


def print_plain(renderable, width=100):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_models_stand_in_order_with_their_accuracy(report):
    assert [model.label for model in report.models] == ["base", "raw", "checks", "round 1", "round 2"]
    for model in report.models:
        assert model.overall.mean == RIGHT[model.label] / NUM_ITEMS
        assert sum(each.num_items for each in model.slices.values()) == NUM_ITEMS
        assert sum(each.mean * each.num_items for each in model.slices.values()) == pytest.approx(
            RIGHT[model.label]
        )


def test_teacher_calls_that_samples_rest_on_are_told_from_those_paid_for(report):
    calls = {model.label: (model.num_teacher_calls, model.num_teacher_calls_paid) for model in report.models}
    assert calls == {
        "base": (0, 0),
        "raw": (16, 0),
        "checks": (16, 0),
        "round 1": (16, 16),
        "round 2": (32, 32),
    }
    samples = {model.label: model.num_samples for model in report.models}
    assert samples == {"base": 0, "raw": 16, "checks": 16, "round 1": 12, "round 2": 24}


def test_a_run_that_found_its_answers_stored_rests_on_them_too(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store)
        row = {"id": "run_later", "recipe": "r", "digest": "d", "config": {}, "version": "0.1.0"}
        store.append("runs", [row])
        store.execute_insert(
            "INSERT INTO round_samples SELECT 'run_later', round, position, sample_id FROM round_samples "
            "WHERE run_id = ? AND (round = 1 OR position < 4)",
            (RUN,),
        )
        for number in (0, 1, 2):
            evaluation = {
                "id": f"evl_later_{number}",
                "run_id": "run_later",
                "round": number,
                "model_id": "m",
            }
            numbers = {
                "split": "test",
                "metric": "facts",
                "num_items": 1,
                "mean": 1.0,
                "low": 0.0,
                "high": 1.0,
            }
            store.append("evaluations", [evaluation | numbers])
        report = collect(store, "run_later")
    assert [(model.num_teacher_calls, model.num_teacher_calls_paid) for model in report.models] == [
        (0, 0),
        (16, 0),
        (20, 0),
    ]
    columns = grid_results(report).columns
    assert "Teacher calls behind its samples" in columns and "Paid by this run" in columns


def test_last_round_is_compared_with_each_other_model(report):
    against_raw = next(each for each in report.comparisons if each.against == "raw")
    assert (against_raw.label, against_raw.num_better, against_raw.num_worse) == ("round 2", 13, 0)
    assert against_raw.gain == pytest.approx(13 / 40)
    assert against_raw.p_value == pytest.approx(2 * 0.5**13)
    assert [each.against for each in report.comparisons] == ["base", "raw", "checks", "round 1"]


def test_funnel_adds_up(report):
    assert (report.num_generated, report.num_accepted, report.num_undecided) == (32, 24, 0)
    assert [(step.refiner, step.num_dropped, step.num_left) for step in report.steps] == [
        ("form", 4, 28),
        ("exact", 4, 24),
        ("edit", 0, 24),
        ("citation", 0, 24),
    ]
    assert sum(each.num_accepted for each in report.slice_rounds) == report.num_accepted
    assert sum(each.num_rewritten for each in report.strategies) == 8


def test_undecided_samples_are_counted(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store)
        row = {"run_id": RUN, "round": 2, "position": 99}
        (kept,) = store.select("SELECT id FROM samples WHERE operation = 'edit' ORDER BY id LIMIT 1")
        copy = store.select("SELECT * FROM samples WHERE id = ?", (kept["id"],))[0]
        copy |= {"id": "smp_late", "messages": json.loads(copy["messages"]), "attributes": {}}
        store.append("samples", [copy])
        store.append("round_samples", [{**row, "sample_id": "smp_late"}])
        report = collect(store)
    assert (report.num_generated, report.num_accepted, report.num_undecided) == (33, 24, 1)
    assert "1 not decided yet" in print_plain(final_table(report), 200)


def test_reasons_carry_two_examples_and_what_they_became(report):
    reasons = {(each.action, each.reason): each for each in report.reasons}
    assert {key: each.num_samples for key, each in reasons.items()} == {
        ("drop", "not_json"): 4,
        ("drop", "duplicate"): 4,
        ("rewrite", "wrong_quantity"): 8,
    }
    edits = reasons["rewrite", "wrong_quantity"].examples
    assert len(edits) == 2
    assert all(example.became.startswith("30 days") for example in edits)


def test_spend_counts_failures_and_answers_of_another_run(report):
    found = {(each.label, each.stage, each.role): each for each in report.spend}
    teacher = found["", "generate", "teacher"]
    assert (teacher.num_calls, teacher.num_failed, teacher.num_found, teacher.prompt_tokens) == (
        34,
        2,
        0,
        340,
    )
    assert teacher.dollars == pytest.approx(0.34)
    assert teacher.seconds == pytest.approx(3.4)
    assert found["raw", "generate", "teacher"].num_found == 16
    assert found["raw", "generate", "teacher"].num_calls == 0


def test_every_paid_call_is_used_unused_or_failed(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store)
        assert "nothing rests on" not in describe_spend(collect(store).spend)
        (row,) = store.select("SELECT * FROM calls WHERE id = 'call_2-0'")
        row |= {"id": "call_lost", "request": {}}
        store.append("calls", [row])
        (kept,) = store.select("SELECT * FROM decisions WHERE step = 2 AND action = 'keep' LIMIT 1")
        read = row | {"id": "call_read", "stage": "refine", "role": "refiner"}
        store.append("calls", [read, read | {"id": "call_lost_too"}])
        bad = row | {"id": "call_bad"}
        store.append("calls", [bad, row | {"id": "call_good", "request": {"instead_of": "call_bad"}}])
        store.append("edges", [{"child": kept["sample_id"], "parent": "call_good", "relation": "call"}])
        store.append("decisions", [kept | {"step": 9, "final": False, "evidence": {"call": "call_read"}}])
        report = collect(store)
    unused = {(each.stage, each.role): each.num_unused for each in report.spend if each.num_unused}
    assert unused == {("generate", "teacher"): 1, ("refine", "refiner"): 1}
    assert "2 answers that nothing rests on" in describe_spend(report.spend)
    again = {(each.stage, each.role): each.num_asked_again for each in report.spend if each.num_asked_again}
    assert again == {("generate", "teacher"): 1}
    assert "1 asked again" in describe_spend(report.spend)
    assert "Unused" in grid_spend(report).columns


def test_what_may_be_billed_without_an_answer_is_told_beside_the_spend(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store)
        before = collect(store)
        assert "without an answer" not in print_plain(render_terminal(before), 200)
        (row,) = store.select("SELECT * FROM calls WHERE id = 'call_2-0'")
        row |= {"id": "call_cut_off", "request": {}, "status": "failed", "error": "cancelled"}
        store.append("calls", [row | {"lost_tokens": 87_622, "lost_dollars": 0.125}])
        report = collect(store)
    said = "up to 87,622 tokens, $0.12, more may have been billed without an answer"
    assert said in print_plain(render_terminal(report), 400) and said in render_html(report)
    lost = {(each.stage, each.role): each.lost_tokens for each in report.spend if each.lost_tokens}
    assert lost == {("generate", "teacher"): 87_622}


def test_stage_seconds_and_gate(report):
    assert {(each.label, each.stage): each.seconds for each in report.stages}["round 2", "train"] == 7
    (gate,) = report.gates
    assert (gate.promote, gate.evidence["gain"]) == (True, 0.31)


def test_the_gate_is_told_in_words_with_its_slices(report):
    items = [("fees", 0, 0)] * 30 + [("fees", 0, 1)] + [("notice", 1, 1)] * 10
    old, new = (
        Evaluation(
            "m",
            "dev",
            "facts",
            0.5,
            0.0,
            1.0,
            tuple(
                ItemResult(f"i{n}", item[0], f"c{n}", "q", "a", "b", float(item[which]), "call")
                for n, item in enumerate(items)
            ),
        )
        for which in (1, 2)
    )
    found = compare(old, new, Rule(max_slice_drop=0.1, min_items=42, seed=0))
    evidence = json.loads(json.dumps(asdict(found)))
    told = replace(report, gates=(Gate("round 1", False, found.reason, evidence),))
    words = f"41 of 42 items; a gain of 5 points would need {found.items_needed:,}"
    assert words in grid_gates(told).rows[0][-1]
    assert words in " ".join(print_plain(render_terminal(told), 400).split()) and words in render_html(told)
    assert [row[1:6] for row in grid_gate_slices(told).rows] == [
        ("fees", "31", "+3.2", "10 points", "kept it"),
        ("notice", "10", "+0.0", "10 points", "neither shown"),
    ]


def test_report_is_json(report):
    assert json.loads(json.dumps(asdict(report)))["run"]["id"] == RUN


def test_terminal_table_fits_into_100_columns(report):
    text = print_plain(final_table(report))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "97.5 % (88–100)" in text.replace("\u00a0", " ")
    assert "round 2 against raw: +32.5 points, p = 2.4e-04 (exact McNemar" in text


def test_terminal_shows_control_characters_as_signs(report):
    text = print_plain(render_terminal(report))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]" in text


class Page(HTMLParser):
    """Collects tags, attributes that could fetch, and table captions."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.fetches: list[str] = []
        self.attributes: dict[str, list[dict[str, str | None]]] = {}

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.setdefault(tag, []).append(dict(attrs))
        self.fetches += [name for name, _ in attrs if name in {"src", "href", "srcset", "xlink:href"}]
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_fetches_nothing(report):
    html = render_html(report)
    page = Page()
    page.feed(html)
    assert page.open == []
    assert page.fetches == []
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert page.attributes["html"] == [{"lang": "en"}]
    assert page.tags.count("table") == page.tags.count("caption") == 9
    assert all(each.get("aria-label") for each in page.attributes["svg"] if each.get("role") == "img")


def test_page_escapes_what_data_says(report):
    html = render_html(report)
    assert "&lt;script&gt;alert" in html
    assert "&lt;b&gt;law" in html
    assert "\x1b" not in html
    assert "\u202e" not in html


def test_run_without_evaluation_has_a_report(tmp_path):
    with Store.open(tmp_path) as store:
        row = {"id": RUN, "recipe": "r", "digest": "d", "config": {}, "version": "0.1.0"}
        store.append("runs", [row])
        report = collect(store)
    assert "No student has been evaluated" in print_plain(final_table(report))
    assert "No student has been evaluated" in render_html(report)
    print_plain(render_terminal(report))


def test_workspace_without_run_is_refused(tmp_path):
    with Store.open(tmp_path) as store, pytest.raises(InputError, match="no run"):
        collect(store)


def test_short_headings_are_distinct():
    assert shorten(["medical_care", "medical_fees", "a_b"], 7) == ["medical", "medica2", "a b"]


def test_many_slices_still_fit(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store)
        store.append(
            "evaluation_items",
            [
                {
                    "evaluation_id": "evl_round 2",
                    "item_key": f"more-{index}",
                    "slice": f"a_rather_long_slice_{index}",
                    "cluster": "c",
                    "question": "q",
                    "expected": "e",
                    "answer": "a",
                    "score": 0.0,
                    "call_id": "call_x",
                }
                for index in range(20)
            ],
        )
        text = print_plain(final_table(collect(store)))
    assert "16 more slices" in text
    assert max(len(line) for line in text.splitlines()) <= 100
