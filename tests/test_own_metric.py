"""A metric of an installed package: found by name, held to its range, with options from its signature."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from metric_kit import evaluate_base, number_of, write

from factory.cli import main
from factory.errors import FactoryError, RecipeError
from factory.load import load
from factory.models import scripted

MODULE = '''
from __future__ import annotations

import sys

def share(expected: str, answer: str, *, least: int = 0, words: bool = False) -> float:
    """Words of the reference that stand in the answer."""
    wanted = expected.split() if words else [*expected]
    found = sum(each in answer for each in wanted)
    return found / len(wanted) if found >= least else 0.0

def odd(expected, answer, value="nan"):
    return 1 if expected == answer else {"nan": float("nan"), "above": 1.5, "text": "1", "none": None}[value]

def slips(expected, answer):
    return 1 - 1e-12 if expected == answer else -1e-12

def fails(expected, answer):
    return 1.0 if expected == answer else 1 / 0

def leaves(expected, answer):
    return 1.0 if expected == answer else sys.exit(0)

def unfair(expected, answer):
    return 0.5

def blind(answer, *, expected=""):
    return 1.0

def strange(expected: str, answer: str, kind: Nowhere = 1) -> float:
    return 1.0

class Kind:
    pass

def typed(expected, answer, kind: Kind = None):
    return 1.0

def config(expected, answer, model_config=1):
    return 1.0

async def later(expected, answer):
    return 1.0

exact = share
'''
NAMES = ["share", "odd", "slips", "fails", "unfair", "blind", "strange", "exact", "gone"]
NAMES += ["typed", "config", "later", "broken", "ending"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs the module with an entry point for some of its functions."""

    def install(*names: str) -> None:
        folder = tmp_path / "installed"
        info = folder / "own_metrics-1.0.dist-info"
        info.mkdir(parents=True)
        (folder / "own_metrics.py").write_text(MODULE)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-metrics\nVersion: 1.0\n")
        (folder / "broken_metrics.py").write_text("1 / 0")
        (folder / "ending_metrics.py").write_text("import sys; sys.exit()")
        module = {"broken": "broken_metrics", "ending": "ending_metrics"}
        points = "\n".join(f"{name} = {module.get(name, 'own_metrics')}:{name}" for name in names)
        (info / "entry_points.txt").write_text(f"[factory.metrics]\n{points}\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "own_metrics", raising=False)

    return install


@pytest.fixture
def answers(monkeypatch):
    def use(*texts: str) -> None:
        monkeypatch.setitem(scripted.SCRIPTS, "mine", lambda request: texts[number_of(request)])

    return use


def domain(tmp_path, metric: str, **options: object) -> Path:
    return write(tmp_path / "domain", ["ab cd", "xy"], {"metric": metric, "metric_options": options})


@pytest.mark.parametrize(
    ("options", "scores"),
    [({}, [2 / 5, 1]), ({"words": True}, [1 / 2, 1]), ({"words": True, "least": 2}, [0, 0])],
)
def test_it_scores_answers_with_its_options(options, scores, tmp_path, package, answers):
    package(*NAMES[:1])
    answers("ab" if options else "ac", "xy")
    if options.get("least"):
        with pytest.raises(RecipeError, match=r"dev\.jsonl:2 answer: .*'share' scores it 0 against itself"):
            evaluate_base(domain(tmp_path, "share", **options), tmp_path / "w")
        return
    items = evaluate_base(domain(tmp_path, "share", **options), tmp_path / "w")
    assert [item["score"] for item in items] == pytest.approx(scores)
    assert items[0]["metric"].partition("#")[0] == "share" and ("#" in items[0]["metric"]) == bool(options)


@pytest.mark.parametrize(
    ("metric", "options", "told"),
    [
        ("odd", {}, r"item 'dev-0': the metric 'odd' gave nan, which is no number from 0 to 1"),
        ("odd", {"value": "above"}, "gave 1.5, which"),
        ("odd", {"value": "text"}, "gave '1', which"),
        ("odd", {"value": "none"}, "gave None, which"),
        ("fails", {}, r"item 'dev-0': the metric 'fails' failed: ZeroDivisionError: division by zero"),
        ("leaves", {}, r"item 'dev-0': the metric 'leaves' failed: SystemExit: 0"),
    ],
)
def test_what_is_no_score_is_an_error_with_its_name_and_item(
    metric, options, told, tmp_path, package, answers
):
    package("odd", "fails", "leaves")
    answers("no", "no")
    with pytest.raises(FactoryError, match=told) as caught:
        evaluate_base(domain(tmp_path, metric, **options), tmp_path / "w")
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)


def test_what_a_sum_of_floats_is_off_by_is_forgiven(tmp_path, package, answers):
    package("slips")
    answers("ab cd", "no")
    items = evaluate_base(domain(tmp_path, "slips"), tmp_path / "w")
    assert [item["score"] for item in items] == [1 - 1e-12, 0.0]


@pytest.mark.parametrize(
    ("metric", "options", "words"),
    [
        ("shared", {}, ["evaluation.metric:", "no metric 'shared'", "did you mean 'share'"]),
        ("share", {"lest": 1}, ["metric_options.lest:", "unknown key 'lest'", "did you mean 'least'"]),
        ("share", {"least": "1"}, ["metric_options.least:", "valid integer", "'share'"]),
        ("unfair", {}, ["dev.jsonl:1 answer:", "'unfair' scores it 0.5 against itself, not 1"]),
        ("blind", {}, ["evaluation.metric:", "takes no reference and answer", "(expected, answer)"]),
        ("strange", {}, ["evaluation.metric:", "cannot be looked into", "Nowhere"]),
        ("gone", {}, ["evaluation.metric:", "'gone' cannot be loaded"]),
        ("broken", {}, ["evaluation.metric:", "'broken' cannot be loaded: ZeroDivisionError: division"]),
        ("ending", {}, ["evaluation.metric:", "'ending' cannot be loaded: SystemExit"]),
        ("typed", {}, ["evaluation.metric:", "has a parameter that can be no option", "Kind"]),
        ("config", {}, ["evaluation.metric:", "has a parameter that can be no option"]),
        ("later", {}, ["evaluation.metric:", "is a coroutine function"]),
    ],
)
def test_what_cannot_be_used_is_told_when_the_recipe_is_read(
    metric, options, words, tmp_path, package, capsys
):
    package(*[name for name in NAMES if name != "exact"])
    assert main(["check", str(domain(tmp_path, metric, **options))]) == 2
    told = capsys.readouterr().err
    assert [word for word in words if word not in told] == [] and told.count("\n") == 1, told
    assert re.search(r"(recipe\.yaml|dev\.jsonl):\d+ ", told)


def test_a_name_of_ours_is_taken(tmp_path, package):
    load(domain(tmp_path, "exact"))
    package("exact")
    with pytest.raises(
        RecipeError, match=r"evaluation\.metric: an installed package has a metric 'exact' too"
    ):
        load(domain(tmp_path, "exact"))
