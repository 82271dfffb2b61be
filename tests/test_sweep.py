"""A sweep over learning rates: what is held out, which rate is best, rates that diverge, and the command."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import ClassVar

import pytest
from test_qlora import base, chat, no_progress, trainer, write_dataset  # noqa: F401 (a fixture)
from test_train_command import chats, folder, refused, some, words  # noqa: F401 (a fixture)
from trained_here import Here

from factory import cli
from factory.errors import RecipeError, TrainingError
from factory.sweep import Sweep, SweptRate, as_data
from training.qlora import QLoRA
from training.sweep import split


def swept(*losses, before=3.0):
    rates = [SweptRate(10.0**-number, before, loss, 8, 1.0) for number, loss in enumerate(losses, 1)]
    return Sweep(tuple(rates), 90, 10)


def test_the_lowest_loss_on_held_out_samples_is_best_of_those_that_did_not_diverge():
    assert swept(2.0, 1.0, 1.5).best.learning_rate == 0.01
    assert swept(2.0, 1.0, 1.5).advice == "0.01 is best"
    assert "higher may be better" in swept(1.0, 2.0).advice
    assert "lower may be better" in swept(2.0, 1.0).advice
    found = as_data(swept(None, 9.0, 2.5))
    assert [each["diverged"] for each in found["rates"]] == [True, True, False]
    assert found["best"] == 0.001 and "lower may be better" in found["advice"]
    nothing = as_data(swept(None, 4.0))
    assert nothing["best"] is None and nothing["advice"] == "every rate diverged: try lower ones"
    assert json.dumps(nothing)


def test_a_tenth_is_held_out_the_same_for_a_seed_and_none_of_it_is_learned(tmp_path):
    path = some(tmp_path / "data.jsonl", 50)
    lines = path.read_text().splitlines(keepends=True)
    judged = '{"prompt": [], "chosen": [], "rejected": []}\n'
    path.write_text(judged + "".join(lines).rstrip("\n"))
    learned, held_out = split(path, 1)
    assert sorted(learned + held_out) == list(range(2, 52)) and len(held_out) == 5
    assert split(path, 1) == (learned, held_out) and split(path, 2) != (learned, held_out)
    assert [len(part) for part in split(some(path, 2), 1)] == [1, 1]
    with pytest.raises(TrainingError, match="more than 1 samples"):
        split(some(path, 1), 1)
    path.write_text("no JSON\n")
    with pytest.raises(TrainingError, match=r"data\.jsonl:1: not a line of JSON"):
        split(path, 1)
    path.write_text("".join(lines) + '{"message": []}\n')
    with pytest.raises(TrainingError, match=r"data\.jsonl:51: neither a chat nor a judged answer"):
        split(path, 1)


def test_a_sample_may_hold_what_ends_a_line_elsewhere(tmp_path):
    turns = [{"role": role, "content": "notice\u2028claim\x85"} for role in ("user", "assistant")]
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"messages": turns}, ensure_ascii=False) + "\n" + some(path, 9).read_text())
    learned, held_out = split(path, 1)
    assert sorted(learned + held_out) == list(range(1, 11))


class InThisProcess(QLoRA):
    """Reads and checks the samples as the worker does, and trains nothing."""

    prepared: ClassVar[list] = []

    def train_all(self, jobs, on_progress):
        from training import sft

        self.prepared.append(sft.prepare(self._describe(jobs[0])))
        curve = [{"step": step, "dev_loss": 1.0} for step in (0, 1)]
        return [SimpleNamespace(curve=curve)]


def sweep_here(tmp_path, base, dataset, **options):  # noqa: F811
    """What each rate's training gets to learn and to look at."""
    plain = trainer(tmp_path, **options)
    InThisProcess.prepared.clear()
    InThisProcess(plain.options, plain.domain).sweep(dataset, str(base), [1e-4, 1e-3], 1, no_progress)
    return InThisProcess.prepared


@pytest.mark.train
def test_each_rate_learns_the_same_lines_and_looks_at_the_others(tmp_path, base):  # noqa: F811
    dataset = some(tmp_path / "data.jsonl", 30)
    lines = dataset.read_text().splitlines()
    dataset.write_text("\n".join([*lines, '{"prompt": [], "chosen": [], "rejected": []}']))
    first, second = sweep_here(tmp_path, base, dataset)
    assert first.rows == second.rows and first.dev == second.dev
    assert (len(first.rows), len(first.dev), first.judged) == (27, 3, [])
    tokens = [tuple(row.input_ids) for row in (*first.rows, *first.dev)]
    assert len(set(tokens)) == 30


@pytest.mark.train
@pytest.mark.parametrize("is_held_out", [False, True])
@pytest.mark.parametrize(
    ("turns", "what"),
    [
        (chat("long? " * 80, "no"), "1 of 12 samples are longer than max_length=64 tokens"),
        (chat("notice?", ""), "a chat must end with an answer"),
        (["no turn"], "not a line like"),
        ([{"role": "assistant"}], "not a line like"),
    ],
)
def test_what_is_refused_is_named_by_the_users_own_line(tmp_path, base, turns, what, is_held_out):  # noqa: F811
    dataset = some(tmp_path / "data.jsonl", 12)
    number = split(dataset, 1)[is_held_out][0]
    lines = dataset.read_text().splitlines()
    lines[number - 1] = json.dumps({"messages": turns})
    dataset.write_text("\n".join(lines))
    with pytest.raises(TrainingError) as caught:
        sweep_here(tmp_path, base, dataset)
    assert caught.value.where == f"{dataset}:{number}" and what in caught.value.what
    assert "dev" not in caught.value.what


def test_a_base_that_is_shared_is_not_swept(tmp_path):
    shared = trainer(tmp_path, processes=2, parallel="fsdp")
    with pytest.raises(RecipeError, match="needs the whole base on each GPU"):
        shared.sweep(some(tmp_path / "data.jsonl"), "base", [1e-4, 1e-3], 4, no_progress)


@pytest.mark.train
def test_long_conversations_are_split_on_both_sides_where_the_recipe_says_so(tmp_path, base):  # noqa: F811
    turns = [turn for number in range(8) for turn in chat(f"notice {number}?", f"{number} days of notice")]
    dataset = write_dataset(tmp_path, [turns] * 4)
    found = trainer(tmp_path, Here, split_long=True).sweep(dataset, str(base), [1e-4, 1e-3], 1, no_progress)
    assert found.num_held_out == 1 and all(each.loss for each in found.rates)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--sweep", "1e-4"], "two or more different rates"),
        (["--sweep", "1e-4,1e-4"], "two or more different rates"),
        (["--sweep", "1e-4,0"], "rates above 0"),
        (["--sweep", "1e-4,inf"], "rates above 0"),
        (["--sweep", "low,high"], "rates above 0"),
        (["--sweep", "1e-4,1e-3", "--plan"], "with neither --plan nor --gpu"),
        (["--steps", "3"], "--steps goes with --sweep"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(folder, tmp_path, more, said, capsys):  # noqa: F811
    dataset = ["--dataset", str(some(tmp_path / "data.jsonl"))]
    assert said in refused(words(folder, *more, *dataset), 2, capsys)


def test_where_no_table_can_be_written_nothing_is_trained(folder, tmp_path, capsys):  # noqa: F811
    dataset = some(tmp_path / "data.jsonl")
    line = refused(
        words(folder, "--sweep", "1e-4,1e-3", "--dataset", dataset, "--output", dataset), 2, capsys
    )
    assert line.endswith("data.jsonl: the folder cannot be made: File exists")


def test_a_sweep_needs_a_dataset(folder, capsys):  # noqa: F811
    assert "--sweep needs --dataset" in refused(words(folder, "--sweep", "1e-4,1e-3"), 2, capsys)


@pytest.mark.train
def test_a_rate_that_diverges_is_a_row_and_only_the_table_is_left(folder, tmp_path, capsys):  # noqa: F811
    dataset, output = some(tmp_path / "data.jsonl", 12), tmp_path / "out"
    command = words(folder, "--sweep", "1e-3,1e30", "--steps", 10, "--dataset", dataset, "--output", output)
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"] == 1e-3 and (found["samples"], found["held_out"], found["steps"]) == (11, 1, 10)
    good, bad = found["rates"]
    assert not good["diverged"] and math.isfinite(good["loss"]) and good["loss"] < good["loss_before"]
    assert bad["diverged"] and bad["loss_before"] == good["loss_before"]
    assert json.loads((output / "sweep.json").read_text()) == found
    assert [path.name for path in output.iterdir()] == ["sweep.json"]
    assert not (tmp_path / "workspace").exists() and not list(folder.rglob("*.safetensors"))


def test_a_table_says_what_was_found(capsys):
    from factory.commands.train import _print_sweep

    _print_sweep({"steps": 8, **as_data(swept(None, 2.0))})
    printed = capsys.readouterr().out
    assert "no number" in printed and "2.0000" in printed
    assert "8 steps on 90 samples, 10 held out, whose loss was 3.0000 before" in printed
    assert "0.01 is best, at the edge of what was tried" in printed
