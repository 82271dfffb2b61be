"""What `factory evaluate --model` and `--suite` do: open a workspace, ask the models, say what came out.

Each returns plain data that can be printed as JSON. Whatever happens, servers stop and the store is closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.interpreter import run_work
from factory.needs import Needs, needs_of_evaluation
from factory.session import open_bench, open_domain
from factory.store import queries
from factory.types import Split

if TYPE_CHECKING:
    from factory.progress import Progress


def evaluate_models(
    recipe_path: Path,
    profile: str | None,
    models: Sequence[str],
    split: Split,
    workspace: Path,
    progress: Progress,
) -> dict[str, Any]:
    """`factory evaluate --model A --model B`: the same items for each, in one session of their server."""
    from factory.by_hand import evaluate_by_hand

    _refuse_new(workspace, models)
    domain = open_domain(recipe_path, profile, needs_of_evaluation)

    async def work() -> dict[str, Any]:
        async with open_bench(domain, workspace, progress) as bench:
            bench.record_run()
            return await evaluate_by_hand(bench, models, split)

    return run_work(work())


def evaluate_suite(
    recipe_path: Path,
    profile: str | None,
    models: Sequence[str],
    folder: Path,
    workspace: Path,
    progress: Progress,
) -> dict[str, Any]:
    """`factory evaluate --suite FOLDER`: lm-evaluation-harness tasks, asked of each model."""
    from factory import suite

    folder = suite.check_suite(folder)
    _refuse_new(workspace, models)
    domain = open_domain(recipe_path, profile, lambda _: Needs(asked=("student",)))

    async def work() -> dict[str, Any]:
        async with open_bench(domain, workspace, progress) as bench:
            bench.record_run()
            return await suite.evaluate_suite(bench, models, folder)

    return run_work(work())


def _refuse_new(workspace: Path, models: Sequence[str]) -> None:
    """Raises WorkspaceError where a student of the workspace is meant and there is none: a mistyped path."""
    if any(word != "base" and not Path(word).is_dir() for word in models):
        queries.read(workspace, "SELECT 1")
