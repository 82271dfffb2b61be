"""The product's memory at growing numbers of samples: one recipe, one endpoint without delay.

The recipe has the same sections each time, so that what grows is what samples cost. Every second the run is
asked what DuckDB holds, as `factory sql` asks it; the rest is Python's. What a sample adds is the growth from
one size to the next.

    python -m benchmarks.memory --samples 5000 50000 500000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.endpoint import Behaviour, endpoint
from benchmarks.generate import ours, plain_environment
from benchmarks.workload import write_recipe
from factory.errors import InputError
from factory.store import remote

NUM_ROWS = 5000
POLL_SECONDS = 1.0
MIB = 2**20
DUCKDB = "SELECT coalesce(sum(memory_usage_bytes), 0)::BIGINT FROM duckdb_memory()"
Result = dict[str, Any]


def run(num_samples: int, in_flight: int) -> Result:
    """One run in a process of its own over a fresh workspace; memory in MiB."""
    with (
        endpoint(Behaviour(delay_ms=0)) as server,
        tempfile.TemporaryDirectory(prefix="factory-bench-") as name,
    ):
        folder = Path(name)
        recipe = write_recipe(folder / "recipe", NUM_ROWS, server.base_url, in_flight, num_samples)
        words = ours(recipe, folder / "workspace")
        process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=plain_environment())
        watched = watch(process, folder / "workspace")
        assert process.stdout is not None
        told = process.stdout.read()
        if process.returncode:
            raise SystemExit(f"the run of {num_samples:,} samples ended with status {process.returncode}")
        found: Result = json.loads(told)
        size = (folder / "workspace" / "factory.duckdb").stat().st_size
    return {**found, **watched, "file_mib": size / MIB}


def watch(process: subprocess.Popen[str], workspace: Path) -> Result:
    """What the process held when it held most: `duckdb_mib` of it by DuckDB, `other_mib` by all else."""
    most = {"duckdb_mib": 0.0, "other_mib": 0.0}
    while process.poll() is None:
        time.sleep(POLL_SECONDS)
        try:
            duckdb = remote.ask(workspace, DUCKDB).rows[0][0] / MIB
            resident = psutil.Process(process.pid).memory_info().rss / MIB
        except (ConnectionError, InputError, psutil.NoSuchProcess):  # not yet, or no longer
            continue
        if resident > sum(most.values()):
            most = {"duckdb_mib": duckdb, "other_mib": resident - duckdb}
    return most


def show(num_samples: int, result: Result, before: tuple[int, Result] | None) -> None:
    """One row of the table."""
    grown = ""
    if before:
        added = result["peak_mib"] - before[1]["peak_mib"]
        grown = f"{1024 * added / (num_samples - before[0]):.2f}"
    rate, sizes = result["samples"] / result["seconds"], ("peak_mib", "duckdb_mib", "other_mib")
    memory = " | ".join(f"{result[name]:,.0f}" for name in sizes)
    print(
        f"| {result['samples']:,} of {num_samples:,} | {result['seconds']:,.1f} | {rate:,.0f} | {memory} "
        f"| {grown} | {result['file_mib']:,.0f} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[5_000, 50_000, 500_000])
    parser.add_argument("--in-flight", type=int, default=256)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} at the start, {NUM_ROWS:,} sections\n")
    print(
        "| samples | seconds | samples/s | peak MiB | of it DuckDB | other | KiB a sample more | file MiB |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    results: dict[int, Result] = {}
    for num_samples in options.samples:
        before = list(results.items())[-1] if results else None
        results[num_samples] = run(num_samples, options.in_flight)
        show(num_samples, results[num_samples], before)
    print(json.dumps({"benchmark": "memory", "load": load, **vars(options), "results": results}))


if __name__ == "__main__":
    main()
