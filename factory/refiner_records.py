"""Evaluations of the refiner in the store, and the work behind `factory refiner evaluate`.

What was measured is written once, draft by draft, with the calls that it rests on; running it again finds
the stored answers and adds nothing. What the figures mean is in factory.refiner_evaluation.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.calibration import MIN_POINTS, Calibration, Point, measure, save
from factory.errors import RecipeError
from factory.interpreter import run_work
from factory.labels import Mixture
from factory.learned import is_unseen, warning
from factory.refiner_data import gather, held_out
from factory.refiner_evaluation import RefinerEvaluation, evaluate_drafts, figures
from factory.types import CheckedDraft, Json, digest

if TYPE_CHECKING:
    from factory.bench import Bench
    from factory.domain import Domain
    from factory.progress import Progress
    from factory.store.trace import Selects


def evaluate_refiner(
    recipe_path: Path,
    profile: str | None,
    workspace: Path,
    progress: Progress,
    given: bool = False,
    calibrate: bool = False,
) -> dict[str, Any]:
    """The recipe's refiner on the held-out drafts (factory.labels), or on all those that the recipe gives.

    The held-out ones are those of recipe and workspace together, which training leaves out. Answers are kept
    as calls of the workspace. With `calibrate` the map that makes its probabilities true is written beside
    its adapter. Raises RecipeError without drafts or a step `edit`, and where there is no adapter for a map,
    or nothing to fit it on.
    """
    from factory.needs import Needs
    from factory.session import open_bench, open_domain

    domain = open_domain(recipe_path, profile, lambda _: Needs(asked=("refiner",)))
    folder = _adapter_folder(domain) if calibrate else None
    if given or not workspace.is_dir():  # before a workspace is made for nothing
        _drafts(domain, None, given)

    async def work() -> dict[str, Any]:
        async with open_bench(domain, workspace, progress) as bench:
            drafts = _drafts(domain, bench.store, given)
            bench.record_run()
            ask, model_id = await bench.ask("refiner", "evaluate", 0)
            with progress.stage("evaluate refiner", len(drafts), "drafts") as bar:
                found = await evaluate_drafts(domain, drafts, ask, bar.update)
            unseen = is_unseen((draft.source_key for draft in drafts), _adapter_of(domain))
            if not unseen:
                progress.note(warning("the refiner"))
            measured = record_refiner_evaluation(bench, model_id, found)
            return {"model_id": model_id, "is_unseen": unseen, **measured}

    found = run_work(work())
    return found if folder is None else {**found, "calibration_file": save_map(found["calibration"], folder)}


def _drafts(domain: Domain, store: Selects | None, given: bool) -> list[CheckedDraft]:
    """The drafts to measure by; raises RecipeError where there are none."""
    drafts = list(domain.drafts) if given else held_out(gather(domain, Mixture(), store)[0])
    if not drafts:
        hint = "of two sections at least; --given asks about all" if domain.drafts else ""
        raise RecipeError("there are no checked drafts to measure by", where="gold.refiner", hint=hint)
    return drafts


def _adapter_folder(domain: Domain) -> Path:
    folder = _adapter_of(domain)
    if folder is None:
        what = "there is no adapter beside which a calibration could lie"
        raise RecipeError(what, where="models.refiner.adapter", hint="leave out --calibrate")
    return folder


def _adapter_of(domain: Domain) -> Path | None:
    adapter = domain.recipe.models["refiner"].adapter
    return domain.folder / Path(adapter).expanduser() if adapter else None


def save_map(measured: Json, folder: Path) -> str:
    """Writes the map of a measured calibration beside an adapter; raises RecipeError where there is none."""
    if measured is None:
        what = f"nothing to calibrate by: {MIN_POINTS} drafts with probabilities are the least"
        raise RecipeError(what, where="gold.refiner", hint="clean and faulty ones, of several sections")
    return str(save(Calibration(**measured["calibration"]), folder))


def record_refiner_evaluation(bench: Bench, model_id: str, found: RefinerEvaluation) -> dict[str, Json]:
    """Writes an evaluation with its items; returns what a reader is told, with the tallies as rows."""
    items = [_item(each) for each in map(asdict, found.outcomes)]
    key = "rev_" + digest([bench.run_id, model_id, items])
    kinds = {kind: figures(tally) for kind, tally in found.by_kind.items()}
    overall = figures(found.overall)
    numbered = ({"evaluation_id": key, "position": at, **item} for at, item in enumerate(items))
    bench.store.append("refiner_evaluation_items", list(numbered))
    row = {"id": key, "run_id": bench.run_id, "model_id": model_id, "num_drafts": len(items)}
    reliability = measure(points_of(found))
    calibration = reliability.as_json() if reliability else None
    measured = {"figures": {"overall": overall, "by_kind": kinds}, "calibration": calibration}
    bench.store.append("refiner_evaluations", [{**row, **measured}])
    by_kind = [{"kind": kind, **kinds[kind]} for kind in kinds]
    return {"evaluation": key, **overall, "calibration": calibration, "by_kind": by_kind}


def points_of(found: RefinerEvaluation) -> list[Point]:
    """The probability that each draft is clean, and whether it is; none for a draft that has none."""
    return [
        Point(each.p_keep, not each.is_faulty, each.section)
        for each in found.outcomes
        if each.p_keep is not None
    ]


def _item(outcome: dict[str, Json]) -> dict[str, Json]:
    return {"draft_key": outcome.pop("key"), **outcome, "refused": outcome["refused"] or None}
