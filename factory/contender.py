"""A student that is asked, and is proven to be what it is called: before it was asked anything, and after.

`factory.proof` says what that takes; here it is done for a model of a run. What is asked is the caller's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factory.errors import FactoryError
from factory.proof import Probing, Proof, choose_probes, look, prove, read_proof, refuse_if_changed
from factory.servers import ScriptedServer
from factory.types import Evaluation, Split

if TYPE_CHECKING:
    from factory.bench import Bench
    from factory.ports import Ask, Model


@dataclass(frozen=True, slots=True)
class Contender:
    """A model as somebody calls it, with the folder of its adapter and its id when it was trained.

    No folder: the student's own model, as the recipe names it. No id: no run trained it.
    """

    name: str
    folder: Path | None = None
    model_id: str | None = None


@dataclass(frozen=True, slots=True)
class Proven:
    """A contender that is served, the way to ask it, and what was found out about its adapter."""

    name: str
    folder: Path | None
    ask: Ask
    model_id: str
    proof: Proof | None


def check_files(bench: Bench, contender: Contender) -> Proof | None:
    """The digests of its adapter; None where it has none, or a script stands for it.

    Raises FactoryError where the files are not those of the model that a run trained. Asks nobody.
    """
    folder = bench.pool.adapter_of("student", contender.folder)
    if folder is None or _is_scripted(bench):
        return None
    proof = read_proof(folder)
    now = bench.pool.model_id("student", folder)
    if contender.model_id not in (None, now):
        what = f"the adapter (digest {proof.digest}) or its base is another: this is {now}, "
        hint = "put the trained files back, or train again"
        raise FactoryError(f"{what}what was trained is {contender.model_id}", where=str(folder), hint=hint)
    return proof


@asynccontextmanager
async def proven(bench: Bench, contender: Contender, number: int = 0) -> AsyncIterator[Proven]:
    """The contender, served and proven; its files and its server are looked at again at the end.

    Raises FactoryError where it is not what it is called.
    """
    folder, proof = bench.pool.adapter_of("student", contender.folder), check_files(bench, contender)
    ask, model_id = await bench.ask("student", "evaluate", number, contender.folder)
    if folder is None or proof is None:
        yield Proven(contender.name, contender.folder, ask, model_id, None)
        return
    model = await bench.pool.model("student", contender.folder)
    seen, probing = await look(model), probing_of(bench, number)
    proof = await prove(model, proof, folder, probing)
    if proof.note:
        bench.progress.note(f"{contender.name}: {proof.note}")
    yield Proven(contender.name, folder, ask, model_id, proof)
    refuse_if_changed(proof, folder)
    if await look(model) != seen:  # what answered last may not be what was proven
        bench.progress.note(f"{contender.name}: its server went down or came back meanwhile: proven again")
        await prove(model, proof, folder, probing)


def probing_of(bench: Bench, number: int) -> Probing:
    """How the student's places are asked: by the engine, each for itself, so that budget and store know."""
    base_id = bench.pool.base_id("student")
    bench.record_model("student", base_id, None)

    def ask_at(place: Model) -> Ask:
        engine = bench.engine.for_run(bench.run_id, apart=True)
        return engine.ask("student", place, bench.recipe.models["student"], "prove", number)

    return Probing(choose_probes(bench.domain.dev), ask_at, base_id)


def _is_scripted(bench: Bench) -> bool:
    spec = bench.recipe.models.get("student")
    return spec is not None and isinstance(bench.recipe.servers[spec.server], ScriptedServer)


async def ask_split(bench: Bench, served: Proven, split: Split) -> Evaluation:
    """The evaluator's result of the items of a split."""
    items = getattr(bench.domain, split)
    with bench.progress.stage(f"{served.name} {split}", len(items), "items") as bar:
        return await bench.evaluator.evaluate(served.model_id, split, items, served.ask, bar.update)
