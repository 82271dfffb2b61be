"""What verdicts are worth to a refiner: learned by preference (DPO, KTO) or as further drafts.

A seed holds out a quarter of the sections, as in benchmarks/refiner.py. A refiner trained on a few drafts
answers others through the recipe's step `edit` on its own server; their known corrections become verdicts in
the store, as people would give them. From there on all is the product's: what `factory.stored_labels` and
`factory.stored_preferences` read is learned by the recipe's trainer, each arm from the base.

    .venv/bin/python -m benchmarks.preference --domain quickstart --seeds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benchmarks.refiner import DOMAINS, FIGURES, Cell, _mean, of_equal_steps, prepare, split
from factory.bench import Bench
from factory.domain import Domain
from factory.examples import refiner_examples, write_jsonl
from factory.progress import Progress
from factory.refine import refine_round
from factory.refiner_evaluation import edit_step, evaluate_drafts, figures, sample_of
from factory.registry import create
from factory.session import open_bench
from factory.store.rows import sample_rows
from factory.stored_labels import StoredLabels
from factory.stored_preferences import StoredPreferences
from factory.types import Adapter, CheckedDraft, Json

# What each learns beside the first drafts: the judged ones as drafts too, and what people said of replies.
ARMS = {
    "first drafts": (False, None),
    "+ judged drafts": (True, None),
    "+ DPO": (False, "dpo"),
    "+ KTO": (False, "kto"),
    "+ judged drafts + DPO": (True, "dpo"),
    "+ judged drafts + KTO": (True, "kto"),
}
FIRST = "first drafts"


class Verdicts(NamedTuple):
    """What the judged drafts of a workspace come to."""

    drafts: list[CheckedDraft]
    preferences: dict[str, list[Json]]  # by method
    counts: Json


async def judge(bench: Bench, drafts: Sequence[CheckedDraft], adapter: Path) -> Verdicts:
    """Lets the refiner decide about drafts, and a person, who knows what is right, about these."""
    domain, round_number = bench.domain, 1
    ask, model_id = await bench.ask("refiner", "refine", round_number, adapter)
    bench.record_model("refiner", model_id, str(adapter))  # its rewrites are no teacher's
    samples = {sample.id: (sample, draft) for draft in drafts for sample in [sample_of(domain, draft)]}
    rows, edges = sample_rows([sample for sample, _ in samples.values()], bench.run_id, round_number)
    bench.store.append("samples", rows)
    bench.store.append("edges", edges)
    steps = [("edit", edit_step(domain))]
    made = (sample for sample, _ in samples.values())
    await refine_round(bench.store, bench.run_id, round_number, steps, made, ask)
    bench.store.append("verdicts", [verdict(id, draft) for id, (_, draft) in samples.items()])
    labels = StoredLabels(bench.store, domain)
    found = [draft for draft, origin in labels.read() if origin == "verdict"]
    read = StoredPreferences(bench.store, domain).read
    preferences = {method: [line for _, line in read(method)] for method in ("dpo", "kto")}
    good = sum(line["label"] for line in preferences["kto"]) - len(preferences["dpo"])
    counts = {"judged": len(found), "left_out": dict(labels.left_out), "right": good}
    counts["wrong"] = len(preferences["dpo"])
    kinds = Counter(draft.reason for draft in found)
    return Verdicts(found, preferences, {**counts, "kinds": dict(kinds)})


def verdict(sample_id: str, draft: CheckedDraft) -> Json:
    """What a person says of a draft."""
    action = "drop" if draft.corrected is None else "keep" if draft.corrected == draft.answer else "edit"
    corrected = draft.corrected if action == "edit" else None
    return {
        "sample_id": sample_id,
        "reviewer": "expert",
        "action": action,
        "reason": draft.reason,
        "corrected": corrected,
    }


def options_of(domain: Domain, method: str | None, share: float, num_epochs: float) -> dict[str, Any]:
    """The trainer's options for preferences: a share of the rate of the supervised training."""
    if method is None:
        return {}
    rate = share * domain.recipe.training["refiner"].options()["learning_rate"]
    return {"preference": {"method": method, "learning_rate": rate, "num_epochs": num_epochs}}


async def train(
    domain: Domain, drafts: Sequence[CheckedDraft], judged: Sequence[Json], changed: Json, directory: Path
) -> Adapter:
    """The refiner that learns drafts and then judged answers, by the recipe's trainer."""
    dataset = directory.with_suffix(".jsonl")
    write_jsonl(chain(refiner_examples(domain, drafts), judged), dataset)
    spec = domain.recipe.training["refiner"]
    spec = type(spec).model_validate({**spec.model_dump(), **changed})
    trainer = create("trainers", spec, domain, "training.refiner")
    return await asyncio.to_thread(trainer.train, dataset, spec.base, directory, lambda *_: None)


async def measure(bench: Bench, drafts: Sequence[CheckedDraft], adapter: Path) -> dict[str, Any]:
    """Figures of a refiner over held-out drafts, and how many of each kind came out right."""
    ask, _ = await bench.ask("refiner", "evaluate", 1, adapter)
    found = await evaluate_drafts(bench.domain, drafts, ask)
    overall = figures(found.overall)
    right = Counter(each.kind for each in found.outcomes if each.is_right)
    num = Counter(each.kind for each in found.outcomes)
    return {
        **{name: overall[name] for name in FIGURES},
        "right": sum(right.values()) / len(found.outcomes),
        "kinds": {kind: [right[kind], num[kind]] for kind in sorted(num)},
    }


async def run(cell: Cell, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All arms of one domain and seed, in one workspace and on one server."""
    changed = {name: json.loads(value) for name, _, value in (each.partition("=") for each in options.set)}
    domain = prepare(cell, options.profile, changed)
    learned, tested = split(domain, cell.seed)
    first, others = learned[: cell.size], learned[cell.size :][: options.judged]
    tested = Random(cell.seed).sample(tested, min(options.tested or len(tested), len(tested)))
    spec = of_equal_steps(domain.recipe.training["refiner"], len(learned))
    domain = replace(domain, recipe=domain.recipe.model_copy(update={"training": {"refiner": spec}}))
    steps, batch = spec.options()["max_steps"], spec.options().get("batch_size", 16)
    rows = []
    with tempfile.TemporaryDirectory(prefix="factory-preference-") as name:
        async with open_bench(domain, Path(name) / "workspace", Progress()) as bench:
            bench.record_run()
            start = await train(domain, first, [], {}, Path(name) / "start")
            verdicts = await judge(bench, others, start.path)
            print(json.dumps({"domain": cell.domain, "seed": cell.seed, **verdicts.counts}), flush=True)
            more = math.ceil(options.num_epochs * math.ceil(len(verdicts.preferences["kto"]) / batch))
            for arm in options.arms:
                as_drafts, method = ARMS[arm]
                begin = time.perf_counter()
                changes = options_of(domain, method, options.rate, options.num_epochs)
                if as_drafts and not method:  # no fewer steps than those that go on by preference
                    changes = {"max_steps": steps + more}
                drafts = [*first, *(verdicts.drafts if as_drafts else [])]
                judged = verdicts.preferences[method] if method else []
                folder = Path(name) / "".join(letter for letter in arm if letter.isalpha())
                adapter = start if arm == FIRST else await train(domain, drafts, judged, changes, folder)
                seconds = round(time.perf_counter() - begin, 1)
                record = json.loads((adapter.path / "training.json").read_text("utf-8"))
                row = {"domain": cell.domain, "seed": cell.seed, "arm": arm, "drafts": len(drafts)}
                row |= {"preferences": len(judged), "preference_loss": record.get("preference_loss")}
                row |= {"steps": adapter.num_steps, "tested": len(tested), "train_seconds": seconds}
                row |= {"verdicts": verdicts.counts, **await measure(bench, tested, adapter.path)}
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def print_table(rows: Sequence[dict[str, Any]]) -> None:
    """Means over seeds, with the lowest and highest."""
    names = (*FIGURES, "right")
    print(f"\n| domain | learned | seeds | drafts | preferences | {' | '.join(names)} |")
    print(f"|{' --- |' * (5 + len(names))}")
    for domain, arm in dict.fromkeys((row["domain"], row["arm"]) for row in rows):
        found = [row for row in rows if (row["domain"], row["arm"]) == (domain, arm)]
        counts = [f"{sum(row[key] for row in found) / len(found):.0f}" for key in ("drafts", "preferences")]
        shown = [_mean([row[name] for row in found]) for name in names]
        print(f"| {domain} | {arm} | {len(found)} | {' | '.join([*counts, *shown])} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--domain", nargs="+", choices=list(DOMAINS), default=list(DOMAINS))
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--first", type=int, default=25, help="drafts that the first refiner learns")
    parser.add_argument("--judged", type=int, default=200, help="drafts that it answers and people judge")
    parser.add_argument("--tested", type=int, help="held-out drafts, drawn by lot; all of them by default")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--rate", type=float, default=0.2, help="share of the supervised learning rate")
    parser.add_argument("--num-epochs", type=float, default=5.0, help="passes over the judged answers")
    parser.add_argument("--set", nargs="*", default=[], help="options of the trainer: max_steps=100")
    options = parser.parse_args()
    rows = []
    for name in options.domain:
        for seed in options.seeds:
            rows += asyncio.run(run(Cell(name, "restate", options.first, seed), options))
    print_table(rows)
    told = {name: value for name, value in vars(options).items() if name not in ("domain", "arms")}
    print(json.dumps({"benchmark": "preference", **told, "results": rows}))


if __name__ == "__main__":
    main()
