"""`factory diff`: what differs between two runs, against counts made by hand, also while one is writing."""

from __future__ import annotations

import json

import pytest
from told_history import tell

from factory import cli
from factory.diff import compare
from factory.errors import InputError
from factory.store.queries import Reader
from factory.store.store import Store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("told")
    with Store.open(folder) as store:
        tell(store)
        store.append("runs", [{"id": "run_ab", "recipe": "r", "digest": "d", "config": {}, "version": "1"}])
    return folder


@pytest.fixture(scope="module")
def found(folder):
    with Reader(folder) as reader:
        return compare(reader, "run_a", "run_b")


def test_settings_that_differ_are_found_by_name_whatever_their_order(found):
    assert [(each.key, each.before, each.after) for each in found.settings] == [
        ("seeds", "a", "b"),
        ("refiners.near.at", 0.5, 0.7),
    ]


def test_counts_are_those_of_the_runs(found):
    figures = {(each.kind, each.name): (each.before, each.after, each.change) for each in found.figures}
    assert figures["samples", "accepted"] == (3, 2, -1)
    assert figures["dropped by", "near: near_duplicate"] == (1, None, -1)
    assert figures["tokens", "generate, teacher"] == (50, None, -50)
    assert not [kind for kind, _ in figures if kind == "accuracy"]


def test_samples_are_compared_by_content(found):
    assert (found.samples.num_both, found.samples.num_before, found.samples.num_after) == (1, 2, 1)
    assert found.samples.only_before == ("smp_4", "smp_5")
    assert found.samples.only_after == ("smp_2",)


def test_accuracy_is_paired_by_item_overall_and_by_slice(found):
    rows = {each.slice: each for each in found.accuracy}
    assert list(rows) == [None, "benefits", "notice"]
    assert (rows[None].before, rows[None].after) == (pytest.approx(2 / 3), 0.0)
    paired = rows[None].paired
    assert (paired.num_items, paired.num_better, paired.num_worse, paired.p_value) == (3, 0, 2, 0.5)
    assert rows["benefits"].paired.num_worse == 1 and rows["benefits"].paired.p_value == 1.0


def test_models_are_told_with_their_side(found):
    assert [(each.of, each.id, each.round, each.num_samples) for each in found.models] == [
        ("before", "mdl_1", 1, 2),
        ("before", "mdl_2", 2, 2),
    ]


def test_a_run_against_itself_differs_in_nothing(folder):
    with Reader(folder) as reader:
        same = compare(reader, "run_a", "run_a")
    assert not same.settings and (same.samples.num_before, same.samples.num_after) == (0, 0)
    assert {each.change for each in same.figures} == {0}
    assert {each.paired.num_better + each.paired.num_worse for each in same.accuracy} == {0}


@pytest.mark.parametrize(("start", "message"), [("run_", "several"), ("run_x", "no run"), ("", "several")])
def test_a_prefix_must_name_one_run(folder, start, message):
    with Reader(folder) as reader, pytest.raises(InputError, match=message):
        compare(reader, start, "run_b")


def test_an_id_that_others_begin_with_names_itself(folder):
    with Reader(folder) as reader:
        assert compare(reader, "run_a", "run_ab").after == "run_ab"


def test_the_beginning_of_a_run_and_its_controls_is_the_run(tmp_path):
    with Store.open(tmp_path) as store:
        run = {"recipe": "r", "digest": "d", "config": {}, "version": "1"}
        store.append("runs", [{**run, "id": "run_1f"}, {**run, "id": "run_1f_raw", "control": "raw"}])
    with Reader(tmp_path) as reader:
        found = compare(reader, "run_1", "run_1f_r")
    assert (found.before, found.after) == ("run_1f", "run_1f_raw")


def test_the_command_prints_tables_and_json_while_a_run_is_writing(folder, capsys):
    with Store.open(folder):
        assert cli.main(["diff", "run_a", "run_b", "-w", str(folder)]) == 0
        text = capsys.readouterr().out
        assert cli.main(["diff", "run_a", "run_b", "-w", str(folder), "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
    assert "refiners.near.at" in text and "near: near_duplicate" in text and "-66.7 points" in text
    assert data["samples"]["only_after"] == ["smp_2"]
    assert data["accuracy"][0]["paired"]["num_worse"] == 2
