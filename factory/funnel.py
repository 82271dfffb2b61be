"""What became of the samples of a run: the refiners' funnel, its reasons, and yields.

All numbers are counts of `round_samples` and `outcomes`: decisions, and what selection made of those that
passed, as a last step. Of the generated samples every one is accepted, dropped, or not decided yet; a
rewritten one lives on in the sample that took its place, so rewriting changes no total. What it all cost
and gave is not here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from factory.accuracy import Selects
from factory.conversation import shown_turn
from factory.store.trace import outcomes_in
from factory.types import Json

NUM_EXAMPLES = 2
EXAMPLE_CHARS = 300


@dataclass(frozen=True)
class Step:
    """One refiner of the main run, or its selection.

    `num_left` of the generated samples were not dropped up to here.
    """

    step: int
    refiner: str
    num_in: int
    num_kept: int
    num_rewritten: int
    num_dropped: int
    num_left: int


@dataclass(frozen=True)
class Example:
    """A sample behind a number, cut to a few hundred characters; `became` is its rewritten answer.

    Of a conversation that is one turn: the first that was rewritten, or the last.
    """

    sample_id: str
    question: str
    answer: str
    became: str


@dataclass(frozen=True)
class Reason:
    """Why samples were dropped or rewritten at a step."""

    step: int
    refiner: str
    action: str
    reason: str
    num_samples: int
    examples: tuple[Example, ...]


@dataclass(frozen=True)
class Yield:
    """What became of the samples of a strategy, or of a slice in a round; `round` 0: all rounds."""

    name: str
    round: int
    num_generated: int
    num_rewritten: int
    num_dropped: int
    num_accepted: int


@dataclass(frozen=True)
class Aim:
    """A round that was asked for accepted samples, and what it came to when it last ended.

    `num_reached` are those that were good enough, surplus included; `missing` by slice. The spend is what
    generation and refinement paid for, the forecast what was expected of them at `assumed_yield`.
    """

    round: int
    num_wanted: int
    num_accepted: int
    missing: Mapping[str, int]
    given_up: tuple[str, ...]
    num_waves: int
    num_generated: int
    num_reached: int
    assumed_yield: float
    calls: int
    tokens: int
    dollars: float
    forecast_calls: int
    forecast_tokens: int
    forecast_dollars: float


def read_aims(store: Selects, run_id: str) -> tuple[Aim, ...]:
    """Every round of a run that had a target and has ended, in order."""
    rows = store.select(
        """
        SELECT e.round, e.detail, (SELECT {'calls': coalesce(sum(attempts), 0),
            'tokens': coalesce(sum(prompt_tokens + completion_tokens), 0),
            'dollars': coalesce(sum(cost_dollars), 0)} FROM calls c
            WHERE c.run_id = e.run_id AND c.round = e.round AND c.stage IN ('generate', 'refine')) AS spent
        FROM stages e WHERE e.run_id = ? AND e.stage = 'generate' AND (e.detail->'forecast') IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY e.round ORDER BY e.created_at DESC, e.rowid DESC) = 1
        ORDER BY e.round
        """,
        (run_id,),
    )
    return tuple(_aim(row["round"], read_json(row["detail"]), read_json(row["spent"])) for row in rows)


def _aim(number: int, detail: Mapping[str, Any], spent: Mapping[str, Any]) -> Aim:
    forecast = detail["forecast"]
    return Aim(
        number,
        sum(detail["allocation"].values()),
        detail["accepted"],
        detail["missing"],
        tuple(f"{strategy} in {slice}" for strategy, slice in detail["given_up"]),
        detail["waves"],
        detail["generated"],
        detail["reached"],
        forecast["yield"],
        int(spent["calls"]),
        int(spent["tokens"]),
        float(spent["dollars"]),
        *(forecast[name] for name in ("calls", "tokens", "dollars")),
    )


def read_json(value: Json) -> Json:
    """A column's value, which arrives as text or parsed."""
    return json.loads(value) if isinstance(value, str) else value


def read_steps(store: Selects, run_id: str) -> tuple[Step, ...]:
    """The refiners of a run in order, with what each kept, rewrote and dropped."""
    rows = store.select(
        f"""
        SELECT step, refiner, count(*) AS num_in, count(*) FILTER (action = 'keep') AS num_kept,
               count(*) FILTER (action = 'rewrite') AS num_rewritten,
               count(*) FILTER (action = 'drop') AS num_dropped
        FROM {outcomes_in(store)} WHERE run_id = ? GROUP BY step, refiner ORDER BY step
        """,  # noqa: S608 - one of two literals
        (run_id,),
    )
    generated = store.select(
        "SELECT count(DISTINCT sample_id) AS n FROM round_samples WHERE run_id = ?", (run_id,)
    )
    num_left, steps = int(generated[0]["n"]), []
    for row in rows:
        num_left -= row["num_dropped"]
        steps.append(Step(num_left=num_left, **row))
    return tuple(steps)


def read_yields(store: Selects, run_id: str, column: str, by_round: bool = False) -> tuple[Yield, ...]:
    """Generated, rewritten, dropped and accepted samples by a column of `samples` and, if asked, by round."""
    if column not in {"strategy", "slice"}:
        raise ValueError(column)
    rows = store.select(
        f"""
        WITH found AS (
            SELECT DISTINCT sample_id, round, 'generated' AS action FROM round_samples WHERE run_id = ?
            UNION ALL SELECT sample_id, round, action FROM {outcomes_in(store)} WHERE run_id = ? AND final
        )
        SELECT s.{column} AS name, {"f.round" if by_round else "0"} AS round,
               count(*) FILTER (f.action = 'generated') AS num_generated,
               count(*) FILTER (f.action = 'rewrite') AS num_rewritten,
               count(*) FILTER (f.action = 'drop') AS num_dropped,
               count(*) FILTER (f.action = 'keep') AS num_accepted
        FROM found f JOIN samples s ON s.id = f.sample_id GROUP BY ALL ORDER BY ALL
        """,  # noqa: S608 - column and view are each one of two literals
        (run_id, run_id),
    )
    return tuple(Yield(**row) for row in rows)


def read_reasons(store: Selects, run_id: str) -> tuple[Reason, ...]:
    """Why samples were dropped or rewritten, by step, with a few examples each."""
    rows = store.select(
        f"""
        SELECT d.step, d.refiner, d.action, d.reason, d.sample_id, s.messages, r.messages AS rewritten,
               count(*) OVER same AS num_samples
        FROM {outcomes_in(store)} d JOIN samples s ON s.id = d.sample_id
        LEFT JOIN samples r ON r.id = d.rewrite_id
        WHERE d.run_id = ? AND d.action <> 'keep'
        WINDOW same AS (PARTITION BY d.step, d.refiner, d.action, d.reason)
        QUALIFY row_number() OVER (same ORDER BY d.sample_id) <= ?
        ORDER BY d.step, d.refiner, d.action, num_samples DESC, d.reason, d.sample_id
        """,  # noqa: S608 - one of two literals
        (run_id, NUM_EXAMPLES),
    )
    examples: dict[tuple[Any, ...], list[Example]] = {}
    for row in rows:
        key = (row["step"], row["refiner"], row["action"], row["reason"], row["num_samples"])
        turn = shown_turn(json.loads(row["messages"]), json.loads(row["rewritten"] or "[]"))
        example = Example(row["sample_id"], *(text[:EXAMPLE_CHARS] for text in turn))
        examples.setdefault(key, []).append(example)
    return tuple(
        Reason(step, refiner, action, reason, num_samples, tuple(found))
        for (step, refiner, action, reason, num_samples), found in examples.items()
    )
