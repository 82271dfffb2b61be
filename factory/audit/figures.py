"""The figures of the overview: what became of a run's samples, how scores lie, what was spent, where slices stand.

Each is one question that counts within one table before it joins, so that a million samples take a moment. Numbers
come as they are, with the filters of the samples behind them; drawing is the template's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from factory.audit.access import Access
from factory.audit.filters import Filters

BINS: Final = 10
MAX_SLICES: Final = 60

STEPS = """SELECT step, refiner, action, reason, count(*) AS n, count(*) FILTER (final) AS num_final
           FROM decisions WHERE run_id = ? GROUP BY ALL ORDER BY step, refiner, n DESC, reason"""
GENERATED = "SELECT count(DISTINCT sample_id) AS n FROM round_samples WHERE run_id = ?"
RANGES = """SELECT metric, scorer, count(value) AS n, count(*) - count(value) AS num_failed, avg(value) AS mean,
                   min(value) FILTER (isfinite(value)) AS low, max(value) FILTER (isfinite(value)) AS high
            FROM scores WHERE run_id = ? GROUP BY metric, scorer ORDER BY scorer, metric"""
BINNED = f"""WITH r AS (SELECT unnest(?::STRUCT(metric VARCHAR, scorer VARCHAR, low DOUBLE, width DOUBLE)[], recursive := true))
             SELECT s.metric, s.scorer,
                    greatest(0, least({BINS - 1}, floor((s.value - r.low) / r.width)))::INTEGER AS bin, count(*) AS n
             FROM scores s JOIN r ON r.metric = s.metric AND r.scorer = s.scorer
             WHERE s.run_id = ? AND isfinite(s.value) GROUP BY ALL"""  # noqa: S608 (numbers of ours)
SPEND = """SELECT stage, role, count(*) AS num_calls, count(*) FILTER (status = 'failed') AS num_failed,
                  sum(prompt_tokens)::BIGINT AS prompt_tokens, sum(completion_tokens)::BIGINT AS completion_tokens,
                  sum(cost_dollars) AS dollars, sum(latency_ms) / 1000 AS seconds
           FROM calls WHERE run_id = ? GROUP BY stage, role ORDER BY stage, role"""
ACCEPTED = """SELECT s.slice, d.round, count(*) AS n FROM decisions d JOIN samples s ON s.id = d.sample_id
              WHERE d.run_id = ? AND d.final AND d.action = 'keep' GROUP BY ALL"""
ACCURACY = """SELECT slice, round, accuracy, num_items FROM slice_progress
              WHERE run_id = ? AND split = 'dev' ORDER BY slice, round"""
GUARDS = "SELECT id, round, num_samples, guards FROM datasets WHERE run_id = ? ORDER BY round, created_at"


@dataclass(frozen=True, slots=True)
class Row:
    """A step of the funnel, or a reason of one; `left` of the generated samples were not dropped up to here."""

    name: str
    num_kept: int
    num_rewritten: int
    num_dropped: int
    left: int
    filters: Filters
    reasons: tuple[tuple[str, str, int, Filters], ...] = ()  # action, reason, number


@dataclass(frozen=True, slots=True)
class Bin:
    """Samples whose score lies from `low` to `high`; `height` in percent of the fullest bin."""

    low: float
    high: float
    num_samples: int
    height: float
    filters: Filters


@dataclass(frozen=True, slots=True)
class Histogram:
    """How the values of a score lie."""

    name: str
    mean: float | None
    num_failed: int
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class SliceRow:
    """A slice: accepted samples and accuracy on the dev split, by round."""

    name: str
    accepted: Mapping[int, int]
    accuracy: Mapping[int, float]
    filters: Filters


@dataclass(frozen=True, slots=True)
class Funnel:
    """What became of the generated samples of a run."""

    num_generated: int
    num_kept: int
    num_dropped: int
    num_undecided: int
    steps: tuple[Row, ...]


def read_funnel(access: Access, run: str) -> Funnel:
    """The steps of a run in order, with their reasons."""
    generated = int(access.select(GENERATED, [run])[0]["n"])
    rows = access.select(STEPS, [run])
    steps: list[Row] = []
    left = generated
    for key in dict.fromkeys((row["step"], row["refiner"]) for row in rows):
        own = [row for row in rows if (row["step"], row["refiner"]) == key]
        count = {action: sum(row["n"] for row in own if row["action"] == action) for action in
                 ("keep", "rewrite", "drop")}  # fmt: skip
        left -= count["drop"]
        reasons = tuple(
            (row["action"], row["reason"], row["n"], Filters(run=run, step=key[1], did=row["action"], reason=row["reason"]))
            for row in own
            if row["action"] != "keep"
        )
        filters = Filters(run=run, step=key[1])
        steps.append(Row(key[1], count["keep"], count["rewrite"], count["drop"], left, filters, reasons))
    kept = sum(row["num_final"] for row in rows if row["action"] == "keep")
    dropped = sum(row["num_final"] for row in rows if row["action"] == "drop")
    return Funnel(generated, kept, dropped, max(0, generated - kept - dropped), tuple(steps))


def read_histograms(access: Access, run: str) -> list[Histogram]:
    """Every score of a run in ten bins: from 0 to 1 where it lies there, else from its least to its greatest."""
    ranges = access.select(RANGES, [run])
    scales = []
    for row in ranges:
        if row["low"] is None:
            continue
        low, high = (0.0, 1.0) if 0 <= row["low"] <= row["high"] <= 1 else (row["low"], row["high"])
        width = (high - low) / BINS or 1.0
        scales.append({"metric": row["metric"], "scorer": row["scorer"], "low": low, "width": width})
    counts: dict[tuple[str, str], dict[int, int]] = {}
    for row in access.select(BINNED, [scales, run]) if scales else ():
        counts.setdefault((row["metric"], row["scorer"]), {})[row["bin"]] = row["n"]
    about = {(row["metric"], row["scorer"]): row for row in ranges}
    found = []
    for scale in scales:
        key = (scale["metric"], scale["scorer"])
        own = counts.get(key, {})
        most = max(own.values(), default=1)
        bins = tuple(_bin(run, scale, at, own.get(at, 0), most) for at in range(BINS))
        found.append(Histogram(f"{key[0]} by {key[1]}", about[key]["mean"], about[key]["num_failed"], bins))
    return found


def _bin(run: str, scale: Mapping[str, Any], at: int, number: int, most: int) -> Bin:
    low, high = scale["low"] + at * scale["width"], scale["low"] + (at + 1) * scale["width"]
    score = f"{scale['metric']}@{scale['scorer']}"
    filters = Filters(run=run, score=score, at_least=f"{low:.6g}", at_most=f"{high:.6g}", sort="low")
    return Bin(low, high, number, 100 * number / most, filters)


def read_spend(access: Access, run: str) -> list[dict[str, Any]]:
    """Calls, tokens and dollars of a run by stage and role."""
    return access.select(SPEND, [run])


def read_slices(access: Access, run: str) -> tuple[list[int], list[SliceRow]]:
    """The rounds, and the slices of a run with what they have in each."""
    accepted: dict[str, dict[int, int]] = {}
    for row in access.select(ACCEPTED, [run]):
        accepted.setdefault(row["slice"], {})[row["round"]] = row["n"]
    accuracy: dict[str, dict[int, float]] = {}
    for row in access.select(ACCURACY, [run]):
        accuracy.setdefault(row["slice"], {})[row["round"]] = row["accuracy"]
    rounds = sorted({number for each in [*accepted.values(), *accuracy.values()] for number in each})
    names = sorted({*accepted, *accuracy})[:MAX_SLICES]
    return rounds, [
        SliceRow(name, accepted.get(name, {}), accuracy.get(name, {}), Filters(run=run, slice=name, fate="kept"))
        for name in names
    ]


def read_guards(access: Access, run: str) -> tuple[list[str], list[dict[str, Any]]]:
    """The measures that guards took of each frozen dataset, and the datasets with their values."""
    rows = access.select(GUARDS, [run])
    for row in rows:
        row["measures"] = dict(_flat(json.loads(row["guards"] or "{}")))
        row["filters"] = Filters(dataset=row["id"])
    return list(dict.fromkeys(name for row in rows for name in row["measures"])), rows


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, each in value.items():
        found += _flat(each, f"{prefix}{key} ") if isinstance(each, Mapping) else [(f"{prefix}{key}", each)]
    return found
