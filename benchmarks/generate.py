"""Samples a second against an endpoint that answers 150-token JSON after 50 ms ± 50 %, side by side.

Every contender does the same job in a process of its own, against an endpoint in a process of its own: one
structured answer for each row. Bare aiohttp, which stores nothing, is the ceiling. Ours is the product:
recipe, engine, form check, everything committed. Then ours under faults, and killed half way and started
again.

    python -m benchmarks.generate --requests 5000 --in-flight 256 [--kill] [--peers]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.endpoint import Behaviour, Endpoint, endpoint
from benchmarks.peers import PEERS, environment
from benchmarks.workload import write_recipe
from factory.backlog import GROUP_ANSWERS

FAULTS = Behaviour(rate_limited=0.05, server_error=0.02, malformed=0.02, dropped=0.01)
CEILINGS = {"bare aiohttp": "aiohttp", "openai, aiohttp transport": "openai-aiohttp", "openai": "openai"}
PEER_TIMEOUT_SECONDS = 900
Result = dict[str, Any]


def run(
    words: list[str], timeout_seconds: float | None = None, environment: Mapping[str, str] | None = None
) -> Result:
    """The last line of a contender's output, which is JSON; {"failed": why} where there is none.

    `environment` goes over the plain one.
    """
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_seconds,
            env={**plain_environment(), **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no end after {timeout_seconds:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        return {"failed": (done.stderr.strip().splitlines() or ["no output"])[-1][:200]}
    result: Result = json.loads(lines[-1])
    return result


def plain_environment() -> dict[str, str]:
    """The environment without proxies, with the repository on the path and a key that opens nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[1]), "OPENAI_API_KEY": "none"}


def run_ours(server: Endpoint, folder: Path, num_requests: int, in_flight: int) -> Result:
    """The product over a fresh workspace."""
    recipe = write_recipe(folder / "recipe", num_requests, server.base_url, in_flight)
    return run(ours(recipe, folder / "workspace"))


def ours(recipe: Path, workspace: Path) -> list[str]:
    """The command line of our contender."""
    return [sys.executable, "-m", "benchmarks.ours", str(recipe), str(workspace)]


def run_killed(num_requests: int, in_flight: int) -> Result:
    """Ours killed once half was answered, then the same command again; calls that were paid twice.

    Allowed are those in flight at the client, which are `in_flight` (what the endpoint has answered may be
    unread in a socket), and one commit group.
    """
    with endpoint(Behaviour()) as server, tempfile.TemporaryDirectory(prefix="factory-bench-") as folder:
        recipe = write_recipe(Path(folder) / "recipe", num_requests, server.base_url, in_flight)
        words = ours(recipe, Path(folder) / "workspace")
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=plain_environment()
        )
        while process.poll() is None and server.counts().get("ok", 0) < num_requests / 2:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = server.counts()
        again = run(words)
        after = server.counts()
    return {
        **again,
        "answered_before": before.get("ok", 0),
        "unanswered_at_kill": before["in_flight"] + before.get("nobody_there", 0),
        "paid_twice": after["paid_twice"],
        "allowed": in_flight + GROUP_ANSWERS,
    }


def show(name: str, result: Result, num_requests: int, ceiling: float) -> None:
    """One row of the table."""
    if "failed" in result:
        print(f"| {name} | failed: {result['failed']} | | | | |", flush=True)
        return
    rate = result["samples"] / result["seconds"]
    print(
        f"| {name} | {result['samples']:,} of {num_requests:,} | {rate:,.0f} "
        f"| {1000 * result['cpu_seconds'] / max(1, result['samples']):.2f} | {result['peak_mib']:,.0f} "
        f"| {rate / ceiling:.2f} |",
        flush=True,
    )


def compare(num_requests: int, in_flight: int, peers: bool) -> dict[str, Result]:
    """All contenders one after the other, against an undisturbed endpoint each."""
    size = [str(num_requests), str(in_flight)]
    results: dict[str, Result] = {}
    print("| | samples | samples/s | CPU ms a sample | peak MiB | of the ceiling |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)

    def add(name: str, result: Result) -> None:
        results[name] = result
        first = next(iter(results.values()))
        show(name, result, num_requests, first["samples"] / first["seconds"])

    for name, kind in CEILINGS.items():
        with endpoint(Behaviour()) as server:
            add(name, run([sys.executable, "-m", "benchmarks.ceilings", kind, server.base_url, *size]))
        if name == "bare aiohttp":
            for label, behaviour in (("ours", Behaviour()), ("ours, 10 % faults", FAULTS)):
                with (
                    endpoint(behaviour) as server,
                    tempfile.TemporaryDirectory(prefix="factory-bench-") as folder,
                ):
                    add(label, run_ours(server, Path(folder), num_requests, in_flight))
    for peer in PEERS if peers else ():
        python = environment(peer)
        behaviour = Behaviour(shape=peer.shape)
        with endpoint(behaviour) as server, tempfile.TemporaryDirectory(prefix="factory-bench-") as folder:
            words = [str(python), "-m", f"benchmarks.peers.{peer.module}", server.base_url, *size, folder]
            add(f"{peer.name} {peer.version}", run(words, PEER_TIMEOUT_SECONDS))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--kill", action="store_true", help="kill ours half way and run it again")
    parser.add_argument("--peers", action="store_true", help="other tools too, each installed on demand")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} at the start, {options.in_flight} in flight\n")
    results = compare(options.requests, options.in_flight, options.peers)
    plain, faults = results["ours"], results["ours, 10 % faults"]
    if "failed" not in plain and "failed" not in faults:
        print(f"\nfaults: {faults['seconds'] / plain['seconds']:.2f} times the undisturbed time")
    if options.kill:
        results["ours, killed half way"] = killed = run_killed(options.requests, options.in_flight)
        if "failed" in killed:
            print(f"killed half way: failed: {killed['failed']}")
        else:
            print(
                f"killed half way: {killed['samples']:,} samples, {killed['paid_twice']} calls paid twice, "
                f"of {killed['allowed']} allowed; the endpoint still owed {killed['unanswered_at_kill']}"
            )
    print(json.dumps({"benchmark": "generate", "load": load, **vars(options), "results": results}))


if __name__ == "__main__":
    main()
