"""All that a person who decides about a sample should see: its sections, what changed, what each step said.

A sample that the refiner changed is shown with what it became, and one that the refiner made with what it
was. Reads only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from factory.audit.differences import Piece, differences
from factory.errors import InputError
from factory.store.rows import sample_from_row
from factory.store.trace import outcomes_in
from factory.types import Message

if TYPE_CHECKING:
    from factory.store.trace import Selects

MAX_SHOWN: Final = 20_000  # characters of a text on a page

SAMPLE = """
    SELECT id, run_id, round, strategy, operation, slice, question, answer, messages, attributes, content_hash
    FROM samples WHERE id = ?"""
SECTIONS = """
    SELECT s.id, s.citation, s.title, s.text FROM edges e JOIN sources s ON s.id = e.parent
    WHERE e.child = ? AND e.relation = 'source' ORDER BY s.id"""
STEPS = """
    SELECT step, refiner, action, reason, evidence, rewrite_id, final FROM {outcomes}
    WHERE sample_id = ? AND run_id = ? ORDER BY step"""
PARENT = "SELECT parent FROM edges WHERE child = ? AND relation = 'rewrite_of' ORDER BY parent LIMIT 1"
ANSWER = "SELECT id, answer FROM samples WHERE id = ?"
SCORES = """
    SELECT metric, scorer, value FROM scores WHERE sample_id = ? AND run_id = ? ORDER BY scorer, metric"""


@dataclass(frozen=True, slots=True)
class Change:
    """What an answer was and became; `other_id` is the sample beside the one that is looked at."""

    other_id: str
    before: str
    after: str
    is_ours_the_later: bool  # the sample is what came of the other

    @property
    def pieces(self) -> list[Piece]:
        """The change of what is shown."""
        return differences(self.before[:MAX_SHOWN], self.after[:MAX_SHOWN])

    @property
    def is_cut(self) -> bool:
        """Whether there is more than is shown."""
        return max(len(self.before), len(self.after)) > MAX_SHOWN


@dataclass(frozen=True, slots=True)
class Subject:
    """A sample with what there is to know about it; steps and scores are those of one run."""

    sample: dict[str, Any]
    before: Sequence[Message]  # what was said before question and answer
    sections: list[dict[str, Any]]
    change: Change | None
    steps: list[dict[str, Any]]
    steps_of_other: list[dict[str, Any]]
    scores: list[dict[str, Any]]


def read_subject(asks: Selects, sample_id: str, run_id: str) -> Subject:
    """The sample of an id as a run saw it; raises InputError where there is none."""
    found = asks.select(SAMPLE, [sample_id])
    if not found:
        raise InputError("there is no sample of this id", where=sample_id[:80])
    row, steps = found[0], _steps(asks, sample_id, run_id)
    change = _change(asks, row, steps)
    return Subject(
        row,
        _before(row),
        asks.select(SECTIONS, [sample_id]),
        change,
        steps,
        _steps(asks, change.other_id, run_id) if change else [],
        asks.select(SCORES, [sample_id, run_id]),
    )


def _steps(asks: Selects, sample_id: str, run_id: str) -> list[dict[str, Any]]:
    return asks.select(STEPS.format(outcomes=outcomes_in(asks)), [sample_id, run_id])


def _change(asks: Selects, row: dict[str, Any], steps: list[dict[str, Any]]) -> Change | None:
    became = next((step["rewrite_id"] for step in steps if step["rewrite_id"]), None)
    parents = [] if became else asks.select(PARENT, [row["id"]])
    other = asks.select(ANSWER, [became or parents[0]["parent"]]) if became or parents else []
    if not other:
        return None
    theirs = other[0]["answer"]
    if became:
        return Change(other[0]["id"], row["answer"], theirs, is_ours_the_later=False)
    return Change(other[0]["id"], theirs, row["answer"], is_ours_the_later=True)


def _before(row: dict[str, Any]) -> Sequence[Message]:
    """The messages up to the last question and answer, where there are more."""
    messages = list(sample_from_row(row).messages)
    for role in ("assistant", "user"):
        for at in range(len(messages) - 1, -1, -1):
            if messages[at].role == role:
                del messages[at]
                break
    return messages
