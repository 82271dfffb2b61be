"""What the commands of `factory refiner` do: gather, train, compare, promote; each returns plain data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from factory.interpreter import run_work
from factory.labels import Mixture
from factory.load import placed
from factory.needs import Needs, check_needs
from factory.refiner_data import gather, held_out, summary, write_chats, write_drafts
from factory.session import open_domain

if TYPE_CHECKING:
    from factory.progress import Progress


class Files(NamedTuple):
    """What is written beside the summary; None: nothing."""

    chats: Path | None = None
    drafts: Path | None = None


def show_data(
    recipe_path: Path,
    profile: str | None,
    workspace: Path | None,
    examples: int | None,
    faults: int,
    files: Files,
) -> dict[str, Any]:
    """`factory refiner data`: the counts, and the files where they are wanted."""
    from factory.store.queries import Reader

    domain = open_domain(recipe_path, profile)
    mixture = Mixture(faults_each=faults, num_examples=examples)
    if workspace is None:
        labelled, left_out = gather(domain, mixture)
    else:
        with Reader(workspace) as reader:
            labelled, left_out = gather(domain, mixture, reader)
    if files.chats is not None:
        write_chats(domain, labelled, files.chats)
    if files.drafts is not None:
        write_drafts(held_out(labelled), files.drafts)
    return {"recipe": domain.recipe.name, **summary(labelled, left_out)}


def train(
    recipe_path: Path,
    profile: str | None,
    workspace: Path,
    output: Path,
    examples: int | None,
    faults: int,
    progress: Progress,
) -> dict[str, Any]:
    """`factory refiner train`: a candidate from recipe's and workspace's drafts, promoted if better."""
    from factory.refiner_evaluation import edit_step
    from factory.refiner_training import train_and_compare, without_missing_adapter
    from factory.session import open_bench

    domain = without_missing_adapter(open_domain(recipe_path, profile))
    with placed(recipe_path, profile):
        check_needs(domain, Needs(asked=("refiner",), trained=("refiner",)))
    edit_step(domain)
    mixture = Mixture(faults_each=faults, num_examples=examples)

    async def work() -> dict[str, Any]:
        async with open_bench(domain, workspace, progress) as bench:
            bench.record_run()
            labelled, left_out = gather(domain, mixture, bench.store)
            by_origin = Counter(each.origin for each in labelled)
            told = ", ".join(f"{num:,} {origin}" for origin, num in by_origin.items())
            progress.note(f"drafts by origin, of the recipe and of {workspace}: {told}")
            found = await train_and_compare(bench, labelled, output)
            return {**found, "left_out": dict(left_out)}

    return run_work(work())
