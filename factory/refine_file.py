"""`factory refine FILE`: the curation steps alone, over samples that somebody else made.

The file is a domain without material, its samples are those of a run's only round, and all is decided and
stored as in a recipe's run: SQL answers which step dropped which line and why. The same command in the same
workspace goes on where it was cut off. Steps that need a model or a domain's sections are refused.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import factory
from factory.domain import Domain
from factory.errors import FactoryError, InputError
from factory.explain import explain
from factory.recipe import DomainSpec, GoldSpec, Recipe, StepSpec, StrategySpec
from factory.registry import create, find, names
from factory.sample_files import Line, read_lines, with_messages, writing
from factory.types import Completion, Json, Message, Parent, Sample, digest

if TYPE_CHECKING:
    from factory.progress import Progress
    from factory.refine import Steps
    from factory.store.store import Store

CHUNK = 2**20
ROUND = 1
SETTLED = """
    WITH RECURSIVE fate AS (
        SELECT r.position, d.sample_id, d.action, d.refiner, d.reason, d.evidence, d.rewrite_id, 0 AS times
        FROM round_samples r JOIN decisions d USING (run_id, sample_id)
        WHERE r.run_id = $run AND d.final
        UNION ALL
        SELECT f.position, d.sample_id, d.action, d.refiner, d.reason, d.evidence, d.rewrite_id, f.times + 1
        FROM fate f JOIN decisions d ON d.sample_id = f.rewrite_id
        WHERE d.run_id = $run AND d.final
    )
    SELECT f.*, s.messages FROM fate f JOIN samples s ON s.id = f.sample_id
    WHERE f.action <> 'rewrite' ORDER BY f.position"""
STEPS = """
    SELECT step, refiner, action, reason, sum(num_samples)::BIGINT AS samples FROM funnel
    WHERE run_id = ? GROUP BY ALL ORDER BY step, action, reason"""


def refine_file(
    path: Path, steps: Sequence[StepSpec], output: Path, workspace: Path | None, progress: Progress
) -> dict[str, Any]:
    """Counts and the steps' decisions; the kept samples are in `output`, the others beside it, with reasons.

    Without a `workspace` what was decided is forgotten in the end. Raises InputError for what the file or the
    steps cannot be.
    """
    from factory.interpreter import run_work

    dropped = output.with_name(f"{output.stem.removesuffix('.kept')}.dropped.jsonl")
    if path.resolve() in (output.resolve(), dropped.resolve()):
        raise InputError("it would take the place of the file itself", where="--output")
    if not path.is_file():
        raise InputError("there is no such file", where=str(path))
    domain = domain_of(path, steps)
    with _opened(workspace) as store:
        run_id = _record(store, domain, path)
        run_work(_refine(store, run_id, domain, path, progress))
        counts = _write(store, run_id, path, output, dropped)
        decided = store.select(STEPS, (run_id,))
    return {"run": run_id, **counts, "output": str(output), "dropped_to": str(dropped), "steps": decided}


def read_steps(text: str) -> list[StepSpec]:
    """Steps from names with commas between, or from a YAML file with a key `refiners`, as a recipe has it."""
    from factory.layers import read_layer

    if Path(text).suffix not in (".yaml", ".yml"):
        return [StepSpec(name=name.strip()) for name in text.split(",") if name.strip()]
    found = read_layer(Path(text)).data.get("refiners")
    if not isinstance(found, list):
        raise InputError("no list of steps", where=f"{text} refiners", hint="as in a recipe")
    return [_step(item, f"{text} refiners[{at}]") for at, item in enumerate(found)]


def _step(item: Json, place: str) -> StepSpec:
    try:
        return StepSpec.model_validate(item)
    except ValidationError as error:
        finding = explain(error, StepSpec)
        raise InputError(finding.what, where=place, hint=finding.hint) from error


def domain_of(path: Path, steps: Sequence[StepSpec]) -> Domain:
    """A file as a domain without material; raises InputError for a step that needs some."""
    alone = [name for name in names("refiners") if _works_alone(name)]
    for step in steps:
        if not _works_alone(step.name):
            raise InputError(
                f"'{step.name}' needs a recipe: a model, or the sections of a domain",
                where="--steps",
                hint=f"alone work: {', '.join(alone)}",
            )
    recipe = Recipe(
        name="file",
        domain=DomainSpec(title=path.name),
        gold=GoldSpec(dev="", test=""),
        servers={},
        models={},
        strategies=[StrategySpec(name="file")],
        refiners=list(steps),
    )
    return Domain(recipe, path.parent, (), (), (), (), ())


def _works_alone(name: str) -> bool:
    return bool(getattr(find("refiners", name, "--steps"), "works_alone", False))


@contextmanager
def _opened(workspace: Path | None) -> Iterator[Store]:
    from factory.store.store import Store

    if workspace is not None:
        with Store.open(workspace) as store:
            yield store
        return
    with tempfile.TemporaryDirectory(prefix="factory-refine-") as folder, Store.open(Path(folder)) as store:
        yield store


def _record(store: Store, domain: Domain, path: Path) -> str:
    """Writes the run's row; its name is the hash of the file and the steps."""
    config = domain.recipe.model_dump(mode="json")
    content = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            content.update(chunk)
    run_id = "run_" + digest([content.hexdigest(), config["refiners"]], 12)
    row = {"id": run_id, "recipe": "file", "digest": domain.recipe.digest(), "config": config}
    started = {"version": factory.__version__, "started_at": datetime.now(UTC)}
    store.append("runs", [{**row, **started}])
    return run_id


async def _refine(store: Store, run_id: str, domain: Domain, path: Path, progress: Progress) -> None:
    from factory.refine import refine_round

    refiners: Steps = [
        (spec.name, create("refiners", spec, domain, f"steps[{at}]"))
        for at, spec in enumerate(domain.recipe.refiners)
    ]
    total = sum(1 for _ in read_lines(path))  # every line is read before any is decided
    with progress.stage("refine", total, "samples") as shown:
        samples = _stored(store, run_id, path)
        await refine_round(
            store,
            run_id,
            ROUND,
            refiners,
            samples,
            _no_model,
            on_progress=lambda done, _, text="": shown.update(done, total, text),
        )
    store.flush()


async def _no_model(*_arguments: object, **_options: object) -> Completion:
    raise FactoryError("a step asked a model though it says that it needs none")


def _stored(store: Store, run_id: str, path: Path) -> Iterator[Sample]:
    """The samples in order, each stored before it is decided."""
    from factory.store.rows import sample_rows

    for line in read_lines(path):
        sample = _sample(line, path)
        rows, edges = sample_rows([sample], run_id, ROUND)
        store.append("samples", rows)
        store.append("edges", edges)
        place = {"run_id": run_id, "round": ROUND, "position": line.number, "sample_id": sample.id}
        store.append("round_samples", [place])
        yield sample


def _sample(line: Line, path: Path) -> Sample:
    """The line as a sample; equal lines are different samples, as each has its own place."""
    slice = line.value.get("slice")
    attributes = {
        "strategy": "file",
        "line": str(line.number),
        "slice": slice if isinstance(slice, str) else "",
    }
    place = Parent("line_" + digest([path.name, line.number]), "source")
    return Sample.create(line.messages, [place], "file", attributes)


def _write(store: Store, run_id: str, path: Path, output: Path, dropped: Path) -> dict[str, int]:
    """Writes what was kept and what was dropped, in order; raises FactoryError where one is missing."""
    counts = {"read": 0, "kept": 0, "rewritten": 0, "dropped": 0}
    settled = _settled(store, run_id)
    with writing(output, path) as keep, writing(dropped, path) as drop:
        for line in read_lines(path):
            fate = next(settled, None)
            if fate is None or fate["position"] != line.number:
                raise FactoryError("a sample was not decided", where=f"{path}:{line.number}")
            counts["read"] += 1
            if fate["action"] == "drop":
                counts["dropped"] += 1
                why = {name: fate[name] for name in ("refiner", "reason", "evidence")}
                drop({**line.value, "dropped": why})
                continue
            counts["kept"] += 1
            counts["rewritten"] += fate["times"] > 0
            keep(with_messages(line.value, fate["messages"]) if fate["times"] else line.value)
    return counts


def _settled(store: Store, run_id: str) -> Iterator[dict[str, Json]]:
    from factory.store.text import from_json, restore

    for row in store.stream(SETTLED, {"run": run_id}):  # type: ignore[arg-type]
        turns = from_json(row["messages"])
        row["messages"] = [Message(turn["role"], turn["content"]) for turn in turns]
        row["evidence"], row["reason"] = from_json(row["evidence"]), restore(row["reason"])
        yield row
