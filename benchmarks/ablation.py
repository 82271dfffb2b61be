"""What each way of refining is worth: test accuracy of a student from the same teacher calls, over seeds.

Arms: `raw`, no refiner; `checks`, the deterministic checks alone; `edits`, the checks and the refiner, whose
full rewrites are refused; `edits and rewrites`, the recipe's own steps; `self`, where the teacher plays the
refiner; and `more`, the checks over as many samples more as the refiner's tokens would have paid for. All
start from the same base with the same options of training. Tokens are those of generating and of refining.

    python -m benchmarks.ablation --seeds 1 2 3 4 5 --samples 2304
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from factory.bench import Bench
from factory.domain import Domain
from factory.progress import Progress
from factory.recipe import StepSpec
from factory.session import open_bench, open_domain

CHECKS = ("form", "exact", "near", "contamination", "round_trip", "citation")
ARMS = ("raw", "checks", "edits", "edits and rewrites", "self", "more")
AT_ONCE = 2  # students that train, one core each
FOUND = """
    SELECT e.mean, d.num_samples FROM evaluations e LEFT JOIN datasets d ON d.run_id = e.run_id
    WHERE e.run_id = ? AND e.round = 1 AND e.split = 'test'"""
MADE = """
    SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)::BIGINT AS tokens FROM calls WHERE id IN (
        SELECT e.parent FROM round_samples r JOIN edges e ON e.child = r.sample_id
        WHERE r.run_id = ? AND e.relation = 'call')"""
REFINED = """
    SELECT coalesce(sum(prompt_tokens + completion_tokens), 0)::BIGINT AS tokens FROM calls
    WHERE stage = 'refine' AND run_id = ANY(?)"""
Result = dict[str, Any]


def steps_of(domain: Domain, arm: str) -> list[StepSpec]:
    """The recipe's refiners as an arm has them."""
    steps = list(domain.recipe.refiners)
    if arm == "raw":
        return []
    if arm in {"checks", "more"}:
        return [step for step in steps if step.name in CHECKS]
    if arm == "edits":
        return [
            step.model_copy(update={"rewrites": False}) if step.name == "edit" else step for step in steps
        ]
    return steps


def sized(domain: Domain, seed: int, num_samples: int) -> Domain:
    """The domain for one round of so many samples, asked with a seed."""
    loop = {"rounds": 1, "controls": {}, "samples_per_round": num_samples, "accepted": None}
    loop["selection"] = None
    recipe = domain.recipe.model_copy(
        update={"seed": seed, "loop": domain.recipe.loop.model_copy(update=loop)}
    )
    return replace(domain, recipe=recipe)


def arm_of(bench: Bench, name: str, num_samples: int | None = None) -> Bench:
    """The bench of an arm: the same parts with other refiners, as a run of its own."""
    slug = name.replace(" ", "_")
    domain = sized(bench.domain, bench.recipe.seed, num_samples or bench.recipe.loop.num_tasks)
    recipe = domain.recipe.model_copy(update={"refiners": steps_of(domain, name)})
    run_id = f"{bench.run_id}_{slug}"
    domain = replace(domain, recipe=recipe)
    return replace(bench, domain=domain, run_id=run_id, engine=bench.engine.for_run(run_id), control=slug)


def tokens(bench: Bench, sql: str, runs: object) -> int:
    """Of the calls that samples were made of, wherever they were paid, or that runs paid for refining."""
    return int(bench.store.select(sql, (runs,))[0]["tokens"])


async def finish(main: Bench, arms: Sequence[Bench]) -> None:
    """Students of arms over the main run's calls, a few at once."""
    from factory.loop import run_control

    free = asyncio.Semaphore(AT_ONCE)

    async def one(arm: Bench) -> None:
        async with free:
            await run_control(main, arm)

    await asyncio.gather(*map(one, arms))


async def run_more(main: Bench, arm: Bench) -> None:
    """A student of more samples; those that the main run asked for too are found."""
    from factory.loop import run_round

    arm.record_run()
    await run_round(arm, 1)


async def run_seed(domain: Domain, seed: int, num_samples: int, folder: Path) -> Result:
    """Accuracy, samples and tokens of each arm."""
    from factory.loop import run_round

    domain = sized(domain, seed, num_samples)
    start = time.perf_counter()
    async with open_bench(domain, folder, Progress()) as bench:
        bench.record_run()
        await run_round(bench, 1, "generate")
        arms = {name: arm_of(bench, name) for name in ARMS[:4]}
        await finish(bench, list(arms.values()))
        refined = tokens(bench, REFINED, [arm.run_id for arm in arms.values()])
        made = tokens(bench, MADE, bench.run_id)
        more = arms["more"] = arm_of(bench, "more", round(num_samples * (1 + refined / made)))
        await run_more(bench, more)
        made_more = tokens(bench, MADE, more.run_id)
    models = {**domain.recipe.models, "refiner": domain.recipe.models["teacher"]}
    greedy = models["refiner"].sampling.model_copy(
        update={"temperature": 0.0, "max_tokens": domain.recipe.models["refiner"].sampling.max_tokens}
    )
    models["refiner"] = models["refiner"].model_copy(update={"sampling": greedy})
    alone = replace(domain, recipe=domain.recipe.model_copy(update={"models": models}))
    async with open_bench(alone, folder, Progress()) as other:
        arms["self"] = arm_of(other, "self")
        await finish(bench, [arms["self"]])
        refined_itself = tokens(other, REFINED, [arms["self"].run_id])
        found = {name: other.store.select(FOUND, (arm.run_id,))[0] for name, arm in arms.items()}
    spent = dict.fromkeys(("raw", "checks"), made) | dict.fromkeys(
        ("edits", "edits and rewrites"), made + refined
    )
    spent |= {"self": made + refined_itself, "more": made_more}
    return {
        "seed": seed,
        "accuracy": {name: found[name]["mean"] for name in ARMS},
        "samples": {name: found[name]["num_samples"] for name in ARMS},
        "tokens": {name: spent[name] for name in ARMS},
        "seconds": time.perf_counter() - start,
    }


def show(results: Sequence[Result]) -> None:
    """The table over seeds."""
    print(f"\n| arm | test accuracy, mean of {len(results)} | sd | lowest | highest | samples | tokens |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in ARMS:
        values = [result["accuracy"][name] for result in results]
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        samples, spent = (
            statistics.mean(each[key][name] for each in results) for key in ("samples", "tokens")
        )
        print(
            f"| {name} | {statistics.mean(values):.1%} | {sd:.1%} | {min(values):.1%} | {max(values):.1%} "
            f"| {samples:,.0f} | {spent:,.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", type=Path, default=Path("recipes/georgia_workers_comp"))
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--samples", type=int, default=2304)
    options = parser.parse_args()
    domain = open_domain(options.recipe, options.profile)
    results = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory(prefix="factory-ablation-") as folder:
            results.append(asyncio.run(run_seed(domain, seed, options.samples, Path(folder))))
        print(json.dumps(results[-1]), flush=True)
    show(results)
    print(json.dumps({"benchmark": "ablation", "results": results}))


if __name__ == "__main__":
    main()
