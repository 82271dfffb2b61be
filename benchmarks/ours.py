"""Our own product at the benchmark's work: a recipe in, samples generated, checked and committed.

python -m benchmarks.ours RECIPE_FOLDER WORKSPACE
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import duckdb

from benchmarks.measure import measured
from factory.progress import Progress
from factory.session import run_until

# What the command would import on its way; importing is no part of the other contenders' time either.
LATER = (
    "aiohttp",
    "httpx2",
    "openai",
    "pyarrow",
    "factory.engine",
    "factory.loop",
    "factory.models.client",
    "factory.models.pool",
    "factory.store.store",
    "generators.grounded",
    "refiners.form",
)
OPTIONAL = ("pandas",)  # which pyarrow imports where it is there
KEPT = "SELECT count(*) FROM decisions WHERE final AND action = 'keep'"


def main() -> None:
    recipe, workspace = Path(sys.argv[1]), Path(sys.argv[2])
    for name in LATER:
        importlib.import_module(name)
    for name in OPTIONAL:
        if importlib.util.find_spec(name):
            importlib.import_module(name)
    with Path(os.devnull).open("w") as nowhere, measured() as found:
        run_until(recipe, None, workspace, Progress(nowhere), "refine")
        with duckdb.connect(workspace / "factory.duckdb", read_only=True) as connection:
            found["samples"] = connection.execute(KEPT).fetchall()[0][0]


if __name__ == "__main__":
    main()
