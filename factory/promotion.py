"""Which student is in charge of a run: as the gate decided, or as a person did afterwards, with a reason.

Promotions are events in `stages`, and the newest decides: `promote` that promoted, or `promote_by_hand`,
whose round is in charge from then on, 0 for the base. Nothing is changed, so going back is one more event.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
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


# The student of a round: by its evaluation, since two runs that trained the same share its row in `models`.
NAME = """
    SELECT m.name FROM models m
    LEFT JOIN evaluations e ON e.model_id = m.id AND e.run_id = $1 AND e.round = $2
    WHERE m.role = 'student' AND (e.id IS NOT NULL OR m.run_id = $1 AND m.round = $2)
    ORDER BY e.id IS NULL, m.name LIMIT 1"""
LAST = """
    SELECT round, detail ->> 'reason' AS reason, (detail ->> 'promote')::BOOLEAN AS promote FROM stages
    WHERE run_id = ? AND stage = 'promote' AND status = 'done' ORDER BY round DESC LIMIT 1"""


@dataclass(frozen=True)
class InCharge:
    """Which student `serve` and `evaluate --model promoted` mean: round 0 and no name is the base."""

    round: int
    name: str | None
    by_hand: bool
    newest_round: int  # that the gate decided on
    refused: str | None  # why the gate did not promote that one

    def describe(self) -> str:
        """'in charge: round 1 (student-1a2b3c4d); round 2 was not promoted: no_gain'."""
        line = f"in charge: round {self.round} ({self.name})" if self.round else "in charge: the base"
        line += ", put there by hand" if self.by_hand else ""
        if self.refused and self.newest_round != self.round:
            line += f"; round {self.newest_round} was not promoted: {self.refused}"
        return line


def who_is_in_charge(store: Selects, run_id: str) -> InCharge | None:
    """The student in charge of a run; None where the gate has not decided on any yet."""
    last = store.select(LAST, (run_id,))
    if not last:
        return None
    number = promoted_round(store, run_id)
    names = store.select(NAME, (run_id, number)) if number else []
    newest = store.select(EVENTS, (run_id,))[-1:]
    refused = None if last[0]["promote"] else str(last[0]["reason"])
    by_hand = bool(newest) and newest[0]["stage"] == BY_HAND
    return InCharge(number, names[0]["name"] if names else None, by_hand, last[0]["round"], refused)


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
        raise InputError(
            f"{f'{len(rows)} students' if rows else 'no student'} '{model}' can be put in charge",
            hint="`factory rollback` leads back to the base; the students of rounds, without those of "
            "controls: `factory sql` with: SELECT m.id, m.name, m.run_id, m.round FROM models m "
            "JOIN runs r ON r.id = m.run_id WHERE m.role = 'student' AND r.control IS NULL",
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
        raise InputError(f"the base is in charge of {run_id}: there is no promotion that could be taken back")
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
