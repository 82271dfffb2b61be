"""Everything that a report says about a run, read from the store into plain frozen values.

`collect` takes the newest run that is no control, together with its controls. Nothing is
computed that SQL does not show as well, nothing is formatted, and a run that is still going, or
was cut off, gives what is there. Rendering is in factory.report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from factory.accuracy import ModelResult, Paired, Selects, compare_last, read_results
from factory.agreement import Agreement, Judgement, read_agreement, read_judgements
from factory.errors import InputError
from factory.funnel import (
    Aim,
    Reason,
    Step,
    Yield,
    read_aims,
    read_json,
    read_reasons,
    read_steps,
    read_yields,
)
from factory.promotion import BY_HAND, InCharge, who_is_in_charge
from factory.refiner_findings import RefinerMeasure, read_refiner
from factory.spend import Spend, read_spend
from factory.store.queries import state_of
from factory.types import Json, digest


@dataclass(frozen=True)
class Run:
    """The run in its own words; `config_digest` covers recipe and profile as they were loaded."""

    id: str
    recipe: str
    title: str
    digest: str
    config_digest: str
    version: str
    started_at: str
    state: str


@dataclass(frozen=True)
class StageTime:
    """How long a stage took in all its attempts that ended; `label` is a round or a control."""

    label: str
    stage: str
    seconds: float


@dataclass(frozen=True)
class Gate:
    """A decision about promotion: the gate's with the numbers it rests on, or a person's with who and why."""

    label: str
    promote: bool
    reason: str
    evidence: Mapping[str, Json]


@dataclass(frozen=True)
class Dataset:
    """A frozen dataset and the measures that its guards took."""

    label: str
    id: str
    num_samples: int
    guards: Mapping[str, Json]


@dataclass(frozen=True)
class Report:
    """All findings of a run; `dataclasses.asdict` of it can be written as JSON."""

    run: Run
    slices: tuple[str, ...]
    models: tuple[ModelResult, ...]
    comparisons: tuple[Paired, ...]
    num_generated: int
    num_accepted: int
    num_undecided: int
    aims: tuple[Aim, ...]
    agreement: tuple[Agreement, ...]
    judgements: tuple[Judgement, ...]
    steps: tuple[Step, ...]
    reasons: tuple[Reason, ...]
    strategies: tuple[Yield, ...]
    slice_rounds: tuple[Yield, ...]
    spend: tuple[Spend, ...]
    gates: tuple[Gate, ...]
    in_charge: InCharge | None
    datasets: tuple[Dataset, ...]
    stages: tuple[StageTime, ...]
    refiner: RefinerMeasure | None


def collect(store: Selects, run_id: str | None = None) -> Report:
    """The findings of a run, by default the newest; raises InputError where the store holds none."""
    row = find_run(store, run_id)
    run_id = row["id"]
    controls = store.select(
        "SELECT id, control FROM runs WHERE control IS NOT NULL AND starts_with(id, ? || '_') "
        "ORDER BY started_at, id",
        (run_id,),
    )
    labels = {run_id: "", **{control["id"]: control["control"] for control in controls}}
    models = read_results(store, run_id, [control["id"] for control in controls])
    steps = read_steps(store, run_id)
    strategies = read_yields(store, run_id, "strategy")
    return Report(
        run=_run(store, row),
        slices=tuple(sorted({name for model in models for name in model.slices})),
        models=models,
        comparisons=compare_last(store, models),
        num_generated=sum(each.num_generated for each in strategies),
        num_accepted=sum(each.num_accepted for each in strategies),
        num_undecided=sum(each.num_generated - each.num_accepted - each.num_dropped for each in strategies),
        aims=read_aims(store, run_id),
        agreement=read_agreement(store, run_id),
        judgements=read_judgements(store, run_id),
        steps=steps,
        reasons=read_reasons(store, run_id),
        strategies=strategies,
        slice_rounds=read_yields(store, run_id, "slice", by_round=True),
        spend=read_spend(store, labels),
        gates=_gates(store, run_id),
        in_charge=who_is_in_charge(store, run_id),
        datasets=_datasets(store, labels),
        stages=_stages(store, labels),
        refiner=read_refiner(store, run_id),
    )


def find_run(store: Selects, run_id: str | None = None) -> dict[str, Any]:
    """The row of a run, by default of that which worked last and is no control; raises InputError.

    A run in which models were only asked by hand has no stage, and stands behind those that have: as the view
    `latest_run` has it, which files of older versions lack.
    """
    rows = store.select(
        """
        SELECT r.id, r.recipe, r.control, r.digest, r.config, r.version, epoch(r.started_at) AS started
        FROM runs r LEFT JOIN stages e ON e.run_id = r.id
        WHERE r.id = ? OR (?::VARCHAR IS NULL AND r.control IS NULL)
        GROUP BY ALL
        ORDER BY count(e.run_id) = 0, coalesce(max(e.created_at), max(r.started_at)) DESC, r.id LIMIT 1
        """,
        (run_id, run_id),
    )
    if not rows:
        what = f"no run '{run_id}' in this workspace" if run_id else "this workspace holds no run yet"
        raise InputError(
            what, hint="`factory status` lists what is there" if run_id else "start one with `factory run`"
        )
    return {**rows[0], "config": read_json(rows[0]["config"])}


def _run(store: Selects, row: Mapping[str, Any]) -> Run:
    last = store.select(
        "SELECT round, stage, status, detail->>'error' AS error FROM stages "
        "WHERE run_id = ? AND stage <> ? ORDER BY created_at DESC, rowid DESC LIMIT 1",
        (row["id"], BY_HAND),
    )
    state = "no stage yet"
    if last:
        state = f"round {last[0]['round']}, {last[0]['stage']}: {state_of(store, last[0]['status'])}"
        state += f" ({last[0]['error']})" if last[0]["error"] else ""
    title = (row["config"] or {}).get("domain", {}).get("title", row["recipe"])
    started_at = datetime.fromtimestamp(row["started"], UTC).isoformat(" ", "seconds")
    named = row["digest"], digest(row["config"]), row["version"]
    return Run(row["id"], row["recipe"], title, *named, started_at, state)


def _gates(store: Selects, run_id: str) -> tuple[Gate, ...]:
    rows = store.select(
        "SELECT round, detail FROM stages WHERE run_id = ? AND status = 'done' "
        "AND (stage = 'promote' OR stage = ?) ORDER BY created_at, rowid",
        (run_id, BY_HAND),
    )
    gates = []
    for row in rows:
        evidence = dict(read_json(row["detail"]) or {})
        if "who" in evidence:
            evidence |= {"promote": True, "reason": "by_hand"}
        promote, reason = bool(evidence.pop("promote", False)), str(evidence.pop("reason", ""))
        gates.append(Gate(f"round {row['round']}" if row["round"] else "base", promote, reason, evidence))
    return tuple(gates)


def _datasets(store: Selects, labels: Mapping[str, str]) -> tuple[Dataset, ...]:
    rows = store.select(
        "SELECT id, run_id, round, num_samples, guards FROM datasets "
        "WHERE list_contains(?::VARCHAR[], run_id) "
        "ORDER BY list_position(?::VARCHAR[], run_id), round",
        (list(labels), list(labels)),
    )
    return tuple(
        Dataset(
            labels[row["run_id"]] or f"round {row['round']}",
            row["id"],
            row["num_samples"],
            read_json(row["guards"]) or {},
        )
        for row in rows
    )


def _stages(store: Selects, labels: Mapping[str, str]) -> tuple[StageTime, ...]:
    """Seconds of each stage; an attempt that was killed has no end and counts for nothing."""
    rows = store.select(
        "SELECT run_id, round, stage, status, epoch(created_at) AS at FROM stages "
        "WHERE list_contains(?::VARCHAR[], run_id) "
        "ORDER BY list_position(?::VARCHAR[], run_id), round, created_at, rowid",
        (list(labels), list(labels)),
    )
    began: dict[tuple[str, str], float] = {}
    seconds: dict[tuple[str, str], float] = {}
    for row in rows:
        key = (labels[row["run_id"]] or (f"round {row['round']}" if row["round"] else "base"), row["stage"])
        if row["status"] == "started":
            began[key] = row["at"]
        elif key in began:
            seconds[key] = seconds.get(key, 0.0) + row["at"] - began.pop(key)
    return tuple(StageTime(label, stage, value) for (label, stage), value in seconds.items())
