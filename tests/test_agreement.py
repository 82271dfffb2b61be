"""Agreement between people, decisions and the judge's scores: Cohen's kappa against other ways to it."""

import math

import pytest
from example_store import fill
from hypothesis import example, given
from hypothesis import strategies as st

from factory.report import collect, render_html
from factory.significance import wilson
from factory.store.store import Store

ACTIONS = ("keep", "edit", "drop")


def write(store, table, run="run_a"):
    """Verdicts and final decisions so often as a 3×3 table says: a row is what people said."""
    verdicts, decisions, number = [], [], 0
    for ours, row in zip(ACTIONS, table, strict=True):
        for theirs, count in zip(("keep", "rewrite", "drop"), row, strict=True):
            for _ in range(count):
                number += 1
                about = {"sample_id": f"smp_{run}_{number}", "action": ours, "reason": "r"}
                verdicts.append({**about, "reviewer": "ann"})
                decided = {"run_id": run, "round": 1, "step": 0, "refiner": "edit", "evidence": {}}
                decisions.append({**decided, **about, "action": theirs, "final": True})
    store.append("verdicts", verdicts)
    store.append("decisions", decisions)


def read(store, kind="decision", **where):
    sql = "SELECT * FROM agreement WHERE kind = ?" + "".join(f" AND {key} = ?" for key in where)
    rows = store.select(sql, (kind, *where.values()))
    assert len(rows) <= 1
    return rows[0] if rows else None


def kappa(p):
    """From the shares of a table, by the definition."""
    observed = sum(p[i][i] for i in range(3))
    chance = sum(sum(p[i]) * sum(row[i] for row in p) for i in range(3))
    return (observed - chance) / (1 - chance)


def spread(table):
    """The standard error by the delta method, with numeric derivatives: another way to the same formula."""
    total, step = sum(map(sum, table)), 1e-6
    p = [[count / total for count in row] for row in table]

    def moved(i, j, by):
        return kappa([[v + by * ((a, b) == (i, j)) for b, v in enumerate(row)] for a, row in enumerate(p)])

    slopes = {
        (i, j): (moved(i, j, step) - moved(i, j, -step)) / (2 * step) for i in range(3) for j in range(3)
    }
    mean = sum(p[i][j] * slope for (i, j), slope in slopes.items())
    variance = (sum(p[i][j] * slope**2 for (i, j), slope in slopes.items()) - mean**2) / total
    return math.sqrt(max(0.0, variance))  # rounding may leave it below zero


def test_a_table_counted_by_hand(tmp_path):
    with Store.open(tmp_path) as store:
        write(store, [[20, 0, 5], [0, 0, 0], [10, 0, 15]])  # po = 0.7, pe = 0.5·0.6 + 0.5·0.4 = 0.5
        found = read(store)
    assert (found["num_items"], found["num_agreed"], found["agreement"]) == (50, 35, 0.7)
    assert found["kappa"] == pytest.approx(0.4)


def test_a_published_table_of_three_categories(tmp_path):
    """Fleiss, Levin and Paik 2003, Statistical Methods for Rates and Proportions, table 18.1: 0.676."""
    table = [[75, 1, 4], [5, 4, 1], [0, 0, 10]]
    with Store.open(tmp_path) as store:
        write(store, table)
        found = read(store)
    assert found["kappa"] == pytest.approx(0.676, abs=5e-4)
    half = 1.959963984540054 * spread(table)
    assert found["kappa_low"] == pytest.approx(found["kappa"] - half, abs=1e-6)
    assert found["kappa_high"] == pytest.approx(found["kappa"] + half, abs=1e-6)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("shared")) as store:
        yield store


number = iter(range(10**6))


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3))
@example([[0, 0, 0], [0, 0, 0], [0, 5, 3]])
def test_kappa_and_its_interval_are_those_of_the_definition(shared, table):
    if not sum(map(sum, table)):
        return
    run = f"run_{next(number)}"
    write(shared, table, run)
    found = read(shared, run_id=run)
    shares = [[count / sum(map(sum, table)) for count in row] for row in table]
    if max(sum(row) for row in shares) == 1 and max(map(sum, zip(*shares, strict=True))) == 1:
        assert found["kappa"] in (None, 0)
        return
    assert found["kappa"] == pytest.approx(kappa(shares))
    half, agreed = 1.959963984540054 * spread(table), sum(shares[i][i] for i in range(3))
    if 0 < agreed < 1:
        assert found["kappa_low"] == pytest.approx(max(-1, kappa(shares) - half), abs=1e-5)
        assert found["kappa_high"] == pytest.approx(min(1, kappa(shares) + half), abs=1e-5)
    else:
        assert found["kappa_low"] < found["kappa_high"]


def test_few_that_all_agree_do_not_prove_agreement(tmp_path):
    with Store.open(tmp_path) as store:
        write(store, [[2, 0, 0], [0, 0, 0], [0, 0, 2]], "run_few")
        write(store, [[50, 0, 0], [0, 0, 0], [0, 0, 50]], "run_many")
        write(store, [[0, 0, 2], [0, 0, 0], [2, 0, 0]], "run_none")
        few, many, none = (read(store, run_id=f"run_{name}") for name in ("few", "many", "none"))
    assert (few["kappa"], few["kappa_high"], many["kappa_high"]) == (1, 1, 1)
    low, _ = wilson(1.0, 4)
    assert few["kappa_low"] == pytest.approx((low - 0.5) / 0.5)
    assert many["kappa_low"] > 0.9
    assert (none["kappa"], none["kappa_low"]) == (-1, -1)
    assert none["kappa_high"] == pytest.approx((1 - low - 0.5) / 0.5)


def test_one_answer_throughout_has_no_kappa_and_the_newest_verdict_counts(tmp_path):
    with Store.open(tmp_path) as store:
        write(store, [[3, 0, 0], [0, 0, 0], [0, 0, 0]])
        found = read(store)
        assert (found["agreement"], found["kappa"], found["kappa_low"]) == (1, None, None)
        about = {"sample_id": "smp_run_a_1", "reviewer": "ann", "action": "drop", "reason": "r"}
        store.append("verdicts", [about])
        assert (read(store)["num_items"], read(store)["num_agreed"]) == (3, 2)


def test_scores_are_cut_where_the_judge_drops_and_else_at_three(tmp_path):
    runs = {"run_a": {"name": "judge"}, "run_b": {"name": "judge", "drop_below": 4.5}}
    with Store.open(tmp_path) as store:
        for run, step in runs.items():
            row = {"id": run, "recipe": "r", "digest": "d", "version": "0"}
            store.append("runs", [{**row, "config": {"refiners": [{"name": "form"}, step]}}])
            for at, value in enumerate((4.0, 3.0, 2.0, None)):
                score = {"run_id": run, "sample_id": f"smp_{at}", "scorer": "judge", "value": value}
                store.append("scores", [{**score, "metric": "overall"}, {**score, "metric": "clear"}])
        said = ["keep", "edit", "drop", "keep"]
        for at, action in enumerate(said):
            verdict = {"sample_id": f"smp_{at}", "reviewer": "ann", "action": action, "reason": "r"}
            store.append("verdicts", [verdict])
        first, second = (read(store, "score", run_id=run) for run in runs)
    assert (first["name"], first["num_items"], first["num_agreed"]) == ("judge", 3, 2)
    assert (second["num_items"], second["num_agreed"]) == (3, 2)  # all below 4.5, one was to be kept


def test_reviewers_are_compared_where_they_saw_the_same(tmp_path):
    with Store.open(tmp_path) as store:
        for reviewer, said in {"ann": "kkkd", "bob": "kkdd", "eve": "k"}.items():
            for at, each in enumerate(said):
                action = {"k": "keep", "d": "drop"}[each]
                verdict = {"sample_id": f"smp_{at}", "reviewer": reviewer, "action": action, "reason": "r"}
                store.append("verdicts", [verdict])
        rows = store.select("SELECT * FROM agreement WHERE kind = 'reviewer' ORDER BY name")
    found = {row["name"]: (row["run_id"], row["num_items"], row["num_agreed"]) for row in rows}
    assert found == {
        "ann / bob": (None, 4, 3),
        "ann / eve": (None, 1, 1),
        "bob / eve": (None, 1, 1),
    }
    assert rows[0]["kappa"] == pytest.approx(0.5)  # po = 3/4; pe = 3/4·2/4 + 1/4·2/4 = 1/2


def test_the_report_shows_it_where_there_are_verdicts(tmp_path):
    with Store.open(tmp_path) as store:
        made = fill(store)
        title = "Agreement of people"
        assert title not in render_html(collect(store))
        verdict = {"sample_id": made.better.id, "reviewer": "ann", "action": "keep", "reason": "good"}
        store.append("verdicts", [verdict])
        score = {"run_id": "run_a", "sample_id": made.better.id, "scorer": "judge", "value": 4.0}
        store.append("scores", [{**score, "metric": "overall", "model_id": "mdl_judge"}])
        report = collect(store)
        page = render_html(report)
    assert title in page and "decision final" in page and "mdl_judge" in page
    names = [(each.kind, each.name) for each in report.agreement]
    assert names == [("decision", "final"), ("step", "citation"), ("step", "form"), ("score", "judge")]
