"""Completion tokens a second of the product and of `vllm bench serve`, at the same running vLLM.

One server of the tiny base with the teacher's adapter, started as the factory starts it. Ours is the product:
recipe, strategy `grounded`, engine, form check, everything parsed and committed; its time is all of that.
Then `vllm bench serve` sends the same prompts in the same order with the same schema, adapter, temperature
and calls in flight, and has each answer end after as many tokens as ours did. Bare aiohttp does the same
and reads whole answers, where vLLM's benchmark has each token sent by itself. The server's prefix cache is
emptied before each, and a small run of ours goes ahead that does not count.

    python -m benchmarks.serving --samples 800 --in-flight 256 --pairs 2
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.generate import Result, ours, run
from benchmarks.workload import SCHEMA
from factory.models.vllm_server import VllmProcess
from factory.servers import VllmServer

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "tiny" / "models"
DOMAIN = ROOT / "recipes" / "georgia_workers_comp"
TEACHER = "teacher"
TEMPERATURE, MAX_TOKENS, SEED = 0.7, 96, 1
NUM_WARM = 256
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
BENCH_SERVE = """
import json
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
found = main(parser.parse_args())
names = {"calls": "completed", "tokens": "total_output_tokens", "seconds": "duration"}
print(json.dumps({ours: found[theirs] for ours, theirs in names.items()}))
"""
CALLS = """
    SELECT request->>'$.messages[0].content' AS prompt, completion_tokens AS output_tokens
    FROM calls WHERE status = 'ok' ORDER BY epoch_ms(created_at) - latency_ms, id"""  # as they were sent


@contextmanager
def served(folder: Path) -> Iterator[VllmProcess]:
    """The server with the teacher's adapter; in development mode, which adds a path to empty its cache."""
    os.environ["VLLM_SERVER_DEV_MODE"] = "1"
    spec = VllmServer(
        model=str(MODELS / "base"), device="cpu", max_model_len=512, max_lora_rank=32, max_loras=4
    )
    server = VllmProcess("tiny", spec, folder, folder / "vllm.log", lambda text: print(text, file=sys.stderr))

    async def start() -> None:
        await server.start()
        await server.load_adapter(TEACHER, MODELS / "teacher")

    with asyncio.Runner() as runner:
        try:
            runner.run(start())
            yield server
        finally:
            runner.run(server.stop())


def empty_cache(server: VllmProcess) -> None:
    """Makes the server forget the prefixes that it has seen."""
    url = server.base_url.removesuffix("/v1") + "/reset_prefix_cache"
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with urllib.request.urlopen(urllib.request.Request(url, method="POST", headers=headers), timeout=30):
        pass


def write_recipe(folder: Path, server: VllmProcess, num_samples: int, in_flight: int) -> Path:
    """The committed domain with its grounded strategy alone, the server an endpoint; returns the folder."""
    folder.mkdir(parents=True)
    teacher = {
        "server": "main",
        "model": TEACHER,
        "concurrency": in_flight,
        "sampling": {"temperature": TEMPERATURE, "max_tokens": MAX_TOKENS},
    }
    recipe = {
        "name": "serving",
        "domain": {"title": "Georgia workers' compensation"},
        "sources": {"paths": [str(DOMAIN / "sources" / "handbook.md")]},
        "gold": {split: str(DOMAIN / "gold" / f"{split}.jsonl") for split in ("dev", "test")},
        "servers": {
            "main": {"kind": "endpoint", "base_url": server.base_url, "api_key_env": "OPENAI_API_KEY"}
        },
        "models": {"teacher": teacher},
        "strategies": [{"name": "grounded"}],
        "refiners": [{"name": "form"}],
        "loop": {"rounds": 1, "samples_per_round": num_samples},
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe, indent=1), encoding="utf-8")  # JSON is YAML too
    return folder


def run_ours(server: VllmProcess, folder: Path, num_samples: int, in_flight: int) -> tuple[Result, Path]:
    """The product over a fresh workspace; and the file of what it asked, with the lengths of the answers."""
    recipe = write_recipe(folder / "recipe", server, num_samples, in_flight)
    found = run(ours(recipe, folder / "workspace"), environment={"OPENAI_API_KEY": server.api_key})
    with duckdb.connect(folder / "workspace" / "factory.duckdb", read_only=True) as connection:
        rows = connection.execute(CALLS).fetchall()
    asked = folder / "asked.jsonl"
    with asked.open("w", encoding="utf-8") as file:
        for prompt, num_tokens in rows:
            file.write(json.dumps({"prompt": prompt, "output_tokens": num_tokens}) + "\n")
    return {**found, "calls": len(rows), "tokens": sum(num_tokens for _, num_tokens in rows)}, asked


def run_theirs(server: VllmProcess, asked: Path, in_flight: int) -> Result:
    """`vllm bench serve` with what ours asked; its own time, which begins with the first request."""
    body = {"temperature": TEMPERATURE, "top_p": 1.0, "seed": SEED, "response_format": FORMAT}
    options: dict[str, Any] = {
        "--backend": "openai-chat",
        "--base-url": server.base_url.removesuffix("/v1"),
        "--endpoint": "/v1/chat/completions",
        "--model": TEACHER,
        "--tokenizer": MODELS / "base",
        "--dataset-name": "custom",
        "--dataset-path": asked,
        "--custom-output-len": -1,  # as the rows say
        "--num-prompts": -1,  # all of them
        "--max-concurrency": in_flight,
        "--ready-check-timeout-sec": 0,
        "--extra-body": json.dumps(body),
    }
    flags = ["--skip-chat-template", "--disable-shuffle", "--ignore-eos", "--disable-tqdm"]
    pairs = [str(word) for pair in options.items() for word in pair]
    key = {"OPENAI_API_KEY": server.api_key, "HF_HUB_OFFLINE": "1"}
    return run([sys.executable, "-c", BENCH_SERVE, *flags, *pairs], environment=key)


def run_bare(server: VllmProcess, asked: Path, in_flight: int) -> Result:
    """Bare aiohttp with what ours asked."""
    words = [sys.executable, "-m", "benchmarks.serving_bare", server.base_url, str(asked), str(in_flight)]
    return run(words, environment={"OPENAI_API_KEY": server.api_key})


def measure(server: VllmProcess, num_samples: int, in_flight: int) -> dict[str, Result]:
    """One run of each, over the same prompts."""
    found: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as folder:
        empty_cache(server)
        found["ours"], asked = run_ours(server, Path(folder), num_samples, in_flight)
        for name, other in (("vllm bench serve", run_theirs), ("bare aiohttp", run_bare)):
            empty_cache(server)
            found[name] = other(server, asked, in_flight)
    for name, result in found.items():
        if "failed" in result:
            raise SystemExit(f"{name} failed: {result['failed']}")
        rate = result["tokens"] / result["seconds"]
        counts = f"{result['calls']:,} | {result['tokens']:,} | {result['seconds']:.1f} | {rate:,.0f}"
        print(f"| {name} | {counts} |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=800)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=2)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} at the start, {options.in_flight} in flight\n")
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as folder, served(Path(folder)) as server:
        run_ours(server, Path(folder) / "warm", NUM_WARM, options.in_flight)
        print("| | calls | completion tokens | seconds | tokens/s |")
        print("| --- | --- | --- | --- | --- |", flush=True)
        pairs = [measure(server, options.samples, options.in_flight) for _ in range(options.pairs)]
    medians = {
        name: statistics.median(pair[name]["tokens"] / pair[name]["seconds"] for pair in pairs)
        for name in pairs[0]
    }
    ratios = {name: medians["ours"] / rate for name, rate in medians.items() if name != "ours"}
    print("\nmedians: " + ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in medians.items()))
    print("ours to " + ", to ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))
    record = {**vars(options), "pairs": pairs, "medians": medians, "ratios": ratios}
    print(json.dumps({"benchmark": "serving", "load": load, **record}))


if __name__ == "__main__":
    main()
