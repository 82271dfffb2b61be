"""What the gate found stays: a run that is resumed is decided by what it stored, later rounds anew."""

import json
from dataclasses import replace

import pytest

from factory import loop
from factory.comparison import Comparison
from factory.evaluations import compare, evaluation_id, load_evaluation, record_evaluation
from factory.findings import collect
from factory.gate_grids import grid_gates
from factory.init import write_template
from factory.progress import Progress
from factory.promotion import promoted_round
from factory.session import open_bench, open_domain
from factory.types import Evaluation, ItemResult
from training.evaluate import AnswersOptions

# As the percentile bootstrap left it: promoted by three items of forty.
EARLIER = {"gain": 0.075, "gain_low": 0.025, "p_value": 0.25, "num_better": 3, "num_worse": 0}
EARLIER |= {"worst_slice": "fees", "worst_slice_gain": 0.075, "promote": True, "reason": "gain"}


@pytest.fixture
async def bench(tmp_path):
    write_template(tmp_path / "domain")
    async with open_bench(
        open_domain(tmp_path / "domain", None), tmp_path / "w", Progress(bars=False)
    ) as bench:
        yield bench


def evaluation(model, num_right):
    items = tuple(
        ItemResult(f"i{n:02}", "fees", f"c{n}", "q", "a", "b", float(n < num_right), "call")
        for n in range(40)
    )
    return Evaluation(model, "dev", "facts", num_right / 40, 0.0, 1.0, items)


def evaluated(bench, rights):
    """Evaluations of the base and of so many rounds, each compared with the base."""
    base = evaluation("mdl_base", rights[0])
    record_evaluation(bench, 0, base, None, None)
    for number, right in enumerate(rights[1:], 1):
        found = evaluation(f"mdl_{number}", right)
        record_evaluation(bench, number, found, base, bench.evaluator.compare(base, found))


def promotion(bench, number):
    loop.promote(bench, number)
    return bench.done(number, "promote")


async def test_a_comparison_of_an_earlier_version_decides_its_round(bench):
    base = evaluation("mdl_base", 10)
    record_evaluation(bench, 0, base, None, None)
    record_evaluation(bench, 1, evaluation("mdl_1", 13), base, Comparison(**EARLIER))
    key = evaluation_id(bench.run_id, 1, "dev")
    bench.store.execute_insert(  # the JSON as that version wrote it
        "UPDATE evaluations SET comparison = ? WHERE id = ?", (json.dumps(EARLIER), key)
    )
    assert promotion(bench, 1).items() >= EARLIER.items()
    assert promoted_round(bench.store, bench.run_id) == 1
    assert not bench.evaluator.compare(base, load_evaluation(bench, 1, "dev")).promote  # today's rule


async def test_a_decision_that_is_made_is_not_made_again(bench):
    evaluated(bench, (10, 13))
    with bench.stage(1, "promote") as detail:
        detail.update(EARLIER)
    assert promotion(bench, 1) == EARLIER
    assert promoted_round(bench.store, bench.run_id) == 1


async def test_evaluation_and_promotion_say_the_same(bench):
    evaluated(bench, (10, 30))
    done = promotion(bench, 1)
    (row,) = bench.store.select("SELECT comparison FROM evaluations WHERE comparison IS NOT NULL")
    assert done == json.loads(row["comparison"])
    assert (done["reason"], done["num_items"], done["test"]) == ("gain", 40, "exact_mcnemar")
    assert done["slices"][0]["name"] == "fees"


async def test_where_another_student_took_charge_the_round_is_compared_with_that_one(bench):
    evaluated(bench, (10, 30, 32))
    assert promotion(bench, 1)["promote"]
    done = promotion(bench, 2)  # stored is what it gained over the base
    assert (done["reason"], done["num_better"]) == ("no_gain", 2)


async def test_the_note_says_what_would_be_needed(bench, monkeypatch):
    told = []
    monkeypatch.setattr(type(bench.progress), "note", lambda self, text: told.append(text))
    evaluated(bench, (10, 11))
    promotion(bench, 1)
    assert "not promoted: no_gain, gain +2.5 points on dev over 40 items" in told[0]
    assert "; a gain of 5 points would need " in told[0]


def look_at_dev(bench, model):
    """What a training leaves that stopped early: its looks at dev, the first before it began."""
    looks = [
        {"model_id": model, "phase": "sft", "step": step, "dev_loss": 1.0 / (step + 1)} for step in (0, 20)
    ]
    bench.store.append("training_steps", looks)
    bench.store.flush()


async def test_where_dev_chose_the_student_it_is_said_that_its_gain_there_is_flattered(bench, monkeypatch):
    told = []
    monkeypatch.setattr(type(bench.progress), "note", lambda self, text: told.append(text))
    bench.record_run()
    evaluated(bench, (10, 30, 39))
    look_at_dev(bench, "mdl_1")
    assert promotion(bench, 1)["chosen_on_dev"] is True and not promotion(bench, 2)["chosen_on_dev"]
    assert told[0].endswith("; early stopping chose its step by dev, so the gain is flattered: see test")
    assert "promoted: gain" in told[1] and "flattered" not in told[1]
    report = collect(bench.store, bench.run_id)
    assert [gate.evidence["chosen_on_dev"] for gate in report.gates] == [True, False]
    assert ["see test" in row[-1] for row in grid_gates(report).rows] == [True, False]


async def test_a_comparison_on_test_is_not_flattered_by_dev(bench):
    evaluated(bench, (10, 30))
    look_at_dev(bench, "mdl_1")
    old, new = (load_evaluation(bench, number, "dev") for number in (0, 1))
    assert compare(bench, old, new).chosen_on_dev
    assert not compare(bench, replace(old, split="test"), replace(new, split="test")).chosen_on_dev


def test_an_option_that_is_not_given_is_no_part_of_a_run_s_name(tmp_path):
    """So a run that began before there was such an option goes on."""
    write_template(tmp_path / "domain")
    named = json.dumps(open_domain(tmp_path / "domain", None).recipe.model_dump(mode="json"))
    assert not [name for name in AnswersOptions.model_fields if f'"{name}"' in named]
