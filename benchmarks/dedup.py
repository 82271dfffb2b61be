"""Near duplicates among short samples: samples a second, memory, precision and recall, side by side.

What is planted is known (`benchmarks.planted`). Every contender runs in a process of its own, one after the
other, over the same file at the same threshold and with shingles of three words. Of a sample and its copies
one has to stay, whichever; *precision* is the share of what was dropped that had to go, *recall* the share of
what had to go that was dropped, *kept* the share of the look-alikes of which one is left. Time is that of
finding: samples or texts are in memory before, where the tool takes them so. With `--sizes` ours at several
sizes, through the refiner and through the store.

    python -m benchmarks.dedup --samples 200000 --peers
    python -m benchmarks.dedup --sizes 50000 200000 500000 1000000
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.generate import run
from benchmarks.peers import DEDUP_PEERS, environment
from benchmarks.planted import samples

THRESHOLD = 0.7
TIMEOUT_SECONDS = 3600
Result = dict[str, Any]
Truth = list[tuple[int, bool]]  # of each sample: its group, and whether it is a look-alike


def write(path: Path, num: int, seed: int) -> Truth:
    """Writes the planted samples as JSON lines; returns what is true of them."""
    truth: Truth = []
    with path.open("w") as file:
        for number, sample in enumerate(samples(num, seed)):
            row = {"id": str(number), "question": sample.question, "answer": sample.answer}
            file.write(json.dumps({**row, "text": f"{sample.question}\n{sample.answer}"}) + "\n")
            truth.append((sample.origin, sample.kind == "look-alike"))
    return truth


def score(truth: Truth, dropped: set[int]) -> Result:
    """Precision and recall in all, precision without look-alikes, and the share of these that is left."""
    members, gone = Counter(truth), Counter(truth[number] for number in dropped)
    right = {group: min(num, members[group] - 1) for group, num in gone.items()}
    plain = [group for group in gone if not group[1]]
    alike = [group for group in members if group[1]]
    return {
        "precision": sum(right.values()) / max(1, len(dropped)),
        "precision_without_look_alikes": sum(right[g] for g in plain) / max(1, sum(gone[g] for g in plain)),
        "recall": sum(right.values()) / (len(truth) - len(members)),
        "look_alikes_kept": sum(gone[group] < members[group] for group in alike) / len(alike),
    }


def contend(words: list[str], data: Path, truth: Truth) -> Result:
    """One contender's figures; it writes the numbers of what it drops to a file."""
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as folder:
        out = Path(folder) / "dropped.json"
        result = run([*words, str(data), str(out), str(THRESHOLD)], TIMEOUT_SECONDS)
        if "failed" not in result:
            result |= score(truth, set(map(int, json.loads(out.read_text()))))
    return result


def show(name: str, result: Result) -> None:
    """One row of the table."""
    if "failed" in result:
        print(f"| {name} | failed: {result['failed']} | | | | | | |", flush=True)
        return
    rates = ("precision", "precision_without_look_alikes", "recall", "look_alikes_kept")
    num = result["samples"]
    print(
        f"| {name} | {num:,.0f} | {num / result['seconds']:,.0f} | {1e6 * result['cpu_seconds'] / num:.1f} "
        f"| {result['peak_mib']:,.0f} | " + " | ".join(f"{result[rate]:.4f}" for rate in rates) + " |",
        flush=True,
    )


def ours(way: str) -> list[str]:
    """The command of our contender, through the `refiner` or the `store`."""
    return [sys.executable, "-m", "benchmarks.dedup_ours", way]


def compare(num: int, seed: int, peers: bool, store: bool) -> dict[str, Result]:
    """All contenders at one size."""
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as folder:
        data = Path(folder) / "samples.jsonl"
        truth = write(data, num, seed)
        contenders = {"ours": ours("refiner")} | ({"ours, with the store": ours("store")} if store else {})
        for peer in DEDUP_PEERS if peers else ():
            words = [str(environment(peer)), "-m", f"benchmarks.peers.{peer.module}", *peer.arguments]
            contenders[" ".join((peer.name, peer.version, *peer.arguments))] = words
        for name, words in contenders.items():
            results[name] = contend(words, data, truth)
            show(name, results[name])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--sizes", type=int, nargs="+", help="ours alone at each of these sizes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true", help="ours through the store too")
    parser.add_argument("--peers", action="store_true", help="other tools too, each installed on demand")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} at the start, threshold {THRESHOLD}, 3-word shingles\n")
    print("| | samples | samples/s | CPU µs a sample | peak MiB | precision | without look-alikes ", end="")
    print("| recall | look-alikes kept |\n|" + " --- |" * 9, flush=True)
    results = {
        num: compare(num, options.seed, options.peers and not options.sizes, options.store)
        for num in options.sizes or [options.samples]
    }
    print(json.dumps({"benchmark": "dedup", "load": load, **vars(options), "results": results}))


if __name__ == "__main__":
    main()
