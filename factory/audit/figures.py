"""The figures of the overview: what became of a run's samples, how scores lie, what was spent, where
slices stand.

Each is one question that counts within one table before it joins, so that a million samples take a moment.
Numbers come as they are, with the filters of the samples behind them; drawing is the template's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from factory.audit.access import Access
from factory.audit.filters import Filters
from factory.store.trace import outcomes_in

BINS: Final = 10
MAX_SLICES: Final = 60

STEPS = """SELECT step, refiner, action, reason, count(*) AS n, count(*) FILTER (final) AS num_final
           FROM {outcomes} WHERE run_id = ? GROUP BY ALL ORDER BY step, refiner, n DESC, reason"""
GENERATED = "SELECT count(DISTINCT sample_id) AS n FROM round_samples WHERE run_id = ?"
# In one pass for scores from 0 to 1, as most are; the others are counted again on a scale of their own.
UNIT = f"""SELECT metric, scorer, greatest(-1, least({BINS}, floor(value * {BINS})))::TINYINT AS bin,
                  count(value) AS n, count(*) - count(value) AS num_failed, sum(value) AS total,
                  min(value) AS low, max(value) AS high
           FROM scores WHERE run_id = ? AND (value IS NULL OR isfinite(value)) GROUP BY ALL
           ORDER BY scorer, metric"""  # noqa: S608 (numbers of ours)
SCALED = f"""SELECT greatest(0, least({BINS - 1}, floor((value - ?) / ?)))::TINYINT AS bin, count(*) AS n
             FROM scores WHERE run_id = ? AND metric = ? AND scorer = ? AND isfinite(value)
             GROUP BY bin"""  # noqa: S608 (numbers of ours)
SPEND = """SELECT stage, role, count(*) AS num_calls, count(*) FILTER (status = 'failed') AS num_failed,
                  sum(prompt_tokens)::BIGINT AS prompt_tokens,
                  sum(completion_tokens)::BIGINT AS completion_tokens,
                  sum(cost_dollars) AS dollars, sum(latency_ms) / 1000 AS seconds
           FROM calls WHERE run_id = ? GROUP BY stage, role ORDER BY stage, role"""
ACCEPTED = """SELECT s.slice, d.round, count(*) AS n FROM {outcomes} d JOIN samples s ON s.id = d.sample_id
              WHERE d.run_id = ? AND d.final AND d.action = 'keep' GROUP BY ALL"""
ACCURACY = """SELECT slice, round, accuracy, num_items FROM slice_progress
              WHERE run_id = ? AND split = 'dev' AND round IS NOT NULL ORDER BY slice, round"""
GUARDS = "SELECT id, round, num_samples, guards FROM datasets WHERE run_id = ? ORDER BY round, created_at"


@dataclass(frozen=True, slots=True)
class Row:
    """A step of the funnel; `left` of the generated samples were not dropped up to here."""

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
    rows = access.select(STEPS.format(outcomes=outcomes_in(access)), [run])
    steps: list[Row] = []
    left = generated
    for key in dict.fromkeys((row["step"], row["refiner"]) for row in rows):
        own = [row for row in rows if (row["step"], row["refiner"]) == key]
        count = {"keep": 0, "rewrite": 0, "drop": 0}
        for row in own:
            count[row["action"]] = count.get(row["action"], 0) + row["n"]
        left -= count["drop"]
        reasons = tuple(
            (
                row["action"],
                row["reason"],
                row["n"],
                Filters(run=run, step=key[1], did=row["action"], reason=row["reason"]),
            )
            for row in own
            if row["action"] != "keep"
        )
        filters = Filters(run=run, step=key[1])
        steps.append(Row(key[1], count["keep"], count["rewrite"], count["drop"], left, filters, reasons))
    kept = sum(row["num_final"] for row in rows if row["action"] == "keep")
    dropped = sum(row["num_final"] for row in rows if row["action"] == "drop")
    return Funnel(generated, kept, dropped, max(0, generated - kept - dropped), tuple(steps))


def read_histograms(access: Access, run: str) -> list[Histogram]:
    """Every score of a run in ten bins, from 0 to 1 where it lies there, else from least to greatest."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in access.select(UNIT, [run]):
        groups.setdefault((row["metric"], row["scorer"]), []).append(row)
    return [_histogram(access, run, *key, rows) for key, rows in groups.items()]


def _histogram(access: Access, run: str, metric: str, scorer: str, rows: list[dict[str, Any]]) -> Histogram:
    num_failed = sum(row["num_failed"] for row in rows)
    valued = [row for row in rows if row["low"] is not None]
    title = f"{metric} by {scorer}"
    if not valued:
        return Histogram(title, None, num_failed, ())
    low, high = min(row["low"] for row in valued), max(row["high"] for row in valued)
    mean = sum(row["total"] for row in valued) / sum(row["n"] for row in valued)
    counts: dict[int, int] = {}
    if 0 <= low <= high <= 1:
        low, high, width = 0.0, 1.0, 1 / BINS
        for row in valued:
            at = min(row["bin"], BINS - 1)
            counts[at] = counts.get(at, 0) + row["n"]
    else:
        width = (high - low) / BINS or 1.0
        found = access.select(SCALED, [low, width, run, metric, scorer])
        counts = {row["bin"]: row["n"] for row in found}
    most = max(counts.values())
    bins = []
    for at in range(BINS):
        start, end = low + at * width, low + (at + 1) * width
        filters = Filters(run=run, score=f"{metric}@{scorer}", at_least=f"{start:.12g}", sort="low")
        filters = replace(
            filters, **({"at_most": f"{high:.12g}"} if at == BINS - 1 else {"below": f"{end:.12g}"})
        )
        number = counts.get(at, 0)
        bins.append(Bin(start, end, number, 100 * number / most, filters))
    return Histogram(title, mean, num_failed, tuple(bins))


def read_spend(access: Access, run: str) -> list[dict[str, Any]]:
    """Calls, tokens and dollars of a run by stage and role."""
    return access.select(SPEND, [run])


def read_slices(access: Access, run: str) -> tuple[list[int], list[SliceRow]]:
    """The rounds, and the slices of a run with what they have in each."""
    accepted: dict[str, dict[int, int]] = {}
    for row in access.select(ACCEPTED.format(outcomes=outcomes_in(access)), [run]):
        accepted.setdefault(row["slice"], {})[row["round"]] = row["n"]
    accuracy: dict[str, dict[int, float]] = {}
    for row in access.select(ACCURACY, [run]):
        accuracy.setdefault(row["slice"], {})[row["round"]] = row["accuracy"]
    rounds = sorted(
        {*(n for each in accepted.values() for n in each), *(n for each in accuracy.values() for n in each)}
    )
    names = sorted({*accepted, *accuracy})[:MAX_SLICES]
    return rounds, [
        SliceRow(
            name, accepted.get(name, {}), accuracy.get(name, {}), Filters(run=run, slice=name, fate="kept")
        )
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
