"""Which student is in charge of a run: as the gate decided, or as a person did afterwards, with a reason.

Promotions are events in `stages`, and the newest decides: `promote` that promoted, or `promote_by_hand`,
whose round is in charge from then on, 0 for the base. Nothing is changed, so going back is one more event.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from factory.accuracy import Selects
from factory.errors import InputError

if TYPE_CHECKING:
    from factory.store.store import Store

BY_HAND = "promote_by_hand"
EVENTS = """
    SELECT round, stage, detail FROM stages
    WHERE run_id = ? AND status = 'done'
      AND (stage = 'promote_by_hand' OR stage = 'promote' AND (detail ->> 'promote')::BOOLEAN)
    ORDER BY created_at, rowid"""

GATE = """
    SELECT coalesce((detail ->> 'chosen_on_dev')::BOOLEAN, false) AS chosen_on_dev FROM stages
    WHERE run_id = ? AND round = ? AND stage = 'promote' AND status = 'done'"""


def promoted_round(store: Selects, run_id: str) -> int:
    """The round whose student is in charge: the newest promotion's, 0 for the base."""
    return _in_charge(store, run_id)[-1]


def promote_by_hand(store: Store, model: str, reason: str, who: str) -> dict[str, Any]:
    """Puts a trained student in charge of its run; returns the event's run, round and detail.

    And `chosen_on_dev`, where early stopping chose it by the items that the gate judged it by.

    `model` is the id or the name of a student that a run trained. Raises InputError where there is none or
    more than one, where it is in charge already or the gate has not decided on it yet, since later rounds
    are compared with its answers, and where author or reason are empty.
    """
    rows = store.select(
        """SELECT DISTINCT m.id, m.name, m.run_id, m.round FROM models m JOIN runs r ON r.id = m.run_id
           WHERE m.role = 'student' AND m.round > 0 AND r.control IS NULL AND (m.id = $1 OR m.name = $1)""",
        (model,),
    )
    if len(rows) != 1:
        found = "no student" if not rows else f"{len(rows)} students"
        raise InputError(
            f"{found} '{model}' was trained by the rounds in this workspace",
            hint="`factory sql` with: SELECT id, name, run_id, round FROM models WHERE role = 'student'",
        )
    row = rows[0]
    before = _in_charge(store, row["run_id"])[-1]
    if before == row["round"]:
        raise InputError(f"'{model}' is in charge of {row['run_id']} already")
    gate = store.select(GATE, (row["run_id"], row["round"]))
    if not gate:
        raise InputError(f"the gate has not decided on '{model}' yet", hint="run `factory evaluate` first")
    what = {"kind": "promoted", "before": before}
    told = _record(store, row["run_id"], row["round"], what, reason, who)
    return told | ({"chosen_on_dev": True} if gate[0]["chosen_on_dev"] else {})


def roll_back(store: Store, run_id: str, reason: str, who: str) -> dict[str, Any]:
    """Puts that student in charge of a run which was before the newest promotion; again, the one before that.

    Returns what `promote_by_hand` returns. Raises InputError where the base is in charge, or as there.
    """
    charge = _in_charge(store, run_id)
    if len(charge) < 2:
        raise InputError(f"nothing was promoted in {run_id} that could be taken back")
    return _record(store, run_id, charge[-2], {"kind": "rolled_back", "before": charge[-1]}, reason, who)


def _record(
    store: Store, run_id: str, number: int, what: dict[str, Any], reason: str, who: str
) -> dict[str, Any]:
    if not reason.strip() or not who.strip():
        raise InputError("a promotion by hand needs a reason and a name", hint="--reason TEXT --by NAME")
    detail = {**what, "why": reason.strip(), "who": who.strip()}
    row = {"run_id": run_id, "round": number, "stage": BY_HAND, "status": "done", "detail": detail}
    store.append("stages", [row])
    store.flush()
    return {"run": run_id, "round": number, **detail}


def _in_charge(store: Selects, run_id: str) -> list[int]:
    """The rounds in charge one after another, without those that were taken back; first the base."""
    charge = [0]
    for row in store.select(EVENTS, (run_id,)):
        detail = json.loads(row["detail"]) if isinstance(row["detail"], str) else row["detail"]
        if row["stage"] == BY_HAND and detail["kind"] == "rolled_back":
            charge.pop()
        else:
            charge.append(row["round"])
    return charge
