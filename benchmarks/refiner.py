"""How well a refiner learns from few checked drafts: verdict, faults fixed, damage, over seeds and sizes.

A seed holds out a quarter of the sections. Of the drafts about the others it trains on 25, 50 … or all, by
the recipe's own trainer, and asks what came of it about every held-out draft, through the recipe's own step
`edit` on its own server. A training of few drafts takes as many steps as one of all. Results are lines of a
file: what is there is not done again, and several processes may work on one file.

    .venv/bin/python benchmarks/refiner.py --domain beekeeping --seeds 0 1 2 3 4 --sizes 25 50 100 200 all
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from factory.bench import Bench
from factory.domain import Domain
from factory.errors import InputError
from factory.examples import refiner_examples, write_jsonl
from factory.progress import Progress
from factory.recipe import TrainingSpec
from factory.refiner_evaluation import DraftOutcome, evaluate_drafts, figures
from factory.registry import create
from factory.session import open_bench, open_domain
from factory.types import CheckedDraft, digest

RECIPES = Path(__file__).parents[1] / "recipes"
DOMAINS = {"quickstart": "georgia_workers_comp", "beekeeping": "beekeeping"}
HELD_OUT = 0.25  # of the sections
FORMS = {"restate": True, "edits": False}
FIGURES = ("f1", "precision", "recall", "fixed", "removed", "damaged")


class Cell(NamedTuple):
    """One training and its evaluation; `size` is 0 for all drafts."""

    domain: str
    form: str
    size: int
    seed: int


def split(domain: Domain, seed: int) -> tuple[list[CheckedDraft], list[CheckedDraft]]:
    """Drafts to train on, in random order, and held-out ones; drafts of one citation are on one side.

    A training of fewer drafts takes the first of them, so that the larger ones hold the smaller.
    """
    rng, cited = Random(f"refiner {seed}"), domain.source_by_key
    citations = sorted({cited[draft.source_key].citation for draft in domain.drafts})
    held_out = set(rng.sample(citations, round(HELD_OUT * len(citations))))
    trained: list[CheckedDraft] = []
    tested: list[CheckedDraft] = []
    for draft in domain.drafts:
        (tested if cited[draft.source_key].citation in held_out else trained).append(draft)
    rng.shuffle(trained)
    return trained, tested


def prepare(cell: Cell, profile: str, options: dict[str, Any]) -> Domain:
    """The domain in the cell's form, with its seed and the trainer's options changed as the user wants."""
    domain = open_domain(RECIPES / DOMAINS[cell.domain], profile)
    recipe = domain.recipe
    edit = next(spec for spec in recipe.refiners if spec.name == "edit")
    edit = type(edit).model_validate({**edit.model_dump(), "restate": FORMS[cell.form]})
    trained = recipe.training["refiner"]
    trained = type(trained).model_validate({**trained.model_dump(), **options})
    changed = {
        "seed": cell.seed,
        "refiners": [edit if spec.name == "edit" else spec for spec in recipe.refiners],
        "training": {"refiner": trained},
        "loop": recipe.loop.model_copy(update={"controls": {}, "max_failure_share": 1.0}),
    }
    return replace(domain, recipe=recipe.model_copy(update=changed))


def of_equal_steps(spec: TrainingSpec, num_all: int) -> TrainingSpec:
    """The training in as many steps as the recipe's epochs over all drafts take, however many there are."""
    options = {"batch_size": 16, "gradient_accumulation": 1, "num_epochs": 3.0, **spec.model_dump()}
    if options.get("max_steps"):
        return spec
    steps = math.ceil(num_all / (options["batch_size"] * options["gradient_accumulation"]))
    steps = round(steps * options["num_epochs"])
    return type(spec).model_validate({**spec.model_dump(), "max_steps": steps, "num_epochs": None})


async def measure(cell: Cell, domain: Domain, bench: Bench, folder: Path) -> dict[str, Any]:
    """Trains on the cell's drafts and asks about the held-out ones; figures overall and by kind."""
    trained, tested = split(domain, cell.seed)
    if cell.size > len(trained):
        raise InputError(f"{cell.domain} has {len(trained)} drafts to train on, not {cell.size}")
    num_all, trained = len(trained), trained[: cell.size or None]
    directory = folder / "-".join(map(str, cell))
    dataset = directory.with_suffix(".jsonl")
    write_jsonl(refiner_examples(replace(domain, drafts=tuple(trained))), dataset)
    spec = of_equal_steps(domain.recipe.training["refiner"], num_all)
    start = time.perf_counter()
    trainer = create("trainers", spec, domain, "training.refiner")
    adapter = await asyncio.to_thread(trainer.train, dataset, spec.base, directory, lambda *_: None)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    ask, _ = await bench.ask("refiner", "evaluate", 0, adapter.path)
    found = await evaluate_drafts(domain, tested, ask)
    overall, outcomes = figures(found.overall), found.outcomes
    of_kind = {kind: [each for each in outcomes if each.kind == kind] for kind in found.by_kind}
    return {
        "trained": len(trained),
        "tested": len(tested),
        **{name: overall[name] for name in FIGURES},
        "refused": Counter(each.refused for each in outcomes if each.refused),
        "kinds": {
            kind: {
                "num": len(of_kind[kind]),
                "flagged": statistics.mean(each.is_flagged for each in of_kind[kind]),
                "right": statistics.mean(each.is_right for each in of_kind[kind]),
            }
            for kind in of_kind
        },
        "steps": adapter.num_steps,
        "loss": adapter.loss,
        "train_seconds": round(seconds, 1),
        "ask_seconds": round(time.perf_counter() - start, 1),
        "misses": misses(outcomes),
    }


def misses(outcomes: Sequence[DraftOutcome], most: int = 20) -> list[dict[str, str | None]]:
    """Some drafts that did not come out right, at most three of a kind: to see what a model fails at."""
    shown: Counter[str] = Counter()
    found = []
    for each in outcomes:
        if not each.is_right and shown[each.kind] < 3:
            shown[each.kind] += 1
            found.append({"kind": each.kind, "answer": each.answer, "became": each.became})
    return found[:most]


def read(output: Path) -> dict[str, dict[str, Any]]:
    """Results by the key of their cell."""
    lines = output.read_text(encoding="utf-8").splitlines() if output.exists() else []
    return {row["key"]: row for row in map(json.loads, lines)}


@contextmanager
def claimed(output: Path, key: str) -> Iterator[bool]:
    """Whether the cell is ours while this is open; another process has it, or has done it, otherwise."""
    locks = output.with_suffix(".claims")
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / key).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield key not in read(output)


def record(output: Path, row: dict[str, Any]) -> None:
    """Appends a result as one line, in one write."""
    with output.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")


async def run(cells: Sequence[tuple[str, Cell, Domain]], output: Path) -> None:
    """Does the cells of one domain that nobody did or does; one server, adapters loaded one after another."""
    if all(key in read(output) for key, *_ in cells):
        return
    with tempfile.TemporaryDirectory(prefix="factory-refiner-") as name:
        async with open_bench(cells[0][2], Path(name) / "workspace", Progress()) as bench:
            bench.record_run()
            for key, cell, domain in cells:
                with claimed(output, key) as ours:
                    if ours:
                        found = await measure(cell, domain, bench, Path(name))
                        row = {"key": key, **cell._asdict(), **found}
                        record(output, row)
                        print(json.dumps(row), flush=True)


def print_tables(rows: Sequence[dict[str, Any]]) -> None:
    """Means over seeds with the lowest and highest, and of the largest size what became of each kind."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["domain"], row["form"], row["size"]), []).append(row)
    print(f"\n| domain | form | drafts | seeds | {' | '.join(FIGURES)} |")
    print(f"|{' --- |' * (4 + len(FIGURES))}")
    for (domain, form, _), found in groups.items():
        shown = [_mean([row[name] for row in found]) for name in FIGURES]
        trained = f"{statistics.mean(row['trained'] for row in found):.0f}"
        print(f"| {domain} | {form} | {trained} | {len(found)} | {' | '.join(shown)} |")
    print("\n| domain | form | drafts | kind | held out | flagged | right |\n|" + " --- |" * 7)
    for (domain, form, _), found in groups.items():
        trained = f"{statistics.mean(row['trained'] for row in found):.0f}"
        for kind in sorted({kind for row in found for kind in row["kinds"]}):
            of_kind = [row["kinds"][kind] for row in found if kind in row["kinds"]]
            num = sum(each["num"] for each in of_kind)
            shown = [_mean([each[name] for each in of_kind]) for name in ("flagged", "right")]
            print(f"| {domain} | {form} | {trained} | {kind} | {num} | {' | '.join(shown)} |")


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ({min(known):.1%}–{max(known):.1%})" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1%}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--domain", nargs="+", choices=list(DOMAINS), default=list(DOMAINS))
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--form", nargs="+", choices=list(FORMS), default=list(FORMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--sizes", nargs="+", default=["25", "50", "100", "200", "all"])
    parser.add_argument("--set", nargs="*", default=[], help="options of the trainer: learning_rate=0.001")
    parser.add_argument("--output", type=Path, default=Path("refiner-results.jsonl"))
    options = parser.parse_args()
    changed = {name: json.loads(value) for name, _, value in (each.partition("=") for each in options.set)}
    sizes = [0 if size == "all" else int(size) for size in options.sizes]
    rows = []
    for name in options.domain:
        cells = []
        for seed in options.seeds:
            for cell in (Cell(name, form, size, seed) for form in options.form for size in sizes):
                domain = prepare(cell, options.profile, changed)
                trained = domain.recipe.training["refiner"].model_dump(mode="json")
                key = digest([list(cell), trained, domain.recipe.models["refiner"].model_dump(mode="json")])
                cells.append((key, cell, domain))
        asyncio.run(run(cells, options.output))
        found = read(options.output)
        rows += [found[key] for key, *_ in cells if key in found]
    print_tables(rows)
    shown = [{key: value for key, value in row.items() if key != "misses"} for row in rows]
    print(json.dumps({"benchmark": "refiner", "set": changed, "results": shown}))


if __name__ == "__main__":
    main()
