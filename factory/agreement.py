"""How far people, steps and the judge say the same of the same samples, and what the judge said at all.

The agreement is that of the view `agreement`; here are its rows for a run, and the judge's scores in sum.
People come in through `verdicts`. Nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass

from factory.accuracy import Selects


@dataclass(frozen=True)
class Agreement:
    """People against a decision, a step's decisions, the judge's scores, or one reviewer against another.

    `agreement` is a share; `kappa` (with 95 % bounds) is Cohen's, None where chance alone explains all.
    """

    kind: str  # decision, step, score or reviewer
    name: str
    num_items: int
    num_agreed: int
    agreement: float
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None


@dataclass(frozen=True)
class Judgement:
    """One of the judge's metrics over a run: how many samples have it, how many should and do not."""

    metric: str
    model_id: str
    num_scored: int
    num_failed: int
    mean: float | None


def read_agreement(store: Selects, run_id: str) -> tuple[Agreement, ...]:
    """Everything about a run and between reviewers; nothing where the file is older than the view."""
    if not store.select("SELECT 1 FROM information_schema.tables WHERE table_name = 'agreement'"):
        return ()
    rows = store.select(
        """SELECT * EXCLUDE (run_id) FROM agreement WHERE run_id = ? OR run_id IS NULL
           ORDER BY list_position(['decision', 'step', 'score', 'reviewer'], kind), name""",
        (run_id,),
    )
    return tuple(Agreement(**row) for row in rows)


def read_judgements(store: Selects, run_id: str) -> tuple[Judgement, ...]:
    """The judge's metrics in a run, by model."""
    rows = store.select(
        """SELECT metric, coalesce(model_id, '') AS model_id, count(value) AS num_scored,
                  count(*) - count(value) AS num_failed, avg(value) AS mean
           FROM scores WHERE run_id = ? AND scorer = 'judge' GROUP BY metric, model_id
           ORDER BY metric, model_id""",
        (run_id,),
    )
    return tuple(Judgement(**row) for row in rows)
