"""The refiner's own round: train on one side of the split, measure old and new on the other, keep the best.

A candidate stands in the workspace and is never changed; only a promoted one is copied to where the refiner
in charge stands, and what stood there is kept beside it. Running it again finds the adapter and the answers.
What to learn is in `factory.labels`, the rule of promotion in `factory.refiner_promotion`.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.domain import Domain
from factory.errors import InputError, WorkspaceError
from factory.examples import refiner_examples, write_jsonl
from factory.labels import Labelled
from factory.learned import is_unseen, warning
from factory.learned import save as save_learned
from factory.loop import train_in_thread
from factory.refiner_data import draft_row, for_training, held_out
from factory.refiner_evaluation import RefinerEvaluation, evaluate_drafts
from factory.refiner_promotion import Promotion, compare_refiners
from factory.refiner_records import record_refiner_evaluation
from factory.stored_preferences import StoredPreferences
from factory.types import Adapter, CheckedDraft, Json, digest

if TYPE_CHECKING:
    from factory.bench import Bench

WEIGHTS = "adapter_model.safetensors"


def in_charge(domain: Domain, output: Path) -> Path | None:
    """The adapter that a new one is compared with: at `output`, else the recipe's own; None for neither."""
    spec = domain.recipe.models.get("refiner")
    named = [output.resolve()]
    if spec is not None and spec.adapter:
        named.append((domain.folder / Path(spec.adapter).expanduser()).resolve())
    return next((path for path in named if (path / WEIGHTS).is_file()), None)


def without_missing_adapter(domain: Domain) -> Domain:
    """The domain whose refiner is the bare model, where the adapter that the recipe names is yet to come."""
    spec = domain.recipe.models.get("refiner")
    if spec is None or spec.adapter is None:
        return domain
    if (domain.folder / Path(spec.adapter).expanduser() / WEIGHTS).is_file():
        return domain
    models = {**domain.recipe.models, "refiner": spec.model_copy(update={"adapter": None})}
    return replace(domain, recipe=domain.recipe.model_copy(update={"models": models}))


async def train_and_compare(bench: Bench, labelled: Sequence[Labelled], output: Path) -> dict[str, Any]:
    """Trains, measures both refiners and promotes the new one if it is better; returns what came of it.

    Raises InputError where nothing is held out, and what training and asking raise.
    """
    measured_by = held_out(labelled)
    if not measured_by:
        hint = "drafts about two sections at least are needed: one to learn, one to be measured by"
        raise InputError("no draft is held out", where="gold.refiner", hint=hint)
    old = in_charge(bench.domain, output)
    judged = list(_judged(bench, {draft.source_key for draft in measured_by}))
    adapter = await _train(bench, for_training(labelled), judged)
    before = await _measure(bench, old, measured_by, "old refiner")
    after = await _measure(bench, adapter.path, measured_by, "new refiner")
    promotion = compare_refiners(before.outcomes, after.outcomes)
    with bench.stage(0, "promote_refiner") as detail:
        detail.update({"old": str(old) if old else None, "new": str(adapter.path), **asdict(promotion)})
        if promotion.promote:
            detail["output"] = str(put_in_charge(adapter, output))
    bench.progress.note(tell(promotion))
    old_unseen = is_unseen((draft.source_key for draft in measured_by), old)
    if not old_unseen:
        bench.progress.note(warning(f"the old refiner ({old})"))
    figures = {name: _figures(found) for name, found in (("old", before), ("new", after))}
    return {
        "promoted": promotion.promote,
        "reason": promotion.reason,
        "in_charge": detail["output"] if promotion.promote else detail["old"],
        "candidate": str(adapter.path),
        "training_drafts": len(for_training(labelled)),
        "training_preferences": len(judged),
        "held_out_drafts": promotion.num_drafts,
        "became_right": promotion.num_better,
        "became_wrong": promotion.num_worse,
        "p_value": promotion.p_value,
        "old_is_unseen": old_unseen,
        "refiners": [{"refiner": name, **values} for name, values in figures.items()],
    }


def tell(promotion: Promotion) -> str:
    """The verdict in a sentence."""
    verdict = "promoted" if promotion.promote else "not promoted, the old refiner stays"
    return (
        f"{verdict} ({promotion.reason}): right on {promotion.new_right} of {promotion.num_drafts} held-out "
        f"drafts, before {promotion.old_right}; {promotion.num_better} became right, {promotion.num_worse} "
        f"wrong, p = {promotion.p_value:.2g}; clean ones damaged {promotion.new_damage:.1%}, before "
        f"{promotion.old_damage:.1%}"
    )


def put_in_charge(adapter: Adapter, output: Path) -> Path:
    """Copies a candidate to `output`, whole or not at all; what stood there is kept beside.

    Returns the folder. Raises InputError where something stands there that is no adapter, WorkspaceError
    where the disk refuses.
    """
    output = output.resolve()
    partial = output.with_name(f".{output.name}.partial")
    if output.exists() and not (output / WEIGHTS).is_file():
        raise InputError("there is something that is no adapter", where=str(output), hint="choose another")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(adapter.path, partial)
        if output.exists():
            output.rename(_free_name(output))
        partial.rename(output)
    except OSError as error:
        what = f"the adapter cannot be put there: {error.strerror or error}"
        raise WorkspaceError(what, where=str(output)) from error
    return output


def _free_name(folder: Path) -> Path:
    """A name beside the folder that nothing bears: its own with a number."""
    number = 1
    while (found := folder.with_name(f"{folder.name}.before-{number}")).exists():
        number += 1
    return found


def _judged(bench: Bench, held_out_sections: Collection[str]) -> Iterator[Json]:
    """What people said of what the refiner had said, where the recipe trains preferences, in their form."""
    preference = bench.recipe.training["refiner"].options().get("preference")
    if preference is None:
        return
    for section, judged in StoredPreferences(bench.store, bench.domain).read(preference.get("method", "dpo")):
        if section not in held_out_sections:
            yield judged


async def _train(bench: Bench, drafts: Sequence[CheckedDraft], judged: Sequence[Json]) -> Adapter:
    """The candidate, in a folder of the workspace that is named by what it learned and how."""
    trainer, base = bench.trainer("refiner")
    spec = bench.recipe.training["refiner"].model_dump(mode="json")
    learned = [[draft_row(draft) for draft in drafts], *([judged] if judged else [])]
    name = "refiner_" + digest([*learned, spec, bench.recipe.seed], 12)
    dataset = bench.workspace / "datasets" / f"{name}.jsonl"
    directory = bench.workspace / "adapters" / name
    write_jsonl(chain(refiner_examples(bench.domain, drafts), judged), dataset)
    with (
        bench.stage(0, "train_refiner") as detail,
        bench.progress.stage("train refiner", None, "steps") as bar,
    ):
        async with bench.pool.device_free():
            adapter = await train_in_thread(trainer, dataset, base, directory, bar.update)
        save_learned((draft.source_key for draft in drafts), adapter.path)
        detail.update({"drafts": len(drafts), "preferences": len(judged), "steps": adapter.num_steps})
        detail.update({"loss": adapter.loss, "seconds": adapter.seconds, "digest": adapter.digest})
        detail["adapter"] = str(directory)
    _record(bench, adapter)
    return adapter


def _record(bench: Bench, adapter: Adapter) -> None:
    """Writes the refiner's row and learning curve; its id is the one that its requests are hashed with."""
    model_id = bench.pool.model_id("refiner", adapter.path)
    row = {
        "id": model_id,
        "role": "refiner",
        "name": f"refiner-{adapter.digest[:8]}",
        "base": adapter.base,
        "adapter": str(adapter.path),
        "adapter_digest": adapter.digest,
        "run_id": bench.run_id,
        "round": 0,
        "training": {"steps": adapter.num_steps, "loss": adapter.loss, "seconds": adapter.seconds},
    }
    bench.store.append("models", [row])
    bench.store.append("training_steps", [{"model_id": model_id, **point} for point in adapter.curve])


async def _measure(
    bench: Bench, adapter: Path | None, drafts: Sequence[CheckedDraft], what: str
) -> RefinerEvaluation:
    ask, model_id = await bench.ask("refiner", "evaluate", 0, adapter)
    if adapter is not None:
        bench.record_model("refiner", model_id, str(adapter))
    with bench.progress.stage(what, len(drafts), "drafts") as bar:
        found = await evaluate_drafts(bench.domain, drafts, ask, bar.update)
    record_refiner_evaluation(bench, model_id, found)
    return found


def _figures(found: RefinerEvaluation) -> dict[str, float | int | None]:
    right = sum(each.is_right for each in found.outcomes)
    return {"right": right, "f1": found.f1, "fixed": found.fixed, "damaged": found.damaged}
