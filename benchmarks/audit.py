"""How the audit page bears a large workspace: opening, pages of samples, lineages, overview, and its size.

Pages are asked over HTTP from a server in a process of its own, one after another, as one person does. The
line `SELECT 1` is the least that any question costs there. Sizes are made in a temporary folder, each anew.

    python -m benchmarks.audit --sizes 50000 200000 500000 1000000
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlencode, urlsplit

from benchmarks.audit_workspace import METRICS, STEPS, build
from factory.audit.access import Access
from factory.store.trace import trace

GOALS = {"two filters": 150, "lineage": 50, "overview": 1000, "opening": 1000}  # ms, p95
FILTERS = (
    ("slice", "strategy"), ("slice", "round"), ("slice", "kept"), ("slice", "dropped"), ("slice", "reason"),
    ("slice", "score"), ("kept", "score"), ("slice", "attribute"), ("strategy", "round"), ("kept", "round"),
)  # fmt: skip


class Browser:
    """A client that has shown the token."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self._connection.request("GET", f"{parts.path}?{parts.query}")
        answer = self._connection.getresponse()
        answer.read()
        self._cookie = (answer.getheader("set-cookie") or "").split(";")[0]

    def get(self, path: str) -> float:
        """Milliseconds until the whole page is there; raises RuntimeError for any other status than 200."""
        start = time.perf_counter()
        self._connection.request("GET", path, headers={"Cookie": self._cookie})
        answer = self._connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.status}")
        return 1000 * (time.perf_counter() - start)


@contextmanager
def served(workspace: Path) -> Iterator[Browser]:
    """The page of a workspace, by `factory audit` itself."""
    command = [sys.executable, "-m", "factory", "audit", str(workspace), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        text = ""
        while "}" not in text:
            text += process.stdout.readline() if process.stdout else "}"
        try:
            yield Browser(json.loads(text)["url"])
        finally:
            process.terminate()


def chosen(kind: str, rng: Random) -> dict[str, str]:
    """A filter of the list of samples, with a value at random."""
    strategies = ("grounded", "seeded", "evolved", "persona")
    return {
        "slice": {"slice": f"slice_{rng.randrange(20):02}"},
        "strategy": {"strategy": rng.choice(strategies)},
        "round": {"round": str(rng.randint(1, 10))},
        "kept": {"fate": "kept"},
        "dropped": {"fate": "dropped"},
        "reason": {"step": (step := rng.choice(STEPS)), "reason": f"{step}_reason"},
        "score": {"score": rng.choice(METRICS), "at_least": f"{rng.random():.2f}"},
        "attribute": {"key": "difficulty", "value": str(rng.randrange(5))},
    }[kind]


def measure(num: int, folder: Path) -> dict[str, Any]:
    """Figures of one size, times in milliseconds."""
    rng, workspace = Random(num), folder / f"of_{num}"
    start = time.perf_counter()
    num_bytes = build(workspace, num)
    found: dict[str, Any] = {"samples": num, "build_seconds": round(time.perf_counter() - start, 1)}
    found["bytes_per_sample"] = (workspace / "factory.duckdb").stat().st_size / num
    found["text_bytes_per_sample"] = num_bytes / num
    opening, bare, lineage = [], [], []
    for _ in range(3):
        with Access(workspace) as access:
            opening.append(timed(lambda: access.select("SELECT 1")))
    with Access(workspace) as access:
        sql = "SELECT id FROM samples USING SAMPLE reservoir(100 ROWS) REPEATABLE (1)"
        ids = [row["id"] for row in access.select(sql)]
        for each in ids:
            bare.append(timed(lambda: access.select("SELECT 1")))
            lineage.append(timed(lambda: trace(access, each)))  # noqa: B023 (called at once)
    with served(workspace) as browser:
        paths = [
            "/samples?" + urlencode(chosen(one, rng) | chosen(other, rng))
            for _ in range(10)
            for one, other in FILTERS
        ]
        browser.get(paths[0])
        found["times"] = {
            "SELECT 1": spread(bare),
            "opening": spread(opening),
            "two filters": spread([browser.get(path) for path in paths]),
            "lineage": spread(lineage),
            "page of a sample": spread([browser.get(f"/samples/{each}") for each in ids[:30]]),
            "overview": spread([browser.get("/") for _ in range(10)]),
        }
    return found


def timed(work: Any) -> float:
    """Milliseconds that it took."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def spread(values: list[float]) -> tuple[float, float]:
    """Median and 95th percentile."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[50_000, 200_000, 500_000, 1_000_000])
    options = parser.parse_args()
    results = []
    for num in options.sizes:
        with tempfile.TemporaryDirectory(prefix="factory-audit-") as folder:
            results.append(measure(num, Path(folder)))
            print(json.dumps(results[-1]), flush=True)
    names = list(results[0]["times"])
    print(f"\n| samples | bytes a sample | of them text | {' | '.join(names)} |")
    print("|" + " --- |" * (3 + len(names)))
    for each in results:
        shown = [f"{median:.0f} / {p95:.0f}" for median, p95 in each["times"].values()]
        sizes = f"{each['bytes_per_sample']:.0f} | {each['text_bytes_per_sample']:.0f}"
        print(f"| {each['samples']:,} | {sizes} | {' | '.join(shown)} |")
    print("Milliseconds, median / p95. Goals, p95:", ", ".join(f"{k} {v}" for k, v in GOALS.items()))
    print(json.dumps({"benchmark": "audit", "results": results}))


if __name__ == "__main__":
    main()
