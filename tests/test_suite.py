"""A suite of the harness as far as it needs no harness: what is refused, and what its results become."""

import importlib.util
import logging
import os
import sys
from pathlib import Path

import pytest
from test_by_hand import recipe  # noqa: F401 (fixture)

from factory import suite
from factory.cli import main
from factory.errors import FactoryError, RecipeError
from factory.load import load
from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.suite_worker import Warnings, check_files, read_task

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
    with pytest.raises(ValueError, match=r"^a\.yaml cannot be read: .*, line 2") as caught:
        check_files(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_task_without_items_or_scores_is_told_by_name():
    with pytest.raises(ValueError, match="the task 'letters' has no items"):
        read_task("letters", [])
    with pytest.raises(ValueError, match="no metric of the task 'letters' goes with its `output_type`"):
        read_task("letters", [choice(0, [0, 0, 0], 1.0) | {"metrics": []}])
    perplexity = {"metrics": ["word_perplexity"], "word_perplexity": (-3.0, 2)}
    with pytest.raises(ValueError, match="'word_perplexity' of the task 'letters' gives no score of an item"):
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
