"""A student's adapter and its base as one model in a folder: files, figures of the comparison, and a card.

Which student, and on which chats the merge is compared with it, the store says; how they are merged is the
trainer's. The folder appears under its name only when it is whole. Nothing is uploaded anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory.accuracy import Selects
from factory.errors import InputError, RecipeError
from factory.findings import find_run
from factory.model_card import render_model_card
from factory.partial_files import new_folder
from factory.ports import MergeJob
from factory.progress import Progress
from factory.registry import find
from factory.store.text import from_json
from factory.types import Json

# By the evaluation that promoted it: two runs that trained the same student share its row in `models`.
PROMOTED = """
    SELECT e.model_id FROM (
        SELECT s.run_id, s.round FROM stages s JOIN runs r ON r.id = s.run_id AND r.control IS NULL
        WHERE s.status = 'done'
          AND (s.stage = 'promote_by_hand' OR s.stage = 'promote' AND (s.detail->>'promote')::BOOLEAN)
        ORDER BY s.created_at DESC, s.rowid DESC LIMIT 1
    ) p JOIN evaluations e ON e.run_id = p.run_id AND e.round = p.round AND e.split = 'dev'
    WHERE p.round > 0
"""

# As the student was asked them, drawn evenly over an order that no slice has a part in.
ASKED = """
    SELECT i.item_key, any_value(c.request) AS request, any_value(i.expected) AS expected
    FROM evaluation_items i JOIN calls c ON c.id = i.call_id AND c.status = 'ok'
    WHERE i.evaluation_id = (
        SELECT id FROM evaluations WHERE model_id = ? AND split = 'dev' ORDER BY created_at DESC, id LIMIT 1
    )
    GROUP BY i.item_key ORDER BY md5(i.item_key), i.item_key LIMIT ?
"""


@dataclass(frozen=True)
class HowToMerge:
    """Which student, and how; `base` is where its base lies now.

    `max_difference` of the logits is a share of their spread. A merge that is right differs by 0.01 at most,
    by rounding to bfloat16; one in 4 bit, or onto other weights, by 0.045 at least (benchmarks/merge.py).
    """

    model_id: str | None = None
    base: Path | None = None
    dtype: str = "bfloat16"
    num_chats: int = 64
    max_difference: float = 0.03


def merge(
    store: Selects,
    workspace: Path,
    directory: Path,
    progress: Progress,
    how: HowToMerge,
) -> dict[str, Any]:
    """Writes the model to `directory`, absent or empty; returns what was written and compared.

    By default that is the student that was promoted last. Raises InputError for what cannot be merged,
    TrainingError where the merge fails or diverges, WorkspaceError where the disk refuses.
    """
    model = find_student(store, how.model_id)
    trainer = find_trainer(store, model)
    chats = read_chats(store, model["id"], how.num_chats)
    adapter = find_adapter(workspace, model)
    directory = directory.resolve()
    with new_folder(directory, "the model") as partial:
        base = str(how.base.resolve()) if how.base else None
        job = MergeJob(adapter, partial, chats, how.dtype, how.max_difference, base)
        with progress.stage(f"merge {model['name']}", None, "steps") as bar:
            merged = trainer.merge(job, bar.update)
        (partial / "README.md").write_text(render_model_card(store, model, merged), encoding="utf-8")
    return {
        "directory": str(directory),
        "model": model["id"],
        "adapter": str(adapter),
        **{name: merged[name] for name in ("base", "weights", "dtype", "bound", "comparison")},
        "files": sorted(path.name for path in directory.iterdir()),
    }


def find_student(store: Selects, model_id: str | None) -> dict[str, Any]:
    """The row of a model with an adapter, by default of the student that was promoted last."""
    if model_id is None:
        rows = store.select(PROMOTED)
        if not rows:
            hint = "`factory run` promotes one where it gains; --model names another"
            raise InputError("no student was promoted in this workspace", hint=hint)
        model_id = rows[0]["model_id"]
    rows = store.select("SELECT * FROM models WHERE id = ?", (model_id,))
    if not rows:
        hint = "`factory sql 'FROM model_history'` lists what is there"
        raise InputError(f"no model '{model_id}' in this workspace", hint=hint)
    if not rows[0]["adapter"]:
        raise InputError("has no adapter that could be merged", where=model_id)
    return rows[0]


def find_trainer(store: Selects, model: dict[str, Any]) -> Any:
    """The class that trained the model, by the recipe of its run; raises InputError where it cannot merge."""
    if not model["run_id"]:
        raise InputError("was not trained in this workspace", where=model["id"])
    spec = (find_run(store, model["run_id"])["config"] or {}).get("training", {}).get(model["role"])
    if spec is None:
        raise InputError(f"its run trained no {model['role']}", where=model["id"])
    found = find("trainers", spec["name"], f"training.{model['role']}")
    if not hasattr(found, "merge"):
        raise RecipeError(f"the trainer '{spec['name']}' cannot merge", where=model["id"])
    return found


def read_chats(store: Selects, model_id: str, num_chats: int) -> Sequence[Json]:
    """What the student was asked on dev and had to say, at most so many chats.

    Raises InputError where it was asked nothing.
    """
    rows = store.select(ASKED, (model_id, num_chats))
    if not rows:
        what = "no evaluation on dev, on whose questions adapter and merge could be compared"
        raise InputError(what, where=model_id, hint="`factory evaluate` makes one")
    chats = []
    for row in rows:
        asked = from_json(row["request"]) | {"expected": row["expected"]}
        chats.append({name: asked[name] for name in ("messages", "tools", "expected") if name in asked})
    return chats


def find_adapter(workspace: Path, model: dict[str, Any]) -> Path:
    """The model's adapter where the workspace lies now, or where it lay; raises InputError where neither."""
    stored = Path(model["adapter"])
    for path in (workspace.resolve() / "adapters" / stored.name, stored):
        if (path / "adapter_config.json").is_file():
            return path
    raise InputError("the adapter's folder is gone", where=str(stored))
