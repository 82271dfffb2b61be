"""Bare aiohttp with the prompts of a file, each answer as long as the file says, against a running vLLM.

python -m benchmarks.serving_bare BASE_URL FILE IN_FLIGHT, with the key in OPENAI_API_KEY
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.measure import measured
from benchmarks.serving import FORMAT, SEED, TEACHER, TEMPERATURE


def body(row: Mapping[str, Any]) -> dict[str, object]:
    """The request for a row, as our own engine sends it but for its length."""
    return {
        "model": TEACHER,
        "messages": [{"role": "user", "content": row["prompt"]}],
        "temperature": TEMPERATURE,
        "top_p": 1.0,
        "max_tokens": row["output_tokens"],
        "ignore_eos": True,
        "seed": SEED,
        "response_format": FORMAT,
    }


async def run_all(base_url: str, rows: Sequence[Mapping[str, Any]], in_flight: int) -> None:
    """Posts every row, so many at a time, and counts the tokens of the answers."""
    url, headers = f"{base_url}/chat/completions", {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
    waiting, lengths = iter(rows), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def work() -> None:
            for row in waiting:
                async with session.post(url, json=body(row)) as reply:
                    reply.raise_for_status()
                    lengths.append((await reply.json())["usage"]["completion_tokens"])

        with measured() as found:
            await asyncio.gather(*[work() for _ in range(in_flight)])
            found["calls"], found["tokens"] = len(lengths), sum(lengths)


def main() -> None:
    base_url, path, in_flight = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    asyncio.run(run_all(base_url, rows, in_flight))


if __name__ == "__main__":
    main()
