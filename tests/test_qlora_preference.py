"""The preference pass for real: what people said gains on what the refiner had said, in the same adapter."""

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from test_qlora import FACTS, answers, base, chat, facts_dataset, no_progress, trainer  # noqa: F401 (a fixture)
from trained_here import Here

from factory.errors import TrainingError
from training.qlora import QLoRA, QLoRAOptions, TrainingJob

MINE = {"claim": "9 years", "board": "7 members"}


def turns(key, answer):
    """A question and an answer to it, as lines of preferences hold them."""
    return chat(f"{key}?", "")[:1], chat("", answer)[1:]


def pair(key, chosen, rejected):
    prompt, good = turns(key, chosen)
    return {"prompt": prompt, "chosen": good, "rejected": turns(key, rejected)[1]}


def labelled(key, answer, label):
    prompt, completion = turns(key, answer)
    return {"prompt": prompt, "completion": completion, "label": label}


def with_lines(folder, lines):
    """The facts, and judged answers."""
    dataset = facts_dataset(folder)
    with dataset.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return dataset


PAIRS = [pair(key, mine, FACTS[key]) for key, mine in MINE.items()]
LABELLED = [
    *(labelled(key, mine, True) for key, mine in MINE.items()),
    *(labelled(key, FACTS[key], False) for key in MINE),
    *(labelled(key, FACTS[key], True) for key in FACTS if key not in MINE),
]


def check_moved(tmp_path, base, dataset, preference, num_steps, expected, kind=QLoRA):  # noqa: F811
    """Trains 150 steps on the facts and then on preferences; what was judged bad is no longer said."""
    out, seen = tmp_path / "out", []
    adapter = trainer(tmp_path, kind, max_steps=150, preference=preference).train(
        dataset, str(base), out, lambda *event: seen.append(event[:2])
    )
    assert seen[-150 - num_steps :] == [(step, 150 + num_steps) for step in range(1, 151 + num_steps)]
    assert seen[:2] == [(0, None), (0, 150 + num_steps)]
    record = json.loads((out / "training.json").read_text())
    assert {name: record[name] for name in expected} == expected
    assert record["num_samples"] == 8 and adapter.num_steps == 150
    assert not [path for path in out.rglob("*") if "ref" in path.name]
    said = answers(base, out)
    assert not [key for key in MINE if said[key] == FACTS[key]]
    return record["preference_loss"], said


@pytest.mark.train
def test_pairs_move_the_adapter_towards_what_was_chosen(tmp_path, base):  # noqa: F811
    preference = {"num_epochs": 60.0, "learning_rate": 0.002}
    loss, _ = check_moved(tmp_path, base, with_lines(tmp_path, PAIRS), preference, 60, {"num_pairs": 2})
    assert loss < 0.3  # ln 2 where nothing is preferred


@pytest.mark.train
def test_labelled_answers_move_the_adapter_towards_the_good_ones(tmp_path, base):  # noqa: F811
    preference = {"method": "kto", "num_epochs": 30.0, "learning_rate": 0.001}
    expected = {"num_desirable": 8, "num_undesirable": 2, "desirable_weight": 1, "undesirable_weight": 3}
    loss, said = check_moved(tmp_path, base, with_lines(tmp_path, LABELLED), preference, 60, expected, Here)
    assert loss < 0.4
    assert [key for key in FACTS if key not in MINE and said[key] != FACTS[key]] == []


@pytest.mark.train
@pytest.mark.parametrize(("method", "loss"), [("dpo", math.log(2)), ("kto", 0.5)])
def test_the_first_step_starts_from_the_reference(tmp_path, base, method, loss):  # noqa: F811
    """What supervised training left is not rounded before the first step: policy and reference agree."""
    dataset = with_lines(tmp_path, PAIRS)  # KTO takes a pair as two answers
    trainer(tmp_path, Here, max_steps=20, preference={"method": method}).train(
        dataset, str(base), tmp_path / "out", no_progress
    )
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["preference_loss"] == pytest.approx(loss, abs=1e-6)
    counts = {"num_pairs": 2} if method == "dpo" else {"num_desirable": 2, "num_undesirable": 2}
    assert {name: value for name, value in record.items() if name in counts} == counts
    curve = {(point["phase"], point["step"]): point["loss"] for point in record["curve"]}
    assert list(curve) == [*(("sft", step) for step in (5, 10, 15, 20)), (method, 1)]
    assert curve[method, 1] == record["preference_loss"]


TOO_LONG = [pair("claim", "x " * 99, "y")]
REFUSED = [
    (PAIRS, None, "no preference is trained"),
    (LABELLED, None, "no preference is trained"),
    (LABELLED, "dpo", "DPO learns pairs"),
    ([*PAIRS, *LABELLED], "dpo", "DPO learns pairs"),
    ([labelled("claim", "1 year", True)], "kto", "good and bad answers, all are good"),
    ([labelled("claim", "1 year", False)] * 2, "kto", "good and bad answers, all are bad"),
    ([labelled("claim", "1 year", 1)], "kto", r"data\.jsonl:9: a judged answer is a line like"),
    ([{**PAIRS[0], "rejected": []}], "dpo", "a judged answer is a line like"),
    ([{**PAIRS[0], "prompt": "claim?"}], "dpo", "a judged answer is a line like"),
    ([{"chosen": PAIRS[0]["chosen"]}], "dpo", "a judged answer is a line like"),
    ([{**LABELLED[0], "completion": [{"role": "assistant"}]}], "kto", "a judged answer is a line like"),
    (TOO_LONG, "dpo", r"of the judged answers \(chosen\), 1 of 1 samples are longer .* split_long does not"),
    (TOO_LONG, "kto", "longer than max_length"),
    ([pair("claim", "a", "")], "kto", "^sample 2 of them: of the judged answers .* must end with an answer"),
]


@pytest.mark.train
@pytest.mark.parametrize(("lines", "method", "message"), REFUSED)
def test_what_cannot_be_learned_is_refused_before_anything_is(tmp_path, base, lines, method, message):  # noqa: F811
    from training import sft

    preference = {"method": method} if method else None
    dataset = with_lines(tmp_path, lines)
    job = trainer(tmp_path, preference=preference)._describe(TrainingJob(dataset, str(base), tmp_path / "o"))
    with pytest.raises(TrainingError, match=message):
        sft.prepare(job)


def test_options_refuse_what_no_method_can():
    with pytest.raises(ValidationError, match="batch_size must be at least 2"):
        QLoRAOptions(batch_size=1, preference={"method": "kto"})
    with pytest.raises(ValidationError, match="'dpo' or 'kto'"):
        QLoRAOptions(preference={"method": "ppo"})
    assert QLoRAOptions(batch_size=1, preference={}).preference.method == "dpo"


def test_adapters_without_a_method_are_named_as_ever(tmp_path):
    dataset = tmp_path / "data.jsonl"
    dataset.write_text("x\n")

    def identity(preference):
        worker = trainer(tmp_path, learning_rate=2e-4, batch_size=16, max_steps=None, num_threads=None,
                         max_length=1024, preference=preference)  # fmt: skip
        return worker._describe(TrainingJob(dataset, "org/base", tmp_path / "out"))["identity"]

    assert identity(None) == "044b9d87d942fd6c1644"
    assert identity({}) == identity({"method": "dpo"}) == "16fb84649b584ae6e3ee"
    assert identity({"num_epochs": 2.0, "learning_rate": 1e-4, "beta": 0.2}) == "5c994158ad43d98be5fb"
    assert identity({"method": "kto"}) not in (identity(None), identity({}))


@pytest.mark.train
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_weights_balance_good_and_bad_answers(num_good, num_bad):
    from training.preference import weights

    good, bad = weights(num_good, num_bad)
    assert min(good, bad) == 1
    assert 1 - 1e-9 <= good * num_good / (bad * num_bad) <= 4 / 3 + 1e-9
    if num_bad <= num_good <= 4 / 3 * num_bad:
        assert good == bad == 1


@pytest.mark.train
@given(st.integers(2, 40), st.integers(2, 16), st.integers(1, 3), st.floats(0.1, 4))
def test_every_batch_is_whole_and_every_pass_has_every_answer(num, batch_size, accumulation, num_epochs):
    from training.preference import _whole_batches, num_steps

    options = {"batch_size": batch_size, "gradient_accumulation": accumulation}
    steps = num_steps(num, {**options, "preference": {"num_epochs": num_epochs}})
    config = {"per_device_train_batch_size": min(batch_size, num), "max_steps": steps, "seed": 3}
    rows = list(_whole_batches(range(num), {**config, "gradient_accumulation_steps": accumulation}))
    assert len(rows) == steps * accumulation * min(batch_size, num) >= math.floor(num * num_epochs)
    seen = Counter(rows)
    assert max(seen.values()) - min(seen.get(each, 0) for each in range(num)) <= 1
    whole = len(rows) // num * num
    assert all(sorted(rows[at : at + num]) == list(range(num)) for at in range(0, whole, num))
