"""Which sample a person is asked about next: in three orders, each without what they have decided already.

`uncertain`: the refiner's probability to keep is nearest to where it would turn. `disputed`: people, the
judge or a check say otherwise than the refiner or the run. `random`: the samples that the run kept, in an
order that has nothing to do with what they say, so that a share of its beginning is true of all of them.
Nothing is stored: an order follows from the samples alone, and goes on where it was left.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from factory.digests import hash_text
from factory.significance import wilson
from factory.store.trace import outcomes_in
from factory.store.verdicts import STANDING

if TYPE_CHECKING:
    from factory.store.trace import Selects

QUEUES: Final = {
    "uncertain": "where the refiner is least sure",
    "disputed": "where refiner, checks, judge and people differ",
    "random": "at random, for an estimate",
}
STEP: Final = 10  # estimates are over the first 10, 20, 30 … samples of the random order


class Turn(NamedTuple):
    """A sample that is next, and why it is."""

    sample_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """The share of the kept samples that a reviewer would keep, with its 95 % interval.

    Over the first `num_items` samples of the random order, of which `num_judged` in a row are decided.
    """

    num_judged: int
    num_items: int
    num_kept: int
    num_edited: int
    num_dropped: int
    share: float
    low: float
    high: float


MINE = f"(SELECT sample_id FROM {STANDING} WHERE reviewer = $reviewer)"  # noqa: S608 (constants)

# Calibrated probabilities turn at a half; as read they turn where the run's newest map makes them a half.
# Where a run has no probability to keep, the lower of `grounded` and `form` stands for it.
HAS = """
    SELECT metric, scorer FROM scores
    WHERE run_id = $run AND scorer = $scorer AND metric = $metric AND value IS NOT NULL LIMIT 1"""
MAP = """
    SELECT calibration -> '$.calibration' AS map FROM refiner_evaluations
    WHERE calibration IS NOT NULL ORDER BY run_id = $run DESC, created_at DESC LIMIT 1"""
UNCERTAIN = f"""
    SELECT sample_id, value FROM scores
    WHERE run_id = $run AND scorer = $scorer AND metric = $metric AND value IS NOT NULL
      AND sample_id NOT IN {MINE}
    ORDER BY abs(value - $threshold), sample_id LIMIT 1 OFFSET $skip"""  # noqa: S608 (constants)
UNCERTAIN_DIGITS = f"""
    SELECT sample_id, min(value) AS value FROM scores
    WHERE run_id = $run AND metric IN ('grounded', 'form') AND sample_id NOT IN {MINE}
    GROUP BY sample_id HAVING min(value) IS NOT NULL
    ORDER BY abs(min(value) - 0.5), sample_id LIMIT 1 OFFSET $skip"""  # noqa: S608 (constants)

# A check that comes after the refiner, or looks at what it made, drops: no join of all decisions is needed.
# Not those that compare with other samples: they say nothing about the answer.
DISPUTED = f"""
    WITH steps AS (
        SELECT min(step) FILTER (refiner = 'edit') AS edit, min(step) FILTER (refiner = 'judge') AS judge
        FROM decisions WHERE run_id = $run AND refiner IN ('edit', 'judge')
    ), cut AS (  -- the overall score from which on the judge would keep a sample
        SELECT coalesce(max((step ->> '$.drop_below')::DOUBLE), 3) AS least
        FROM (SELECT unnest(from_json(coalesce(config -> '$.refiners', '[]'), '["JSON"]')) AS step
              FROM runs WHERE id = $run)
        WHERE step ->> '$.name' = 'judge'
    ), found AS (
        SELECT v.sample_id, 0 AS rank, concat(v.reviewer, ' said ', v.action, ', the run says ',
               CASE d.action WHEN 'rewrite' THEN 'edit' ELSE d.action END) AS why
        FROM (SELECT * FROM {STANDING} WHERE reviewer <> $reviewer) v
        JOIN (SELECT sample_id, action FROM decisions
              WHERE run_id = $run AND final AND reason <> 'surplus'
                AND sample_id IN (SELECT sample_id FROM verdicts)) d ON d.sample_id = v.sample_id
        WHERE v.action <> CASE d.action WHEN 'rewrite' THEN 'edit' ELSE d.action END
        UNION ALL
        SELECT d.sample_id, 1, concat('the refiner let it through, ', d.refiner, ' dropped it: ', d.reason)
        FROM decisions d, steps
        WHERE d.run_id = $run AND d.final AND d.action = 'drop' AND d.reason <> 'surplus'
          AND d.refiner NOT IN ('edit', 'exact', 'near', 'semantic', 'contamination')
          AND (d.step > steps.edit
               OR d.sample_id IN (SELECT rewrite_id FROM decisions
                                  WHERE run_id = $run AND refiner = 'edit' AND rewrite_id IS NOT NULL))
        UNION ALL
        SELECT s.sample_id, 2, concat('the refiner let it through, the judge scored it ', round(s.value, 2))
        FROM scores s, steps, cut
        WHERE s.run_id = $run AND s.scorer = 'judge' AND s.metric = 'overall' AND s.value < cut.least
          AND steps.judge > steps.edit
    )
    SELECT sample_id, why FROM found WHERE sample_id NOT IN {MINE}
    ORDER BY rank, sample_id LIMIT 1 OFFSET $skip"""  # noqa: S608 (constants)

# Ids are hashes of contents, so their order is random already; a seed says where in the circle of all ids it
# begins. What was decided is not left out: the estimate is over the beginning without gaps.
RANDOM = f"""
    SELECT o.sample_id, v.action FROM (
        SELECT sample_id FROM {{outcomes}} WHERE run_id = $run AND final AND action = 'keep'
        ORDER BY sample_id < $begin, sample_id LIMIT $num) o
    LEFT JOIN (SELECT sample_id, action FROM {STANDING} WHERE reviewer = $reviewer) v
           ON v.sample_id = o.sample_id
    ORDER BY o.sample_id < $begin, o.sample_id"""  # noqa: S608 (constants)
COUNT = f"SELECT count(*) AS n FROM {STANDING} WHERE reviewer = $reviewer"  # noqa: S608 (constants)


def next_turn(asks: Selects, queue: str, run_id: str, reviewer: str, skip: int = 0) -> Turn | None:
    """The sample that comes next for a reviewer in `uncertain` or `disputed`, `skip` of them passed over.

    None at the end of the queue.
    """
    about: dict[str, Any] = {"run": run_id, "reviewer": reviewer, "skip": skip}
    if queue == "disputed":
        found = _select(asks, DISPUTED, about)
        return Turn(found[0]["sample_id"], found[0]["why"]) if found else None
    for scorer in ("edit_calibrated", "edit_probability"):
        which = {"run": run_id, "scorer": scorer, "metric": "keep"}
        if not _select(asks, HAS, which):
            continue
        threshold = 0.5 if scorer == "edit_calibrated" else raw_threshold(asks, run_id)
        found = _select(asks, UNCERTAIN, {**about, **which, "threshold": threshold})
        return _unsure(found, "the refiner's probability to keep is", f"; it turns at {threshold:.0%}")
    return _unsure(_select(asks, UNCERTAIN_DIGITS, about), "the lower of its scores grounded and form is", "")


def raw_threshold(asks: Selects, run_id: str) -> float:
    """Where a probability as the refiner's tokens have it is worth a half: by the newest map, else a half.

    Platt's map sends p to a half where slope · logit(p) + intercept = 0.
    """
    found = _select(asks, MAP, {"run": run_id})
    fitted = json.loads(found[0]["map"]) if found and found[0]["map"] else None
    if not fitted or not fitted.get("slope"):
        return 0.5
    return 1 / (1 + math.exp(min(700.0, fitted["intercept"] / fitted["slope"])))


def next_at_random(
    asks: Selects, run_id: str, reviewer: str, seed: str = ""
) -> tuple[Turn | None, Estimate | None]:
    """The first sample of the random order that a reviewer has not decided, and the estimate so far.

    The estimate takes the samples from the first to the last before that one, cut to a multiple of STEP:
    which samples it is over then follows from the order alone, not from what was said of them or where.
    Verdicts that were given in another queue count in their place, and never more than their place. None
    where fewer than STEP in a row are decided. Wilson's interval; that the kept samples are finitely many
    would only make it narrower. A figure at a size that was chosen beforehand is unbiased; who stops as
    soon as they like what they see makes it less so.
    """
    about = {"run": run_id, "reviewer": reviewer}
    num = int(_select(asks, COUNT, {"reviewer": reviewer})[0]["n"]) + 1
    begin = "smp_" + hash_text(seed)[:20] if seed else ""
    rows = _select(asks, RANDOM.format(outcomes=outcomes_in(asks)), {**about, "num": num, "begin": begin})
    num_judged = next((at for at, row in enumerate(rows) if row["action"] is None), len(rows))
    turn = None
    if num_judged < len(rows):
        turn = Turn(rows[num_judged]["sample_id"], f"number {num_judged + 1} of the random order")
    size = num_judged // STEP * STEP
    if size == 0:
        return turn, None
    said = [row["action"] for row in rows[:size]]
    share = said.count("keep") / size
    counts = (said.count("keep"), said.count("edit"), said.count("drop"))
    return turn, Estimate(num_judged, size, *counts, share, *wilson(share, size))


def _unsure(found: list[dict[str, Any]], what: str, more: str) -> Turn | None:
    if not found:
        return None
    return Turn(found[0]["sample_id"], f"{what} {found[0]['value']:.1%}{more}")


def _select(asks: Selects, sql: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Named values as numbered ones, which is what a question over the socket can carry."""
    names = [name for name in values if f"${name}" in sql]
    for number, name in enumerate(sorted(names, key=len, reverse=True), 1):
        sql = sql.replace(f"${name}", f"${number}")
    return asks.select(sql, [values[name] for name in sorted(names, key=len, reverse=True)])
