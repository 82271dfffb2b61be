"""What the command line does, one function a command: opens a workspace, runs stages, says what came out.

Each returns plain data that can be printed as JSON. Everything is closed again whatever happens:
servers stop, the store is flushed, the lock is given up.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.bench import Bench, material_of_strategies, what_refiners_rest_on
from factory.domain import content_of
from factory.errors import InputError, RecipeError, TrainingError
from factory.interpreter import run_work
from factory.load import load, placed
from factory.models.folders import find_model
from factory.needs import Needs, Stage, check_needs, needs_of_base, needs_until
from factory.progress import Progress
from factory.types import Json, digest

if TYPE_CHECKING:
    from factory.domain import Domain
    from factory.models.pool import ModelPool
    from factory.recipe import Recipe
    from factory.servers import Server


def open_domain(
    recipe_path: Path, profile: str | None, needs: Callable[[Recipe], Needs] | None = None
) -> Domain:
    """A recipe with its material, validated, and with the models that the work `needs` looked for."""
    domain = load(recipe_path, profile)
    if needs is not None:
        with placed(recipe_path, profile):
            check_needs(domain, needs(domain.recipe))
    return domain


def name_run(domain: Domain, pool: ModelPool) -> str:
    """'run_' and a hash of recipe, material and models: what goes on under one name is the same work.

    A model that is not there yet, such as an adapter to be trained, counts as none.
    """
    models: dict[str, Json] = {}
    for role in domain.recipe.models:
        with contextlib.suppress(RecipeError):
            models[role] = pool.model_id(role)
    brought = [content_of(item) for item in material_of_strategies(domain)]
    further = [found for found in (brought, what_refiners_rest_on(domain)) if found]
    return "run_" + digest([domain.run_digest(), models, *further], 12)


def _resized(domain: Domain, loop: dict[str, Json]) -> Domain:
    """The domain with other values in the recipe's `loop`."""
    changed = domain.recipe.loop.model_copy(update=loop)
    return replace(domain, recipe=domain.recipe.model_copy(update={"loop": changed}))


@contextlib.asynccontextmanager
async def open_bench(
    domain: Domain,
    workspace: Path,
    progress: Progress,
    port: int | None = None,
    metrics_port: int | None = None,
    audit: bool = False,
) -> AsyncIterator[Bench]:
    """Store, models and engine of a run in `workspace`; all closed at the end.

    `port` is where a server of ours listens; None: any. `metrics_port` is where the figures are served.
    `audit` serves the audit page meanwhile.
    """
    from factory.budget import Budget, hold_calls
    from factory.engine import Engine
    from factory.metrics import serve_metrics
    from factory.models.batch_log import BatchLog
    from factory.models.pool import ModelPool
    from factory.store.store import Store

    with Store.open(workspace) as store:
        workspace = store.workspace  # absolute
        pool = ModelPool(domain.recipe, domain.folder, workspace, progress.note, port)
        run_id = name_run(domain, pool)
        pool.batched.log = log = BatchLog(store, run_id)
        pool.batched.refuse_if_turned_off(log)
        held = hold_calls(domain.recipe, log.open_calls())
        budget = Budget.from_store(store, run_id, domain.recipe.budget, held)
        engine = Engine(store, budget, run_id, domain.recipe.seed, domain.recipe.loop.max_failure_share)
        with serve_metrics(metrics_port, engine, progress), contextlib.ExitStack() as beside:
            if audit:
                from factory.audit.beside import serve_beside

                beside.enter_context(serve_beside(workspace, progress.note))
            try:
                pool.batched.close_stored(log)
                yield Bench(domain, workspace, store, pool, engine, progress, run_id, domain.evaluator)
            finally:
                await pool.close()


def run(
    recipe_path: Path,
    profile: str | None,
    workspace: Path,
    progress: Progress,
    accepted: int | None = None,
    metrics_port: int | None = None,
    audit: bool = False,
) -> dict[str, Any]:
    """`factory run`: the whole loop; returns the report as data. `accepted` replaces the recipe's own."""
    from dataclasses import asdict

    from factory.loop import run_loop
    from factory.report import collect

    domain = open_domain(recipe_path, profile, lambda recipe: needs_until(recipe, "evaluate"))
    if accepted is not None:
        domain = _resized(domain, {"samples_per_round": None, "accepted": accepted})

    async def work() -> dict[str, Any]:
        async with open_bench(domain, workspace, progress, metrics_port=metrics_port, audit=audit) as bench:
            await run_loop(bench)
            return asdict(collect(bench.store, bench.run_id))

    return run_work(work())


def run_until(
    recipe_path: Path,
    profile: str | None,
    workspace: Path,
    progress: Progress,
    stage: Stage,
    metrics_port: int | None = None,
) -> dict[str, Any]:
    """`factory generate|refine|train|evaluate`: the first unfinished round up to and including `stage`."""
    from factory.loop import evaluate, run_round

    domain = open_domain(recipe_path, profile, lambda recipe: needs_until(recipe, stage))
    if stage in {"train", "evaluate"} and "student" not in domain.recipe.training:
        raise InputError("no student is trained here", where="training.student", hint="add it to the profile")
    last = "promote" if stage == "evaluate" else stage  # what comes of an evaluation belongs to it

    async def work() -> dict[str, Any]:
        async with open_bench(domain, workspace, progress, metrics_port=metrics_port) as bench:
            bench.record_run()
            rounds = range(1, bench.recipe.loop.rounds + 1)
            number = next((n for n in rounds if bench.done(n, last) is None), None)
            if number is None:
                return {"run": bench.run_id, "stage": stage, "round": None, "detail": "every round is done"}
            if stage == "evaluate" or number > 1:
                if bench.done(0, "evaluate") is None:
                    with placed(recipe_path, profile):
                        check_needs(domain, needs_of_base(bench.recipe))
                await evaluate(bench, 0, None)
            await run_round(bench, number, until=stage)
            return {"run": bench.run_id, "stage": stage, "round": number, "detail": bench.done(number, stage)}

    return run_work(work())


def train_refiner(
    recipe_path: Path, profile: str | None, directory: Path, progress: Progress
) -> dict[str, Any]:
    """`factory train --role refiner`: QLoRA on the checked drafts, into `directory`."""
    from factory.examples import refiner_examples, write_jsonl
    from factory.registry import create

    domain = open_domain(recipe_path, profile, lambda _: Needs(trained=("refiner",)))
    spec = domain.recipe.training["refiner"]
    trainer = create("trainers", spec, domain, "training.refiner")
    with tempfile.TemporaryDirectory() as folder, progress.stage("train refiner", None, "steps") as bar:
        dataset = Path(folder) / "refiner.jsonl"
        write_jsonl(refiner_examples(domain), dataset)
        base, _ = find_model(domain.folder, spec.base)
        try:
            adapter = trainer.train(dataset, base, directory, bar.update)
        except TrainingError as error:  # each draft is a line of a file that is gone by now
            where = error.where.replace(f"{dataset}:", "gold.refiner, draft ")
            raise type(error)(error.what, where=where, hint=error.hint) from error
    return {
        "adapter": str(adapter.path),
        "already_there": adapter.was_there,
        "digest": adapter.digest,
        "steps": adapter.num_steps,
        "loss": adapter.loss,
    }


def preview(recipe_path: Path, profile: str | None, count: int, progress: Progress) -> dict[str, Any]:
    """`factory preview`: a few samples through generator and refiners, in a folder that is deleted."""
    from factory.conversation import shown_turn
    from factory.making import generate_and_refine

    domain = open_domain(recipe_path, profile, lambda recipe: needs_until(recipe, "refine"))
    loop = domain.recipe.loop.model_copy(
        update={"samples_per_round": count, "accepted": None, "selection": None, "controls": {}}
    )
    asked = {"loop": loop, "servers": _asked_at_once(domain.recipe)}
    domain = replace(domain, recipe=domain.recipe.model_copy(update=asked))
    folder = Path(tempfile.mkdtemp(prefix="factory-preview-"))

    async def work() -> dict[str, Any]:
        async with open_bench(domain, folder, progress) as bench:
            bench.record_run()
            await generate_and_refine(bench, 1)
            samples = bench.store.select(
                """SELECT s.question, s.answer, s.slice, s.strategy, d.action, d.refiner, d.reason,
                          s.messages, w.messages AS rewritten
                   FROM round_samples r JOIN samples s ON s.id = r.sample_id
                   JOIN decisions d ON d.sample_id = s.id AND d.final
                   LEFT JOIN samples w ON w.id = d.rewrite_id ORDER BY r.position"""
            )
            for sample in samples:
                sample["messages"] = json.loads(sample["messages"])
                turn = shown_turn(sample["messages"], json.loads(sample["rewritten"] or "[]"))
                sample["rewritten"] = turn.became or None
            return {"samples": samples}

    try:
        return run_work(work())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def serve(
    recipe_path: Path, profile: str | None, workspace: Path, port: int | None, progress: Progress
) -> dict[str, Any]:
    """`factory serve`: the promoted student on loopback until Ctrl-C, or until its server dies."""
    from factory.loop import promoted_adapter

    domain = open_domain(recipe_path, profile, lambda _: Needs(asked=("student",)))
    _refuse_to_serve(domain.recipe)

    async def work() -> dict[str, Any]:
        async with open_bench(domain, workspace, progress, port) as bench:
            adapter = promoted_adapter(bench)
            model = await bench.pool.model("student", adapter)
            progress.note(bench.pool.describe(model))
            await bench.pool.watch(model)
            return {}

    return run_work(work())


def _asked_at_once(recipe: Recipe) -> dict[str, Server]:
    """The servers without batches, which would outlast a folder that is deleted in the end."""
    from factory.models.batched import is_batched

    at_once = {"batch": False, "run_as": "server"}
    return {
        name: server.model_copy(update={key: at_once[key] for key in at_once if hasattr(server, key)})
        if is_batched(server)
        else server
        for name, server in recipe.servers.items()
    }


def _refuse_to_serve(recipe: Recipe) -> None:
    """Raises RecipeError where the student is run in a way that nobody else can ask."""
    spec = recipe.models.get("student")
    if spec is not None and getattr(recipe.servers[spec.server], "run_as", "server") != "server":
        where = f"servers.{spec.server}.run_as"
        raise RecipeError("nobody else can ask it", where=where, hint="set `run_as: server` to serve it")
