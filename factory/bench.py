"""The workbench of one run: its store, models, engine and progress, and the record of its stages.

The loop says what happens; the bench knows with what. A control run is the same bench with fewer
refiners and one round. It decides nothing about samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import factory
from factory.domain import Domain
from factory.embedding.options import create_embedder
from factory.errors import RecipeError
from factory.models.folders import find_model
from factory.ports import Ask, Evaluator, Generator, Refiner, Trainer
from factory.progress import STOPPED
from factory.registry import create, create_with_inner
from factory.types import Json, Seed, Source

if TYPE_CHECKING:
    from factory.engine import Engine
    from factory.models.pool import ModelPool
    from factory.progress import Progress
    from factory.recipe import Recipe, Role
    from factory.store.store import Store


def material_of_strategies(domain: Domain) -> list[Seed | Source]:
    """What strategies bring beside the domain's seeds and sources, such as personas and topics."""
    found: list[Seed | Source] = []
    for index, spec in enumerate(domain.recipe.strategies):
        for strategy in create_with_inner("generators", spec, domain, f"strategies[{index}]"):
            found += getattr(strategy, "material", ())
    return found


def what_refiners_rest_on(domain: Domain) -> list[Json]:
    """What refiners and selection read beside the domain, such as benchmark files and weights.

    A change of it makes another run.
    """
    found: list[Json] = []
    for index, spec in enumerate(domain.recipe.refiners):
        found += getattr(create("refiners", spec, domain, f"refiners[{index}]"), "rests_on", ())
    if selection := domain.recipe.loop.selection:
        found.append(create_embedder(selection.embedder, domain).id)
    return found


@dataclass(frozen=True)
class Bench:
    """Everything that a stage needs; `control` names the control run, None for the run proper."""

    domain: Domain
    workspace: Path
    store: Store
    pool: ModelPool
    engine: Engine
    progress: Progress
    run_id: str
    evaluator: Evaluator  # of the recipe, and of its controls
    control: str | None = None

    @property
    def recipe(self) -> Recipe:
        return self.domain.recipe

    def for_control(self, name: str) -> Bench:
        """The bench of a control: one round, the same teacher calls, only the refiners it keeps."""
        kept = self.recipe.loop.controls[name]
        loop: dict[str, Json] = {"rounds": 1, "accepted": None, "selection": None, "controls": {}}
        recipe = self.recipe.model_copy(
            update={
                "refiners": [spec for spec in self.recipe.refiners if spec.name in kept],
                "loop": self.recipe.loop.model_copy(update=loop),
            }
        )
        run_id = f"{self.run_id}_{name}"
        domain = replace(self.domain, recipe=recipe)
        return replace(self, domain=domain, run_id=run_id, engine=self.engine.for_run(run_id), control=name)

    def record_run(self) -> None:
        """Writes the run and its material; writing them again changes nothing."""
        from factory.store.rows import seed_row, source_row

        run = {
            "id": self.run_id,
            "recipe": self.recipe.name,
            "control": self.control,
            "digest": self.recipe.digest(),
            "config": self.recipe.model_dump(mode="json"),
            "version": factory.__version__,
            "started_at": datetime.now(UTC),
        }
        self._tell_if_changed(run["config"])
        self.store.append("runs", [run])
        brought = material_of_strategies(self.domain)
        sources = (*self.domain.sources, *(item for item in brought if isinstance(item, Source)))
        seeds = (*self.domain.seeds, *(item for item in brought if isinstance(item, Seed)))
        self.store.append("sources", [source_row(source) for source in sources])
        self.store.append("seeds", [seed_row(seed) for seed in seeds])

    def _tell_if_changed(self, config: Json) -> None:
        """Says which keys make this a new run, where the workspace already has one of this recipe."""
        rows = self.store.select(
            """SELECT id, config FROM runs WHERE recipe = ? AND control IS NULL
               ORDER BY started_at DESC""",
            (self.recipe.name,),
        )
        if not rows or self.control or any(row["id"] == self.run_id for row in rows):
            return
        before = json.loads(rows[0]["config"])
        keys = ", ".join(key for key in config if config[key] != before.get(key)) or "a file that it names"
        self.progress.note(
            f"the recipe changed since {rows[0]['id']} ({keys}): a new run begins, stored answers count"
        )

    def refuse_if_changed(self) -> None:
        """Raises RecipeError where a control of this name ran with other refiners.

        Only these can differ: all else is part of the run's name.
        """
        for row in self.store.select("SELECT config FROM runs WHERE id = ?", (self.run_id,)):
            before = [spec["name"] for spec in json.loads(row["config"])["refiners"]]
            if before != [spec.name for spec in self.recipe.refiners]:
                raise RecipeError(
                    f"it ran with other refiners before ({', '.join(before) or 'none'})",
                    where=f"loop.controls.{self.control}",
                    hint="give this control a name of its own",
                )

    @contextmanager
    def stage(self, round_number: int, name: str) -> Iterator[dict[str, Json]]:
        """Records start and end of a stage; what the body puts into the mapping is kept as its detail."""
        detail: dict[str, Json] = {}
        self.event(round_number, name, "started", {})
        try:
            yield detail
        except BaseException as error:
            what = f"{type(error).__name__}: {error}"
            if isinstance(error, STOPPED):  # what stopped it together with this stage, or the user
                what = str(error) or "stopped by the user"
            self.event(round_number, name, "failed", {"error": what, **detail})
            raise
        self.event(round_number, name, "done", detail)
        self.store.flush()

    def event(self, round_number: int, name: str, status: str, detail: Json) -> None:
        """Records an event of a stage: started, done or failed."""
        row = {"run_id": self.run_id, "round": round_number, "stage": name, "status": status}
        self.store.append("stages", [{**row, "detail": detail}])

    def done(self, round_number: int, name: str) -> dict[str, Json] | None:
        """The detail of a stage that is done, else None."""
        rows = self.store.select(
            "SELECT detail FROM stages WHERE run_id = ? AND round = ? AND stage = ? AND status = 'done' "
            "ORDER BY created_at DESC LIMIT 1",
            (self.run_id, round_number, name),
        )
        return cast("dict[str, Json]", json.loads(rows[0]["detail"])) if rows else None

    def label(self, round_number: int) -> str:
        """How progress and notes name a round and its student."""
        return self.control or (f"round {round_number}" if round_number else "base")

    async def ask(
        self, role: Role, stage: str, round_number: int, adapter: Path | None = None
    ) -> tuple[Ask, str]:
        """An `ask` bound to a role's model, which is started if need be, and the model's id."""
        spec = self.recipe.models.get(role)
        if spec is None:
            raise RecipeError("no model for this role", where=f"models.{role}", hint="add it to the profile")
        model = await self.pool.model(role, adapter)
        if adapter is None:  # a trained student's row is written where it is trained
            self.record_model(role, model.id, spec.adapter)
        parser = getattr(self.recipe.servers[spec.server], "tool_call_parser", None) or ""
        return self.engine.ask(role, model, spec, stage, round_number, parser), model.id

    def record_model(
        self, role: Role, model_id: str, adapter: str | None, adapter_digest: str | None = None
    ) -> None:
        """Writes the row of a model that was not trained in this run; once is enough."""
        spec = self.recipe.models[role]
        server = self.recipe.servers[spec.server].model_dump(mode="json")
        base = spec.model or server.get("model") or server.get("base_url") or server["kind"]
        row = {"id": model_id, "role": role, "name": adapter or base, "base": base, "adapter": adapter}
        self.store.append("models", [row | {"adapter_digest": adapter_digest}])

    def generators(self) -> list[tuple[str, float, Generator]]:
        """Name, weight and instance of each strategy."""
        return [
            (spec.name, spec.weight, create("generators", spec, self.domain, f"strategies[{index}]"))
            for index, spec in enumerate(self.recipe.strategies)
        ]

    def refiners(self) -> list[tuple[str, Refiner]]:
        """Name and instance of each step, in order."""
        return [
            (spec.name, create("refiners", spec, self.domain, f"refiners[{index}]"))
            for index, spec in enumerate(self.recipe.refiners)
        ]

    def trainer(self, role: str = "student") -> tuple[Trainer, str]:
        """The trainer of a role and the base it starts from: a folder if there is one, else a hub name."""
        spec = self.recipe.training[role]  # type: ignore[index]
        base, _ = find_model(self.domain.folder, spec.base)
        return create("trainers", spec, self.domain, f"training.{role}"), base
