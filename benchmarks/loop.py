"""Runs the whole loop for several random seeds and prints mean and spread of the test accuracy.

Arms: the base; `raw`, the same teacher calls with no refiner; `checks`, the same calls with the
deterministic checks alone; and the student after each round. Every arm of a seed starts from the
same base and trains with the same options. One JSON line at the end.

    .venv/bin/python benchmarks/loop.py --seeds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from factory.progress import Progress
from factory.session import open_bench, open_domain
from factory.significance import mcnemar

CHECKS = ["form", "exact", "near", "contamination", "round_trip", "citation"]
TEST = """
    SELECT coalesce(r.control, CASE e.round WHEN 0 THEN 'base' ELSE 'round ' || e.round END) AS arm,
           e.mean, e.id, d.num_samples
    FROM evaluations e JOIN runs r ON r.id = e.run_id
    LEFT JOIN datasets d ON d.run_id = e.run_id AND d.round = e.round
    WHERE e.split = 'test' ORDER BY e.created_at"""
PAIRS = """
    SELECT count(*) FILTER (a.score > b.score) AS better, count(*) FILTER (a.score < b.score) AS worse
    FROM evaluation_items a JOIN evaluation_items b USING (item_key)
    WHERE a.evaluation_id = ? AND b.evaluation_id = ?"""


async def run_seed(recipe: Path, profile: str, seed: int) -> dict[str, Any]:
    """Accuracy and dataset size of each arm, and the exact McNemar p-value of the last round against raw."""
    from factory.loop import run_loop

    domain = open_domain(recipe, profile)
    loop = domain.recipe.loop.model_copy(update={"controls": {"raw": [], "checks": CHECKS}})
    domain = replace(domain, recipe=domain.recipe.model_copy(update={"seed": seed, "loop": loop}))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="factory-loop-") as folder:
        async with open_bench(domain, Path(folder), Progress()) as bench:
            await run_loop(bench)
            rows = bench.store.select(TEST)
            ids = {row["arm"]: row["id"] for row in rows}
            last = ids[f"round {domain.recipe.loop.rounds}"]
            pair = bench.store.select(PAIRS, (last, ids["raw"]))[0]
    arms = {row["arm"]: row["mean"] for row in rows}
    sizes = {row["arm"]: row["num_samples"] for row in rows}
    return {
        "seed": seed,
        "arms": arms,
        "samples": sizes,
        "p": mcnemar(pair["better"], pair["worse"]),
        "seconds": time.perf_counter() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/georgia_workers_comp"))
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    results = []
    for seed in range(1, options.seeds + 1):
        result = asyncio.run(run_seed(options.recipe, options.profile, seed))
        results.append(result)
        print(json.dumps(result), flush=True)
    print(f"\n| arm | test accuracy, mean of {len(results)} | spread (sd) | lowest | highest | samples |")
    print("| --- | --- | --- | --- | --- | --- |")
    for arm in results[0]["arms"]:
        values = [result["arms"][arm] for result in results]
        sizes = [result["samples"][arm] or 0 for result in results]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(
            f"| {arm} | {statistics.mean(values):.1%} | {spread:.1%} | {min(values):.1%} | {max(values):.1%} "
            f"| {statistics.mean(sizes):.0f} |"
        )
    print(
        f"\nlast round against raw, exact McNemar: largest p = {max(result['p'] for result in results):.2g}"
    )
    print(json.dumps({"benchmark": "loop", "results": results}))


if __name__ == "__main__":
    main()
