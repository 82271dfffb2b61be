"""A suite of the harness as far as it needs no harness: what is refused, and what its results become."""

import importlib.util
import logging
import os
import sys
from pathlib import Path

import pytest
import yaml
from fake_endpoint import FakeEndpoint, Status
from test_by_hand import recipe  # noqa: F401 (fixture)

from factory import suite
from factory.budget import Budget, Spend
from factory.cli import main
from factory.errors import BudgetExceeded, FactoryError, InputError, RecipeError
from factory.load import load
from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.spend import read_spend
from factory.suite_tasks import check_files, check_tasks
from factory.suite_worker import Warnings, read_task

RECIPE = Path(__file__).parents[1] / "recipes" / "georgia_workers_comp"
SUITE = RECIPE / "suite"


def choice(number: int, likelihoods: list[float], acc: float, kept: str = "none") -> dict:
    asked = [[f"question {number}?", f" {letter}"] for letter in "ABC"]
    found = [[each, False] for each in likelihoods]
    metrics = {"filter": kept, "metrics": ["acc", "acc_norm"], "acc": acc, "acc_norm": 0.0}
    return {"doc_id": number, "target": 1, "arguments": asked, "filtered_resps": found, **metrics}


def test_the_likeliest_choice_is_the_answer_by_the_first_metric_and_filter():
    samples = [choice(1, [-3, -9, -1], 0.0), choice(0, [-3, -1, -9], 1.0), choice(0, [0, 0, 0], 0.0, "other")]
    found = read_task("letters", samples)
    assert (found["task"], found["metric"]) == ("letters", "acc")
    assert [(item["number"], item["answer"], item["score"]) for item in found["items"]] == [
        (0, "B", 1.0),
        (1, "C", 0.0),
    ]
    assert {item["expected"] for item in found["items"]} == {"B"}


def test_a_written_answer_is_what_the_filter_left_of_it():
    row = {"doc_id": 3, "target": "7 days", "arguments": [["How long?", {}]], "filtered_resps": [" 7 days "]}
    row |= {"filter": "f", "metrics": ["exact_match"], "exact_match": True}
    (item,) = read_task("t", [row])["items"]
    wanted = {"number": 3, "question": "How long?", "expected": "7 days", "answer": "7 days", "score": 1.0}
    assert item == wanted


def test_a_file_that_the_harness_would_pass_over_is_told(tmp_path):
    pytest.importorskip("lm_eval")
    check_files(SUITE)
    (tmp_path / "a.yaml").write_text("task: a\ninclude: b/b.yaml\nprocess_docs: !function nowhere.go\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.yaml").write_text("test_split: test\n")
    check_files(tmp_path)
    (tmp_path / "b" / "b.yaml").write_text("task: [\n")
    with pytest.raises(InputError, match=r"^a\.yaml: it cannot be read: .*, line 2") as caught:
        check_files(tmp_path)
    assert "\n" not in str(caught.value)


LINE = '{"question": "a?", "answer": "x", "choices": ["x", "y"], "label": 1}\n'
TASK = {
    "task": "t",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "d.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "label",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def suite_of(tmp_path, monkeypatch):
    """Writes a folder of one task, or a task and a group, as the worker finds it."""
    pytest.importorskip("lm_eval")
    import datasets
    from lm_eval import utils

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(utils.env, "finalize", None)

    def write(lines: str | None, **changed: object) -> Path:
        folder = tmp_path / "suite"
        folder.mkdir()
        (folder / "t.yaml").write_text(yaml.safe_dump(TASK | changed))
        if lines is not None:
            (folder / "d.jsonl").write_text(lines)
        monkeypatch.chdir(folder)
        return folder

    return write


@pytest.mark.parametrize(
    "changed", [{}, CHOICE, CHOICE | {"doc_to_target": "y", "doc_to_choice": ["x", "y"]}]
)
def test_tasks_that_can_be_asked_are_named(changed, suite_of):
    folder = suite_of(LINE * 2, **changed)
    (folder / "g.yaml").write_text("group: all\ntask: [t]\n")
    assert check_tasks(folder) == ["t"]
    (folder / "g.yaml").write_text("group: all\ntask: [t, {task: nowhere}]\n")
    with pytest.raises(
        InputError, match=r"^g\.yaml: there is no task 'nowhere', which the group 'all' names"
    ):
        check_tasks(folder)


@pytest.mark.parametrize(
    ("lines", "changed", "told"),
    [
        ("", {}, "its data file d.jsonl is empty — one JSON object a line"),
        (None, {}, "there is no data file d.jsonl — "),
        (LINE + "hello\n", {}, "d.jsonl:2 is no JSON object: hello"),
        ("5\n6\n", {}, "d.jsonl:1 is no JSON object: 5"),
        (
            LINE,
            {"test_split": "dev"},
            "its `test_split` 'dev' is none of its data — its `data_files` make: test",
        ),
        (LINE, {"doc_to_text": "{{asked}}"}, "it cannot be loaded: UndefinedError: 'asked' is undefined"),
        (
            LINE,
            {"doc_to_target": "anser"},
            "`doc_to_target` names the field 'anser', which its items have not",
        ),
        (LINE + '{"question": "b?"}', {}, ", item 1: `doc_to_target` gives nothing for it"),
        (LINE + '{"answer": "x"}', {}, ", item 1: it cannot be asked: .* a field that its template prints"),
        (LINE + LINE.replace("1}", "2}"), CHOICE, ", item 1: the right answer 2 is none of its 2 choices"),
        (LINE, {"doc_to_txt": "x"}, "it cannot be loaded: .*doc_to_txt.* — mend its file"),
    ],
)
def test_a_task_that_cannot_be_asked_is_one_line_with_its_file(lines, changed, told, suite_of):
    with pytest.raises(InputError, match=rf"^t\.yaml: task 't'(: |, ){told.removeprefix(', ')}") as caught:
        check_tasks(suite_of(lines, **changed))
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_task_is_told_before_anything_is_opened(recipe, tmp_path, capsys, suite_of):  # noqa: F811
    asked = ["evaluate", str(recipe), "-w", str(tmp_path / "w"), "--suite", str(suite_of(""))]
    assert main(asked) == 2
    told = capsys.readouterr().err
    assert (
        told.startswith("error: t.yaml: task 't': its data file d.jsonl is empty") and told.count("\n") == 1
    )
    assert not (tmp_path / "w").exists()


def test_a_task_without_items_or_scores_is_told_by_name():
    with pytest.raises(InputError, match="task 'letters': it has no items"):
        read_task("letters", [])
    with pytest.raises(InputError, match="task 'letters': no metric goes with its `output_type`"):
        read_task("letters", [choice(0, [0, 0, 0], 1.0) | {"metrics": []}])
    perplexity = {"metrics": ["word_perplexity"], "word_perplexity": (-3.0, 2)}
    with pytest.raises(InputError, match="letters': its metric 'word_perplexity' gives no score of an item"):
        read_task("letters", [choice(0, [0, 0, 0], 1.0) | perplexity])


def test_what_the_harness_warns_of_is_counted():
    warnings, logger = Warnings(), logging.getLogger("test_suite.harness")
    logger.addHandler(warnings)
    for length in (700, 800):
        logger.warning("Prompt of %d tokens is cut\nby much", length)
    logger.warning("once")
    assert warnings.told() == ["Prompt of N tokens is cut (2 times)", "once"]


def test_a_task_becomes_an_evaluation_with_its_interval():
    task = read_task("letters", [choice(n, [-3, -1, -9], float(n < 3)) for n in range(4)])
    found = suite.read_evaluation("model_m", task)
    assert (found.split, found.metric, found.mean) == ("suite", "letters/acc", 0.75)
    assert (found.low, found.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    assert [item.key for item in found.items] == ["letters-0", "letters-1", "letters-2", "letters-3"]
    with pytest.raises(FactoryError, match=r"task letters: the scores of 'letters/acc' do not lie"):
        suite.read_evaluation("m", read_task("letters", [choice(0, [0, 0, 0], 12.5)]))


def test_without_the_harness_it_is_told_how_to_get_it(recipe, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "lm_eval" else name)
    asked = ["evaluate", str(recipe), "-w", str(tmp_path / "w"), "--suite", str(SUITE)]
    assert main(asked) == 2
    told = capsys.readouterr().err
    assert "not installed (lm_eval)" in told and "pip install 'dataset-factory[suite]'" in told
    assert not (tmp_path / "w").exists()


def test_a_folder_without_tasks_and_a_split_are_refused(recipe, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    asked = ["evaluate", str(recipe), "-w", str(tmp_path / "w"), "--suite"]
    assert main([*asked, str(tmp_path / "none")]) == 2
    assert "there is no task in" in capsys.readouterr().err
    assert main([*asked, str(SUITE), "--split", "dev"]) == 2
    assert "a suite has no splits" in capsys.readouterr().err


async def test_a_student_that_only_we_can_ask_has_no_suite(recipe, tmp_path):  # noqa: F811
    async with open_bench(open_domain(recipe, "scripted"), tmp_path / "w", Progress(bars=False)) as bench:
        with pytest.raises(RecipeError, match="nobody else can ask the student"):
            await suite.evaluate_suite(bench, ["base"], SUITE)
        assert suite.find_tokenizer(bench) == "tiny-base"


def written(answers: list[int]):
    """An endpoint that answers completions with these statuses, the last one for ever."""

    def answer(body):
        status = answers.pop(0) if len(answers) > 1 else answers[0]
        used = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
        return Status(status, {"choices": [{"index": 0, "text": "x"}], "usage": used})

    return FakeEndpoint(answer)


def at(endpoint: FakeEndpoint, recipe: Path, **budget: float):  # noqa: F811
    """The domain with its student at an endpoint."""
    here = {"kind": "endpoint", "base_url": endpoint.base_url, "can_load_adapters": True}
    price = {"prompt": 1.0, "completion": 2.0}
    profile = {
        "servers": {"here": here},
        "models": {"student": {"server": "here", "model": "fake", "price": price}},
        "training": {"student": {"base": str(RECIPE.parents[1] / "tiny" / "models" / "base")}},
        "budget": budget,
    }
    (recipe / "profiles" / "there.yaml").write_text(yaml.safe_dump(profile))
    return open_domain(recipe, "there")


async def test_what_the_harness_sends_is_counted_and_a_spent_budget_refuses_it(recipe, tmp_path, suite_of):  # noqa: F811
    folder = suite_of(LINE + LINE.replace("a?", "b?"))
    async with written([500, 200]) as endpoint:
        domain = at(endpoint, recipe, calls=3)
        async with open_bench(domain, tmp_path / "w", Progress(bars=False)) as bench:
            bench.record_run()
            found = await suite.evaluate_suite(bench, ["base"], folder)
            (row,) = bench.store.select("SELECT * FROM calls")
            budget = Budget.from_store(bench.store, bench.run_id, bench.recipe.budget)
            (spend,) = read_spend(bench.store, {bench.run_id: ""})
        assert [task["mean"] for task in found["models"][0]["tasks"]] == [1.0]
        assert (row["stage"], row["status"], row["attempts"]) == ("suite", "ok", 3)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (14, 2)
        assert row["cost_dollars"] == pytest.approx(18e-6)
        assert budget.spent == Spend(3, 16, row["cost_dollars"])
        assert budget.minutes == pytest.approx(row["latency_ms"] / 60_000, rel=0.1) and spend.num_unused == 0
        async with open_bench(domain, tmp_path / "w", Progress(bars=False)) as bench:
            with pytest.raises(BudgetExceeded, match=r"budget\.calls: .* \(3 used\)"):
                await suite.evaluate_suite(bench, ["base"], folder)
        assert len(endpoint.requests) == 3


async def test_a_suite_ends_at_a_limit_that_it_comes_to(recipe, tmp_path, monkeypatch):  # noqa: F811
    work = """import json, sys
from factory.suite_worker import Meter
job = json.load(sys.stdin)
meter = Meter(Path(job["sent"]), job["left"], job["price"])
for _ in range(3):
    meter.request("fake")
    meter.reply("fake", {"usage": {"prompt_tokens": 7, "completion_tokens": 1}})
"""
    words = [sys.executable, "-c", f"from pathlib import Path\n{work}"]
    monkeypatch.setattr(suite, "_worker", lambda _: (words, dict(os.environ)))
    for name, limit, used in (("calls", 2, 2), ("tokens", 9, 16), ("dollars", 10e-6, 1.8e-5)):
        async with (
            written([200]) as endpoint,
            open_bench(at(endpoint, recipe, **{name: limit}), tmp_path / name, Progress(bars=False)) as bench,
        ):
            bench.record_run()
            with pytest.raises(BudgetExceeded, match=rf"budget\.{name}: .* \({used:.4g} used\)"):
                await suite.evaluate_suite(bench, ["base"], SUITE)
            (row,) = bench.store.select("SELECT status, attempts, prompt_tokens FROM calls")
        assert tuple(row.values()) == ("failed", 2, 14)


async def test_a_suite_ends_with_the_run_s_minutes(recipe, tmp_path, suite_of):  # noqa: F811
    folder = suite_of(LINE)
    async with (
        written([200]) as endpoint,
        open_bench(at(endpoint, recipe, minutes=0.01), tmp_path / "w", Progress(bars=False)) as bench,
    ):
        bench.record_run()
        with pytest.raises(BudgetExceeded, match=r"budget\.minutes"):
            await suite.evaluate_suite(bench, ["base"], folder)
        (row,) = bench.store.select("SELECT status, error, attempts FROM calls")
    assert (row["status"], row["error"], row["attempts"]) == ("failed", "harness", 0)


async def test_a_harness_that_fails_is_told_by_its_last_words(tmp_path):
    program = "import sys; sys.stdin.read(); print('much before'); sys.exit('ValueError: no such column')"
    log = tmp_path / "suite.log"
    with pytest.raises(FactoryError, match=r"the harness failed: ValueError: no such column.*suite\.log"):
        await suite._run([sys.executable, "-c", program], b"{}", dict(os.environ), log)
    assert "much before" in log.read_text()


def test_the_suite_of_the_recipe_has_one_right_choice_each():
    import json

    rows = [json.loads(line) for line in (SUITE / "words.jsonl").read_text().splitlines()]
    assert all(row["choices"][row["label"]] == row["text"] for row in rows)
    assert all(len(set(row["choices"])) == 4 for row in rows)
    assert len({row["text"] for row in rows}) == len(rows) == 40
    assert load(RECIPE, "tiny").recipe.models["student"]
