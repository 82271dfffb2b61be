"""Samples of a round: made by the strategies and settled by the refiners, at the same time.

A sample is stored as it comes and goes on to the refiners in the order of the plan (`factory.feed`), so that
what they decide does not depend on which answer came first. Where teacher and refiner take turns on one
GPU, all is made before any is refined. Making it again is resuming it: answers and decisions are found.
How many samples a round gets is not decided here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing, suppress
from typing import Any

from factory.allocate import allocate
from factory.asking import bound_refiners, no_model, roles_asked
from factory.bench import Bench
from factory.errors import BudgetExceeded, FactoryError
from factory.evaluations import slice_states
from factory.failures import REQUEST_FAULTS, FailureRule
from factory.feed import Feed
from factory.models.batched import is_batched
from factory.recipe import Recipe
from factory.refine import BATCH_SIZE, Refining, refine_round
from factory.sending import window_of
from factory.servers import VllmServer
from factory.store.rows import sample_from_row, sample_rows
from factory.strategies import Strategies
from factory.types import Sample, Task
from factory.watch import Watch, values_of

POSITIONS = 10**12  # positions set apart for one strategy or wave: the plan's order is the refiners' order
SAMPLES_PER_TASK = 1000  # positions set apart for one task


async def generate(bench: Bench, number: int) -> None:
    """Makes the samples of a round, shared over slices and strategies."""
    if bench.done(number, "generate") is None:
        await _make_round(bench, number, refines=False)


async def refine(bench: Bench, number: int) -> None:
    """Settles the stored samples of a round: each comes out with one final decision."""
    if bench.done(number, "refine") is not None:
        return
    with bench.stage(number, "refine") as detail:
        refiners = bound_refiners(bench, number)
        total = count_round(bench, number)
        with bench.progress.stage(f"{bench.label(number)} refine", total, "samples") as shown:
            await refine_round(
                bench.store,
                bench.run_id,
                number,
                refiners,
                round_samples(bench, number),
                no_model,
                on_progress=lambda done, *_, **__: shown.update(
                    done, total, bench.engine.line(), values_of(count_actions(bench, number))
                ),
            )
        detail["actions"] = count_actions(bench, number)


async def generate_and_refine(bench: Bench, number: int) -> None:
    """Both at once where that can be, one after the other where not; what is done is not done again."""
    if bench.done(number, "generate") is None and can_overlap(bench.recipe):
        await _make_round(bench, number, refines=True)
    await generate(bench, number)
    await refine(bench, number)


async def _make_round(bench: Bench, number: int, refines: bool) -> None:
    num_tasks, name = bench.recipe.loop.num_tasks, f"{bench.label(number)} generate"
    feed, name = Feed(window=window_of(num_tasks)), name + (" and refine" if refines else "")
    with bench.progress.stage(name, num_tasks, "samples") as shown:
        watch = Watch(bench.engine, shown)
        generating = _generate_round(bench, number, feed, watch)
        try:
            if not refines:
                await run_together(generating, _drain(feed))
                return
            with bench.stage(number, "refine") as detail:  # done only where all was generated
                await run_together(generating, _settle_round(bench, number, feed, watch))
                detail["actions"] = count_actions(bench, number)
        finally:
            watch.show(now=True)


async def _generate_round(bench: Bench, number: int, feed: Feed, watch: Watch) -> None:
    with bench.stage(number, "generate") as detail:
        strategies = Strategies(bench.generators())
        slices, states = sorted(strategies.slices), slice_states(bench, number)
        spec = bench.recipe.loop
        detail["allocation"] = allocate(spec.num_tasks, slices, states, spec.slice_floor)
        tasks = strategies.plan(detail["allocation"], number)
        order = {name: index for index, name in enumerate(strategies.weights)}
        plan = ((order[task.strategy] * POSITIONS + task.ordinal * SAMPLES_PER_TASK, task) for task in tasks)
        failures: Counter[str] = Counter()
        try:
            await produce(bench, number, strategies, plan, feed, watch, failures)
        finally:
            detail["failures"] = dict(failures)
        again = {kind: count for kind, count in failures.items() if kind not in REQUEST_FAULTS}
        if again:
            what = f"{sum(again.values())} of {spec.num_tasks} samples could not be generated"
            hint = "what came is stored; the same command tries the others again"
            raise FactoryError(f"{what} ({kinds_of(again)})", hint=hint)
        feed.close()


async def _settle_round(bench: Bench, number: int, feed: Feed, watch: Watch) -> None:
    refining = Refining(bench.store, bench.run_id, number, bound_refiners(bench, number))
    watch.refined(Counter(count_actions(bench, number)))
    await consume(bench, number, refining, feed, watch)


async def _drain(feed: Feed) -> None:
    async for _ in feed.batches(BATCH_SIZE):
        pass


async def produce(
    bench: Bench,
    number: int,
    strategies: Strategies,
    plan: Iterable[tuple[int, Task]],
    feed: Feed,
    watch: Watch,
    failures: Counter[str],
    rule: FailureRule | None = None,
) -> None:
    """Makes the tasks of a plan, each at its position; counts `failures` by kind.

    Without a `rule` a task that failed for a while, such as by a timeout, breaks the order off: it is made
    by the next run. With one it is made up for by others, and the rule, which outlives the plan, says when
    failures are too many. Raises BudgetExceeded once the tasks under way are finished.
    """
    ask, _ = await bench.ask("teacher", "generate", number)
    num_slots = bench.engine.slots_of(bench.recipe.models["teacher"]).maximum
    async with aclosing(bench.engine.run_tasks(strategies, feed.take_in(plan), ask, num_slots)) as outcomes:
        async for task, outcome in outcomes:
            if isinstance(outcome, BudgetExceeded):
                raise outcome
            if isinstance(outcome, FactoryError):
                kind = getattr(outcome, "kind", type(outcome).__name__)
                failures[kind] += 1
                if rule:
                    rule.observe(outcome)
                if rule or kind in REQUEST_FAULTS:
                    await feed.put(task, [])
                else:
                    feed.break_off(task)
            else:
                if rule:
                    rule.observe(None)
                store_samples(bench, number, feed.position(task), task, outcome)
                await feed.put(task, outcome)
            watch.made()


async def consume(
    bench: Bench,
    number: int,
    refining: Refining,
    feed: Feed,
    watch: Watch,
    on_spent: Callable[[BudgetExceeded], None] | None = None,
) -> None:
    """Settles what comes through a feed.

    Raises BudgetExceeded; where `on_spent` is given it is told instead, and what needs no further call is
    settled sample by sample: one whose call was refused does not take along those that are paid.
    """
    async for batch in feed.batches(BATCH_SIZE):
        try:
            watch.refined(await refining.settle(batch, no_model))
        except BudgetExceeded as error:
            if on_spent is None:
                raise
            on_spent(error)
            for sample in batch:
                with suppress(BudgetExceeded):
                    watch.refined(await refining.settle([sample], no_model))


async def run_together(*work: Coroutine[Any, Any, None]) -> None:
    """Runs coroutines side by side; where one fails the others are stopped, and its error is raised."""
    tasks = [asyncio.create_task(each) for each in work]
    why = ""
    try:
        await asyncio.gather(*tasks)
    except Exception as error:
        why = f"stopped by {type(error).__name__}: {error}"
        raise
    finally:
        for task in tasks:
            task.cancel(why or None)
        await asyncio.gather(*tasks, return_exceptions=True)


async def run_beside(main: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Runs both; where `main` fails the other is stopped, where the other fails `main` is finished first."""
    beside, why = asyncio.create_task(other), ""
    try:
        await main
        await beside
    except Exception as error:
        why = f"stopped by {type(error).__name__}: {error}"
        raise
    finally:
        beside.cancel(why or None)
        await asyncio.gather(beside, return_exceptions=True)


def can_overlap(recipe: Recipe) -> bool:
    """Whether teacher, refiner and judge can answer at once: they do not take turns on one GPU.

    A teacher that is asked in batches does not wait for refiners either, else its batches would be small.
    """
    if is_batched(recipe.servers[recipe.models["teacher"].server]):
        return False
    names = {recipe.models[role].server for role in ("teacher", *roles_asked(recipe))}
    servers = [recipe.servers[name] for name in names]
    return sum(isinstance(each, VllmServer) and each.device != "cpu" for each in servers) < 2


def kinds_of(failures: dict[str, int]) -> str:
    """Failures by kind, as text."""
    return ", ".join(f"{kind} {count}" for kind, count in failures.items())


def store_samples(bench: Bench, number: int, position: int, task: Task, samples: list[Sample]) -> None:
    """Appends a task's samples, their edges and their places in the round, children after parents.

    Raises FactoryError for more samples than a task has places.
    """
    if len(samples) > SAMPLES_PER_TASK:
        raise FactoryError(
            f"{len(samples):,} samples of one task, {SAMPLES_PER_TASK:,} are the most",
            where=task.strategy,
            hint="plan more tasks with fewer samples each",
        )
    rows, edges = sample_rows(samples, bench.run_id, number)
    bench.store.append("samples", rows)
    bench.store.append("edges", edges)
    places = [
        {"run_id": bench.run_id, "round": number, "position": position + offset, "sample_id": sample.id}
        for offset, sample in enumerate(samples)
    ]
    bench.store.append("round_samples", places)


def count_round(bench: Bench, number: int) -> int:
    """How many samples the generators made in a round."""
    sql = "SELECT count(*) AS n FROM round_samples WHERE run_id = ? AND round = ?"
    return int(bench.store.select(sql, (bench.run_id, number))[0]["n"])


def count_actions(bench: Bench, number: int) -> dict[str, int]:
    """How many samples of a round were kept, rewritten and dropped."""
    sql = """SELECT action, count(*) AS n FROM decisions
             WHERE run_id = ? AND round = ? AND final GROUP BY action"""
    return {row["action"]: row["n"] for row in bench.store.select(sql, (bench.run_id, number))}


def round_samples(bench: Bench, number: int) -> Iterator[Sample]:
    """The generated samples of a round in the order of the plan, streamed."""
    sql = """
        SELECT s.*, (SELECT list({'id': e.parent, 'relation': e.relation} ORDER BY e.relation, e.parent)
                     FROM edges e WHERE e.child = s.id) AS parents
        FROM round_samples r JOIN samples s ON s.id = r.sample_id
        WHERE r.run_id = ? AND r.round = ? ORDER BY r.position"""
    return map(sample_from_row, bench.store.stream(sql, (bench.run_id, number)))
