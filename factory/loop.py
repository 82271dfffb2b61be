"""The whole factory on one screen: a round is allocate, generate, refine, freeze, train, evaluate, promote.

Each stage writes its events to the store; one that is done is not done again, one that was cut
off runs again and finds its answers stored. So resuming is running the same loop. How a model is
served, asked or trained is not here: the bench holds the parts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from factory import freeze as freezing
from factory.bench import Bench
from factory.comparison import describe_comparison
from factory.contender import Contender, ask_split, proven
from factory.errors import FactoryError, InputError, TargetMissed
from factory.evaluations import (
    compare,
    judge_answers,
    load_comparison,
    load_evaluation,
    record_evaluation,
    told_how_chosen,
)
from factory.making import generate, generate_and_refine, run_beside
from factory.ports import OnProgress, Trainer
from factory.promotion import promoted_round
from factory.reach import reach
from factory.recipe import Recipe
from factory.servers import VllmServer
from factory.types import Adapter, Split

STAGES = ("generate", "refine", "freeze", "train", "evaluate")
SPLITS: tuple[Split, ...] = ("dev", "test")


async def run_loop(bench: Bench) -> None:
    """The base model's evaluation, every round, every control; done stages are skipped."""
    controls = [bench.for_control(name) for name in bench.recipe.loop.controls]
    for control in controls:
        control.refuse_if_changed()
    bench.record_run()
    await evaluate(bench, 0, None)
    await run_round(bench, 1, "freeze")
    if can_run_beside(bench.recipe):  # controls rest on the samples of round 1 alone
        await run_beside(run_rounds(bench), run_controls(bench, controls))
    else:
        await run_rounds(bench)
        await run_controls(bench, controls)


def can_run_beside(recipe: Recipe) -> bool:
    """Whether controls may run while later rounds do: nothing is short that a round may need.

    Servers on CPUs stay up while something trains, where GPUs take turns; a budget is for the rounds first.
    """
    servers = recipe.servers.values()
    on_cpu = bool(servers) and all(isinstance(each, VllmServer) and each.device == "cpu" for each in servers)
    stays = recipe.loop.while_training in ("auto", "keep")
    return on_cpu and stays and not any(recipe.budget.model_dump().values())


async def run_rounds(bench: Bench) -> None:
    """All rounds, one after another."""
    for number in range(1, bench.recipe.loop.rounds + 1):
        await run_round(bench, number)


async def run_controls(bench: Bench, controls: Sequence[Bench]) -> None:
    """Every control, one after another."""
    for control in controls:
        await run_control(bench, control)


async def run_round(bench: Bench, number: int, until: str = "evaluate") -> None:
    """One round up to and including the stage `until`."""
    stages = STAGES[: STAGES.index(until) + 1]
    await make_samples(bench, number, stages)
    if "freeze" in stages:
        dataset_id = await freezing.freeze(bench, number)
    if "student" not in bench.recipe.training or "train" not in stages:
        return
    adapter = await train(bench, number, dataset_id)
    if "evaluate" in stages:
        await evaluate(bench, number, adapter)
        if bench.control is None:  # a control is there to be compared with, not to be served
            promote(bench, number)


async def make_samples(bench: Bench, number: int, stages: Sequence[str]) -> None:
    """The samples of a round: so many tasks, or as many as it takes for so many accepted samples.

    Where the target is missed, what was accepted is frozen all the same, before TargetMissed is raised.
    """
    if bench.recipe.loop.accepted is not None:
        try:
            await reach(bench, number)
        except TargetMissed as missed:
            if "freeze" in stages and missed.num_accepted:
                await freezing.freeze(bench, number, missed)
            raise
    elif "refine" in stages:
        await generate_and_refine(bench, number)
    else:
        await generate(bench, number)


async def run_control(main: Bench, control: Bench) -> None:
    """A student trained on the same teacher calls as the main run's round 1, refined differently."""
    control.record_run()
    if control.done(1, "generate") is None:
        with control.stage(1, "generate"):
            control.store.execute_insert(
                "INSERT OR IGNORE INTO round_samples (run_id, round, position, sample_id) "
                "SELECT ?, round, position, sample_id FROM round_samples WHERE run_id = ? AND round = 1",
                (control.run_id, main.run_id),
            )
    await run_round(control, 1)


async def train(bench: Bench, number: int, dataset_id: str) -> Adapter:
    """The student of the round, from the base and everything accepted so far."""
    directory = student_folder(bench, number)
    done = bench.done(number, "train")
    if done is not None and directory.is_dir():
        return Adapter(directory, done["digest"], done["base"], done["steps"], done["loss"], done["seconds"])
    trainer, base = bench.trainer()
    dataset = freezing.write_dataset(bench, dataset_id)
    with (
        bench.stage(number, "train") as detail,
        bench.progress.stage(f"{bench.label(number)} train", None, "steps") as bar,
    ):
        async with bench.pool.device_free():
            adapter = await train_in_thread(trainer, dataset, base, directory, bar.update)
        trained = {"digest": adapter.digest, "base": adapter.base, "seconds": adapter.seconds}
        detail.update({"dataset": dataset_id, "steps": adapter.num_steps, "loss": adapter.loss, **trained})
        detail["model"] = record_model(bench, number, adapter, dataset_id)
    return adapter


def student_folder(bench: Bench, number: int) -> Path:
    """Where the student of a round stands, wherever the workspace is moved."""
    return bench.workspace / "adapters" / f"student_{bench.run_id}_{number}"


async def train_in_thread(
    trainer: Trainer, dataset: Path, base: str, directory: Path, on_progress: OnProgress
) -> Adapter:
    """Training beside the event loop, so that servers are watched meanwhile; ends with its caller.

    A caller that is cancelled waits while the trainer saves what it learned; cancelled again it ends it.
    """
    work = asyncio.ensure_future(asyncio.to_thread(trainer.train, dataset, base, directory, on_progress))
    work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # which nobody else may read
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        trainer.cancel()
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            trainer.cancel()
        raise


def trained_model(bench: Bench, number: int) -> str | None:
    """The id of the student when the round had trained it; None where nothing says so."""
    if model := (bench.done(number, "train") or {}).get("model"):
        return str(model)
    rows = bench.store.select(
        "SELECT id FROM models WHERE role = 'student' AND run_id = ? AND round = ? ORDER BY created_at DESC",
        (bench.run_id, number),
    )
    return rows[0]["id"] if rows else None


def record_model(bench: Bench, number: int, adapter: Adapter, dataset_id: str) -> str:
    """Writes the student's row and learning curve and returns its id, with which its requests are hashed."""
    model_id = bench.pool.model_id("student", adapter.path)
    row = {
        "id": model_id,
        "role": "student",
        "name": f"student-{adapter.digest[:8]}",
        "base": adapter.base,
        "adapter": str(adapter.path),
        "adapter_digest": adapter.digest,
        "dataset_id": dataset_id,
        "run_id": bench.run_id,
        "round": number,
        "training": {"steps": adapter.num_steps, "loss": adapter.loss, "seconds": adapter.seconds},
    }
    bench.store.append("models", [row])
    bench.store.append("training_steps", [{"model_id": model_id, **point} for point in adapter.curve])
    return model_id


async def evaluate(bench: Bench, number: int, adapter: Adapter | None) -> None:
    """Dev and test through the served student, item by item, compared with the promoted one."""
    if bench.done(number, "evaluate") is not None or "student" not in bench.recipe.training:
        return
    student = Contender(bench.label(number))
    if adapter is not None:
        student = Contender(student.name, adapter.path, trained_model(bench, number))
    with bench.stage(number, "evaluate") as detail:
        async with proven(bench, student, number) as served:
            answered = [await ask_split(bench, served, split) for split in SPLITS]
        detail["served"] = served.proof and asdict(served.proof)
        for found in await judge_answers(bench, number, answered, student.name):
            in_charge = promoted_round(bench.store, bench.run_id)
            before = load_evaluation(bench, in_charge, found.split) if number else None
            comparison = compare(bench, before, found) if before else None
            record_evaluation(bench, number, found, before, comparison)


def promote(bench: Bench, number: int) -> None:
    """Follows the gate's comparison on dev, as it was stored; the test split never decides."""
    if bench.done(number, "promote") is not None:
        return
    before = load_evaluation(bench, promoted_round(bench.store, bench.run_id), "dev")
    after = load_evaluation(bench, number, "dev")
    if before is None or after is None:
        raise FactoryError(f"round {number} cannot be compared: an evaluation on dev is missing")
    stored = load_comparison(bench, number, "dev", before.model_id)
    comparison = told_how_chosen(bench, stored or bench.evaluator.compare(before, after), after)
    with bench.stage(number, "promote") as detail:
        detail.update(asdict(comparison))
    verdict = "promoted" if comparison.promote else "not promoted"
    bench.progress.note(
        f"{bench.label(number)} {verdict}: {comparison.reason}, {describe_comparison(comparison)}"
    )


def promoted_adapter(bench: Bench) -> Path:
    """The folder of this run's promoted student; raises InputError where no round was promoted."""
    number = promoted_round(bench.store, bench.run_id)
    if number == 0:
        raise InputError(
            "no student of this recipe was promoted in this workspace",
            hint="run `factory run` first, or use the base",
        )
    return student_folder(bench, number)
