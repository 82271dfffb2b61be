"""The preference pass for real: what people said gains on what the refiner had said, in the same adapter."""

import json

import pytest
from test_qlora import FACTS, answers, base, chat, facts_dataset, no_progress, trainer  # noqa: F401 (a fixture)

from factory.errors import TrainingError

MINE = {"claim": "9 years", "board": "7 members"}


def with_pairs(folder):
    """The facts, and pairs that prefer another answer to two of them."""
    dataset = facts_dataset(folder)
    pairs = [
        {
            "prompt": chat(f"{key}?", "")[:1],
            "chosen": chat("", mine)[1:],
            "rejected": chat("", FACTS[key])[1:],
        }
        for key, mine in MINE.items()
    ]
    with dataset.open("a") as lines:
        lines.writelines(json.dumps(pair) + "\n" for pair in pairs)
    return dataset


@pytest.mark.train
def test_pairs_move_the_adapter_towards_what_was_chosen(tmp_path, base):  # noqa: F811
    dataset, out, seen = with_pairs(tmp_path), tmp_path / "out", []
    preference = {"num_epochs": 60.0, "learning_rate": 0.002}
    adapter = trainer(tmp_path, max_steps=150, preference=preference).train(
        dataset, str(base), out, lambda *event: seen.append(event[:2])
    )
    assert seen == [(step, 210) for step in range(211)]
    record = json.loads((out / "training.json").read_text())
    assert record["num_pairs"] == 2 and record["preference_loss"] < 0.3  # ln 2 where nothing is preferred
    assert record["num_samples"] == 8 and adapter.num_steps == 150
    assert not [path for path in out.rglob("*") if "ref" in path.name]
    said = answers(base, out)
    assert not [key for key in MINE if said[key] == FACTS[key]]


@pytest.mark.train
def test_pairs_without_the_option_and_odd_pairs_are_refused(tmp_path, base):  # noqa: F811
    dataset = with_pairs(tmp_path)
    with pytest.raises(TrainingError, match="no preference is trained"):
        trainer(tmp_path).train(dataset, str(base), tmp_path / "out", no_progress)
    long = json.dumps({"prompt": chat("claim?", "")[:1], "chosen": chat("", "x " * 99)[1:]})[:-1]
    dataset.write_text(dataset.read_text() + long + ', "rejected": ' + json.dumps(chat("", "y")[1:]) + "}\n")
    with pytest.raises(TrainingError, match="longer than max_length"):
        trainer(tmp_path, preference={}).train(dataset, str(base), tmp_path / "out", no_progress)
