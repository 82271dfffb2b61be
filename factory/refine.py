"""One round's samples through the refiners: batch by batch, step by step, until each is settled.

A sample that a step drops or rewrites is settled there; one that the last step keeps is accepted.
The rewrite is a sample of its own: it starts again at the first step, so that every check sees what
was edited, but no model that its line of descent has met already is asked again. What is stored is
never decided anew: running it again goes on with what is open. What to check is the refiners' matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from factory.errors import FactoryError
from factory.ports import Ask, OnProgress, Refiner
from factory.store.rows import decision_rows, sample_from_row, sample_rows
from factory.types import Decision, Sample

if TYPE_CHECKING:
    from factory.store.store import Store

Steps = Sequence[tuple[str, Refiner]]
MAX_REWRITES = 3  # in one line of descent; a rewriter that never comes to rest is stopped here
BATCH_SIZE = 128

DECIDED = "SELECT DISTINCT sample_id FROM decisions WHERE run_id = ?"
STORED = """
    SELECT sample_id, step, rewrite_id, final FROM decisions
    WHERE run_id = ? AND sample_id = ANY(?) ORDER BY sample_id, step"""
SAMPLES = """
    SELECT s.*, (SELECT list({{'id': e.parent, 'relation': e.relation}} ORDER BY e.relation, e.parent)
                 FROM edges e WHERE e.child = s.id) AS parents
    FROM samples s WHERE {where}"""
PASSED = SAMPLES.format(
    where="""s.id IN (SELECT sample_id FROM decisions WHERE run_id = ? AND step = ? AND action <> 'drop')
    ORDER BY s.round, s.id"""
)

DECIDED_AT = """
    SELECT s.*, (SELECT list({'id': e.parent, 'relation': e.relation} ORDER BY e.relation, e.parent)
                 FROM edges e WHERE e.child = s.id) AS parents
    FROM samples s JOIN decisions d ON d.sample_id = s.id
    WHERE d.run_id = ? AND d.step = ? ORDER BY d.created_at"""


@dataclass(slots=True)
class _Open:
    """A sample on its way: the step it comes to next, and what its line of descent went through."""

    sample: Sample
    next_step: int = 0
    asked_through: int = -1  # models up to this step have seen an ancestor
    num_rewrites: int = 0
    settled: bool = False
    original: Sample | None = None  # that it was rewritten from


@dataclass(slots=True)
class _Outcome:
    """What a batch came to, in the order in which it happened."""

    children: list[Sample] = field(default_factory=list)
    decisions: list[tuple[int, Decision, bool]] = field(default_factory=list)  # step, decision, final


async def refine_round(
    store: Store,
    run_id: str,
    round_number: int,
    refiners: Steps,
    samples: Iterable[Sample],
    ask: Ask,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Counter[str]:
    """Settles every sample of a round; returns how many were kept, rewritten and dropped just now.

    `samples` are those the generators made, in the same order each time, all of them stored. Errors of a
    refiner, such as EndpointError, end it; finished batches stay, the others are open and come again.
    """
    refining = Refining(store, run_id, round_number, refiners)
    counts: Counter[str] = Counter()
    num_done, remaining = 0, iter(samples)
    while batch := list(islice(remaining, batch_size)):
        counts += await refining.settle(batch, ask)
        num_done += len(batch)
        if on_progress:
            on_progress(
                num_done, num_done, ", ".join(f"{action} {n}" for action, n in sorted(counts.items()))
            )
    return counts


class Refining:
    """The refiners of a run at work on one round; one object at a time for each run.

    They are opened over the samples that each let pass so far in this run. These are more than the accepted
    ones: with what later steps dropped or rewrote, a run that was cut off decides as one that was not. One
    that learns from what it drops too offers `replay` and gets all that it decided about, in that order.
    Samples with a decision are known by their ids, so that a new one costs no question to the database.
    """

    def __init__(self, store: Store, run_id: str, round_number: int, refiners: Steps) -> None:
        self.refiners = refiners
        self._store, self._run_id, self._round = store, run_id, round_number
        self._decided = {row["sample_id"] for row in store.stream(DECIDED, (run_id,))}
        for step, (_, refiner) in enumerate(refiners):
            replay = getattr(refiner, "replay", None)
            sql, take = (DECIDED_AT, replay) if replay else (PASSED, refiner.open)
            take(map(sample_from_row, _stream(store, sql, (run_id, step))))

    async def settle(self, batch: Sequence[Sample], ask: Ask) -> Counter[str]:
        """Settles some samples; returns how many were kept, rewritten and dropped.

        The same samples in the same batches are decided the same, whether or not some are settled already.
        """
        waiting = self._unsettled(batch)
        outcome = _Outcome()
        while waiting:
            waiting = await _run_steps(self.refiners, waiting, ask, outcome)
        _write(self._store, self._run_id, self._round, outcome)
        self._decided.update(decision.sample_id for _, decision, _ in outcome.decisions)
        return Counter(decision.action for _, decision, final in outcome.decisions if final)

    def _unsettled(self, batch: Iterable[Sample]) -> list[_Open]:
        """Those of a batch that have no final decision, and the stored rewrites that have none."""
        waiting = list({sample.id: _Open(sample) for sample in batch}.values())
        unsettled: list[_Open] = []
        while waiting:
            stored = self._stored(waiting)
            rewritten: dict[str, _Open] = {}
            for item in waiting:
                last = stored.get(item.sample.id)
                if last is None or not last["final"]:
                    unsettled.append(replace(item, next_step=last["step"] + 1 if last else 0))
                elif last["rewrite_id"]:
                    rewritten[last["rewrite_id"]] = _heir(item, item.sample, last["step"])
            waiting = []
            if rewritten:
                for row in self._store.select(SAMPLES.format(where="s.id = ANY(?)"), (list(rewritten),)):
                    waiting.append(replace(rewritten[row["id"]], sample=sample_from_row(row)))
        return unsettled

    def _stored(self, waiting: Iterable[_Open]) -> dict[str, dict[str, Any]]:
        """The latest decision about each sample that has one, by the sample's id."""
        ids = [item.sample.id for item in waiting if item.sample.id in self._decided]
        if not ids:
            return {}
        return {row["sample_id"]: row for row in self._store.select(STORED, (self._run_id, ids))}


def _stream(store: Store, sql: str, params: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Rows of a query that is not run before the first is wanted."""
    yield from store.stream(sql, params)


def _heir(item: _Open, child: Sample, step: int) -> _Open:
    """The rewrite that takes a sample's place, at the first step again."""
    return _Open(child, 0, max(item.asked_through, step), item.num_rewrites + 1, original=item.sample)


async def _run_steps(refiners: Steps, waiting: Sequence[_Open], ask: Ask, outcome: _Outcome) -> list[_Open]:
    """Takes samples through all steps; returns the rewrites that came of it."""
    rewrites: list[_Open] = []
    for step, (name, refiner) in enumerate(refiners):
        due = [item for item in waiting if not item.settled and step in _steps_of(item, refiners)]
        if not due:
            continue
        decisions = await _decide(refiner, due, ask)
        _check(name, due, decisions)
        for item, given in zip(due, decisions, strict=True):
            decision = _bounded(item, given)
            item.settled = decision.action != "keep" or step == _steps_of(item, refiners)[-1]
            outcome.decisions.append((step, decision, item.settled))
            if decision.rewrite:
                outcome.children.append(decision.rewrite)
                rewrites.append(_heir(item, decision.rewrite, step))
    for item in waiting:
        if not item.settled:  # nothing was there to check it
            step = item.next_step
            outcome.decisions.append((step, Decision(item.sample.id, "none", "keep", "unchecked"), True))
    return rewrites


async def _decide(refiner: Refiner, due: Sequence[_Open], ask: Ask) -> list[Decision]:
    samples = [item.sample for item in due]
    compare: Callable[..., Awaitable[list[Decision]]] | None = getattr(refiner, "compare", None)
    if compare is None:
        return await refiner.refine(samples, ask)
    return await compare(samples, [item.original for item in due], ask)


def _steps_of(item: _Open, refiners: Steps) -> list[int]:
    """The steps that a sample has yet to take."""
    return [
        step
        for step, (_, refiner) in enumerate(refiners)
        if step >= item.next_step and not (refiner.uses_model and step <= item.asked_through)
    ]


def _check(name: str, due: Sequence[_Open], decisions: Sequence[Decision]) -> None:
    """Raises FactoryError where a refiner breaks its contract."""
    if [item.sample.id for item in due] != [decision.sample_id for decision in decisions]:
        raise FactoryError(
            f"refiner '{name}' did not decide once about each sample in order",
            hint=f"{len(due)} samples went in, {len(decisions)} decisions came out",
        )
    if any((decision.action == "rewrite") != (decision.rewrite is not None) for decision in decisions):
        raise FactoryError(f"refiner '{name}' must give a rewrite with action 'rewrite', and only then")


def _bounded(item: _Open, decision: Decision) -> Decision:
    if decision.action == "rewrite" and item.num_rewrites >= MAX_REWRITES:
        return replace(decision, action="drop", reason="rewritten_too_often", rewrite=None)
    return decision


def _write(store: Store, run_id: str, round_number: int, outcome: _Outcome) -> None:
    """Appends a batch so that any beginning of it makes sense: edges, rewrites, scores, decisions."""
    rows, edges = sample_rows(outcome.children, run_id, round_number)
    decisions: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    for step, decision, final in outcome.decisions:
        final_ids = {decision.sample_id} if final else set()
        made, measured = decision_rows([decision], run_id, round_number, step, final_ids)
        decisions += made
        scores += measured
    store.append("edges", edges)
    store.append("samples", rows)
    store.append("scores", scores)
    store.append("decisions", decisions)
