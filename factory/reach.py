"""Makes the samples of a round with a target, wave after wave: exactly so many, or as many as there can be.

What a wave asks for (`factory.waves`) follows from the decisions about earlier waves and is stored before it
begins, as an `allocate` event, so that a run which was cut off does the same again. While one wave is
refined the next one is generated; refinement goes wave by wave, each in the order of its plan. It ends when
nothing is missing, when nothing more comes, or when the budget is spent; then what is there is settled.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from factory.afford import num_affordable
from factory.allocate import allocate
from factory.asking import bound_refiners
from factory.bench import Bench
from factory.embedding.account import Account
from factory.embedding.options import Embedder, ServerEmbedder, create_embedder
from factory.errors import BudgetExceeded, FactoryError
from factory.evaluations import slice_states
from factory.failures import FailureRule
from factory.feed import Feed
from factory.forecast import forecast_round
from factory.making import (
    POSITIONS,
    SAMPLES_PER_TASK,
    can_overlap,
    consume,
    count_actions,
    count_round,
    produce,
    run_together,
)
from factory.refine import Refining
from factory.sending import window_of
from factory.strategies import Strategies
from factory.target import STEP, Target, num_accepted, num_missing, num_reached, refuse_if_missed
from factory.types import Task
from factory.watch import Watch
from factory.waves import ASSUMED_YIELD, Cell, Plan, Waves, cells_of, shrink

STORED = """
    SELECT DISTINCT (detail->>'wave')::INTEGER AS wave, detail->'tasks' AS tasks FROM stages
    WHERE run_id = ? AND round = ? AND stage = 'allocate' AND status = 'done' ORDER BY wave"""


@dataclass(slots=True)
class _Wave:
    """A wave under way; `tasks` are in order, spread over slices and strategies in proportion."""

    number: int
    plan: Plan
    tasks: list[Task]
    feed: Feed
    failures: Counter[str] = field(default_factory=Counter)


async def reach(bench: Bench, number: int) -> None:
    """Makes and settles the samples of a round with a target; done when there are exactly so many.

    Raises TargetMissed where samples are missing; the same command tries again.
    """
    if bench.done(number, "generate") is not None and bench.done(number, "refine") is not None:
        return
    name = f"{bench.label(number)} generate and refine"
    with (
        bench.stage(number, "generate") as made,
        bench.stage(number, "refine") as refined,
        bench.progress.stage(name, bench.recipe.loop.accepted, "accepted") as shown,
    ):
        watch = Watch(bench.engine, shown, by_accepted=True)
        reaching = _Reaching(bench, number, watch)
        made["allocation"] = reaching.targets
        shown.update(0, sum(reaching.waves.targets.values()))
        made["forecast"] = {"yield": ASSUMED_YIELD, **forecast_round(bench.domain)}
        try:
            await reaching.run()
        finally:
            made.update(reaching.summary())
            refined["actions"] = count_actions(bench, number)
            watch.show(now=True)
        refuse_if_missed(bench, number, reaching.targets, reaching.spent)


class _Reaching:
    """The waves of one round; two at once, or one where generating and refining take turns.

    `targets` are the samples that each slice must have. The waves are for as many, or with a selection for
    as many as these are chosen from.
    """

    def __init__(self, bench: Bench, number: int, watch: Watch) -> None:
        self.bench, self.number, self.watch = bench, number, watch
        self.strategies = Strategies(bench.generators())
        spec, slices = bench.recipe.loop, sorted(self.strategies.slices)
        self.targets = allocate(spec.accepted or 0, slices, slice_states(bench, number), spec.slice_floor)
        candidates = {slice: spec.num_candidates(num) for slice, num in self.targets.items()}
        weights, served = self.strategies.weights, self.strategies.served
        self.waves = Waves.create(candidates, weights, served, self.strategies.num_samples)
        account = Account.of(bench, number)
        target = Target(num_missing(bench, number, candidates), _embedder(bench, account))
        refiners = [*bound_refiners(bench, number, account), (STEP, target)]
        self._refining = Refining(bench.store, bench.run_id, number, refiners)
        self.overlaps = can_overlap(bench.recipe)
        self.rule = FailureRule(spec.max_failure_share)
        self.spent: BudgetExceeded | None = None
        self._under_way: deque[tuple[_Wave, asyncio.Task[None]]] = deque()
        self._streams: dict[Cell, Iterator[Task]] = {}
        rows = bench.store.select(STORED, (bench.run_id, number))
        self._stored: list[Plan] = [json.loads(row["tasks"]) for row in rows]
        self._num_waves = 0
        self._told: set[Cell] = set()

    async def run(self) -> None:
        """Wave after wave."""
        self.watch.refined(Counter(count_actions(self.bench, self.number)))
        try:
            while not self.spent:
                plan = self._next_plan()
                if plan:
                    self._begin(plan)
                if not self._under_way:
                    break
                if not plan or len(self._under_way) > self.overlaps:
                    await self._end_first()
            while self._under_way:
                await self._end_first()
        finally:
            left = [work for _, work in self._under_way]
            for work in left:
                work.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def summary(self) -> dict[str, object]:
        """What the stage's event says of the round."""
        where = self.bench, self.number
        accepted = num_accepted(*where)
        return {
            "generated": count_round(*where),
            "reached": sum(num_reached(*where, self._num_waves * POSITIONS).values()),
            "accepted": sum(min(num, accepted.get(slice, 0)) for slice, num in self.targets.items()),
            "missing": num_missing(*where, self.targets),
            "waves": self._num_waves,
            "given_up": [list(cell) for cell in self.waves.given_up()],
        }

    def _next_plan(self) -> Plan:
        """The stored plan of the next wave, or a new one, which is stored; empty where none is needed."""
        if self._num_waves < len(self._stored):
            return self._stored[self._num_waves]
        plan = self.waves.next_plan()
        if plan:
            counts = self.waves.num_decided, self.waves.num_under_way
            affordable = num_affordable(self.bench, self.number, *counts)
            plan = shrink(plan, affordable.num_tasks)
            if not plan and not self._under_way:
                self.spent = self.bench.engine.budget.exceeded(affordable.limit)
        if plan:
            self.bench.event(self.number, "allocate", "done", {"wave": self._num_waves, "tasks": plan})
        return plan

    def _begin(self, plan: Plan) -> None:
        streams = [self._take(cell, num) for cell, num in cells_of(plan).items()]
        places = [(index / len(stream), task) for stream in streams for index, task in enumerate(stream)]
        tasks = [task for _, task in sorted(places, key=lambda place: place[0])]
        wave = _Wave(self._num_waves, plan, tasks, Feed(window=window_of(len(tasks))))
        before = self._under_way[-1][1] if self._under_way else None
        self._under_way.append((wave, asyncio.create_task(self._make(wave, before))))
        self._num_waves += 1
        self.waves.launch(plan)

    def _take(self, cell: Cell, num: int) -> list[Task]:
        if cell not in self._streams:
            self._streams[cell] = self.strategies.stream(*cell, self.number)
        return list(islice(self._streams[cell], num))

    async def _make(self, wave: _Wave, before: asyncio.Task[None] | None) -> None:
        """Generates a wave, and refines it after the one before."""
        if self.overlaps:
            await run_together(self._generate(wave), self._refine(wave, before))
        else:
            wave.feed.num_ahead = len(wave.tasks) * SAMPLES_PER_TASK  # it is all held
            await self._generate(wave)
            await self._refine(wave, before)

    async def _generate(self, wave: _Wave) -> None:
        start = wave.number * POSITIONS
        plan = ((start + index * SAMPLES_PER_TASK, task) for index, task in enumerate(wave.tasks))
        to = self.bench, self.number, self.strategies
        try:
            await produce(*to, plan, wave.feed, self.watch, wave.failures, self.rule)
        except BudgetExceeded as error:
            self._spend(error)
        except FactoryError:
            if wave.failures.total() < wave.feed.num_tasks:
                raise
            # Every task of one wave failed. That may be a few of one slice: the rule sees all waves.
        wave.feed.close(skip=True)

    async def _refine(self, wave: _Wave, before: asyncio.Task[None] | None) -> None:
        if before:
            await asyncio.wait([before])
            if before.cancelled() or before.exception():
                return  # which ends the round
        await consume(self.bench, self.number, self._refining, wave.feed, self.watch, self._spend)

    def _spend(self, error: BudgetExceeded) -> None:
        """The budget is spent: what is under way is finished, nothing begins."""
        self.spent = self.spent or error
        for wave, _ in self._under_way:
            wave.feed.end_intake()

    async def _end_first(self) -> None:
        """Waits until the first wave under way is decided, and counts what it came to."""
        wave, work = self._under_way[0]
        await work
        self._under_way.popleft()
        if self.spent:
            return
        reached = num_reached(self.bench, self.number, (wave.number + 1) * POSITIONS)
        new = {cell: reached.get(cell, 0) - tally.num_accepted for cell, tally in self.waves.tallies.items()}
        self.waves.settle(wave.plan, Counter((task.strategy, task.slice) for task in wave.tasks), new)
        for cell in self.waves.given_up():
            if cell not in self._told and cell[1] in self.waves.missing():
                self.bench.progress.note(f"{self.bench.label(self.number)}: {self._describe(cell)}")
            self._told.add(cell)

    def _describe(self, cell: Cell) -> str:
        tally = self.waves.tallies[cell]
        why = "it has no further tasks"
        if not tally.is_exhausted:
            why = f"the last {tally.num_dry} tasks gave nothing"
        return f"'{cell[0]}' is given up in slice '{cell[1]}': {why}"


def _embedder(bench: Bench, account: Account) -> Embedder | None:
    """What a selection asks for vectors that are paid for; None where they cost nothing."""
    selection = bench.recipe.loop.selection
    if selection is None or not isinstance(selection.embedder, ServerEmbedder):
        return None
    embedder = create_embedder(selection.embedder, bench.domain)
    embedder.bind(account)
    return embedder
