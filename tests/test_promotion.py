"""Promotions by hand and taken back: what is in charge, and what is told."""

import json
from dataclasses import asdict

import pytest
from test_report import print_plain

from factory.cli import main
from factory.errors import InputError
from factory.findings import collect
from factory.gate_grids import grid_gate_slices, grid_gates
from factory.promotion import promote_by_hand, promoted_round, roll_back, who_is_in_charge
from factory.report import final_table, render_html
from factory.store.queries import read
from factory.store.store import Store

GATE = {"gain": 0.1, "gain_low": -0.1, "p_value": 0.6, "num_better": 3, "num_worse": 1}
GATE |= {"worst_slice": "fees", "worst_slice_gain": 0.0}


def fill(store, run_id="run_a", promoted=(True, False), control=None):
    """A run of as many rounds as the gate decided on, each with its student."""
    row = {"id": run_id, "recipe": "r", "control": control, "digest": "d", "config": {}, "version": "1"}
    store.append("runs", [row])
    for number, promote in enumerate(promoted, 1):
        model = {"id": f"mdl_{run_id}_{number}", "role": "student", "name": f"student-{run_id}-{number}"}
        store.append("models", [{**model, "base": "b", "run_id": run_id, "round": number}])
        detail = {**GATE, "promote": promote, "reason": "gain" if promote else "no_gain"}
        event = {"run_id": run_id, "round": number, "stage": "promote", "status": "done"}
        store.append("stages", [{**event, "detail": detail}])
    store.flush()


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "w") as store:
        fill(store)
        yield store


def test_the_newest_decision_is_in_charge(store):
    assert promoted_round(store, "run_a") == 1
    told = promote_by_hand(store, "student-run_a-2", "the board said so", "Ada Byron")
    expected = {"run": "run_a", "round": 2, "kind": "promoted", "before": 1}
    assert told == {**expected, "why": "the board said so", "who": "Ada Byron"}
    assert promoted_round(store, "run_a") == 2
    promote_by_hand(store, "mdl_run_a_1", "it was better after all", "Ada Byron")
    assert promoted_round(store, "run_a") == 1


def test_that_dev_chose_the_student_is_told_with_its_promotion(store):
    store.append(
        "models",
        [{"id": "mdl_3", "role": "student", "name": "s3", "base": "b", "run_id": "run_a", "round": 3}],
    )
    event = {"run_id": "run_a", "round": 3, "stage": "promote", "status": "done"}
    detail = {**GATE, "promote": False, "reason": "no_gain", "chosen_on_dev": True}
    store.append("stages", [{**event, "detail": detail}])
    assert promote_by_hand(store, "mdl_3", "try it", "Ada")["chosen_on_dev"] is True
    assert "chosen_on_dev" not in promote_by_hand(store, "mdl_run_a_2", "or that", "Ada")


def test_going_back_goes_further_back_each_time(store):
    promote_by_hand(store, "student-run_a-2", "try it", "Ada")
    assert [roll_back(store, "run_a", "no", "Ada")["round"] for _ in range(2)] == [1, 0]
    assert promoted_round(store, "run_a") == 0
    with pytest.raises(InputError, match="the base is in charge"):
        roll_back(store, "run_a", "no", "Ada")
    promote_by_hand(store, "student-run_a-2", "again", "Ada")
    assert promoted_round(store, "run_a") == 2
    assert roll_back(store, "run_a", "no", "Ada")["round"] == 0


def test_what_the_gate_promotes_later_is_in_charge_again(store):
    roll_back(store, "run_a", "complaints", "Ada")
    event = {"run_id": "run_a", "round": 3, "stage": "promote", "status": "done"}
    store.append("stages", [{**event, "detail": {**GATE, "promote": True, "reason": "gain"}}])
    assert promoted_round(store, "run_a") == 3
    assert roll_back(store, "run_a", "no", "Ada")["round"] == 0  # round 1 was taken back before


def test_a_run_is_not_touched_by_another(store):
    fill(store, "run_b")
    promote_by_hand(store, "student-run_b-2", "yes", "Ada")
    assert (promoted_round(store, "run_a"), promoted_round(store, "run_b")) == (1, 2)


@pytest.mark.parametrize(
    ("model", "reason", "who", "said"),
    [
        ("student-run_a-9", "x", "Ada", "no student 'student-run_a-9'"),
        ("mdl_run_a_1", "x", "Ada", "in charge of run_a already"),
        ("mdl_run_a_2", " ", "Ada", "needs a reason and a name"),
        ("mdl_run_a_2", "x", "", "needs a reason and a name"),
        ("student-raw", "x", "Ada", "no student 'student-raw'"),
        ("student-run_c-1", "x", "Ada", "2 students"),
        ("mdl_new", "x", "Ada", "has not decided on 'mdl_new' yet"),
    ],
)
def test_what_cannot_be_promoted_is_told(store, model, reason, who, said):
    fill(store, "run_a_raw", (True,), control="raw")
    fill(store, "run_c", (False,))
    student = {"role": "student", "base": "b", "run_id": "run_c"}
    store.append("models", [{**student, "id": "mdl_twin", "name": "student-run_c-1", "round": 2}])
    store.append("models", [{**student, "id": "mdl_new", "name": "new", "round": 3}])
    store.append(
        "models", [{**student, "id": "mdl_raw", "name": "student-raw", "run_id": "run_a_raw", "round": 1}]
    )
    with pytest.raises(InputError, match=said):
        promote_by_hand(store, model, reason, who)
    assert not store.select("SELECT 1 FROM stages WHERE stage = 'promote_by_hand'")


def test_the_report_tells_who_and_why(store):
    promote_by_hand(store, "student-run_a-2", "the board said so", "Ada")
    roll_back(store, "run_a", "complaints\x1b[2J", "Bea")
    report = collect(store, "run_a")
    assert json.dumps([gate.evidence for gate in report.gates])
    rows = grid_gates(report).rows
    assert [row[:3] for row in rows] == [
        ("round 1", "promoted", "gain"),
        ("round 2", "not promoted", "no_gain"),
        ("round 2", "promoted", "by_hand"),
        ("round 1", "promoted", "by_hand"),
    ]
    assert rows[2][-1] == "Ada: the board said so" and rows[0][3:5] == ("3", "1")
    assert not grid_gate_slices(report).rows


def test_the_commands_write_what_sql_sees(tmp_path, capsys, monkeypatch):
    workspace = tmp_path / "w"
    with Store.open(workspace) as store:
        fill(store)
    monkeypatch.setenv("LOGNAME", "grace")
    assert main(["promote", str(workspace), "student-run_a-2", "--reason", "reviewed", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["who"] == "grace"
    assert main(["rollback", str(workspace), "--reason", "complaints", "--by", "Bea"]) == 0
    sql = """SELECT round, detail ->> 'kind', detail ->> 'who', detail ->> 'why' FROM stages
             WHERE stage = 'promote_by_hand' ORDER BY created_at"""
    told = read(workspace, sql).rows
    assert [tuple(row) for row in told] == [
        (2, "promoted", "grace", "reviewed"),
        (1, "rolled_back", "Bea", "complaints"),
    ]


def test_a_workspace_that_is_none_is_not_made(tmp_path, capsys):
    assert main(["promote", str(tmp_path / "none"), "student", "--reason", "x"]) == 2
    assert not (tmp_path / "none").exists()


def test_who_is_in_charge_is_told_by_run_report_and_status(store, tmp_path, capsys):
    def told() -> str:
        (run,) = json.loads(said(capsys, "status", "--workspace", str(tmp_path / "w"), "--json"))
        report = collect(store)
        assert report.in_charge is not None
        assert json.loads(json.dumps(run["in_charge"])) == asdict(report.in_charge)
        assert (run["stage"], report.run.state) == ("promote", "round 2, promote: done")
        line = report.in_charge.describe()
        assert line in print_plain(final_table(report), 200) and line in render_html(report)
        assert line in said(capsys, "status", "--workspace", str(tmp_path / "w"))
        return line

    assert told() == "in charge: round 1 (student-run_a-1); round 2 was not promoted: no_gain"
    promote_by_hand(store, "student-run_a-2", "the board said so", "Ada")
    assert told() == "in charge: round 2 (student-run_a-2), put there by hand"
    roll_back(store, "run_a", "a complaint", "Ada")
    roll_back(store, "run_a", "another", "Ada")
    assert told() == "in charge: the base, put there by hand; round 2 was not promoted: no_gain"


def test_nobody_is_in_charge_before_the_gate_decided(tmp_path):
    with Store.open(tmp_path) as store:
        fill(store, promoted=())
        assert who_is_in_charge(store, "run_a") is None and collect(store).in_charge is None


def test_a_control_s_student_and_the_base_are_told_where_to_find_what_can_be_put_in_charge(store):
    fill(store, "run_a_raw", (True,), control="raw")
    for name in ("student-run_a_raw-1", "base"):
        with pytest.raises(InputError, match=f"no student '{name}' can be put in charge") as caught:
            promote_by_hand(store, name, "x", "Ada")
        query = caught.value.hint.partition("`factory sql` with: ")[2]
        assert {row["name"] for row in store.select(query)} == {"student-run_a-1", "student-run_a-2"}


def said(capsys, *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out
