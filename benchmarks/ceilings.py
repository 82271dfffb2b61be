"""How fast a client can be that stores nothing: bare aiohttp, and the openai client in its two forms.

python -m benchmarks.ceilings aiohttp|openai|openai-aiohttp BASE_URL REQUESTS IN_FLIGHT
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence

from benchmarks.measure import measured
from benchmarks.workload import MAX_TOKENS, MODEL, SCHEMA, TEMPERATURE, prompt, rows

FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
Post = Callable[[str], Awaitable[str]]


async def run_all(post: Post, texts: Sequence[str], in_flight: int) -> int:
    """Posts every text, so many at a time; the number of answers that have both keys."""
    waiting, num_good = iter(texts), 0

    async def work() -> None:
        nonlocal num_good
        for text in waiting:
            answer = json.loads(await post(text))
            num_good += answer.keys() == {"question", "answer"}

    await asyncio.gather(*[work() for _ in range(in_flight)])
    return num_good


def body(text: str) -> dict[str, object]:
    """The request, as our own engine sends it."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt(text)}],
        "temperature": TEMPERATURE,
        "top_p": 1.0,
        "max_tokens": MAX_TOKENS,
        "seed": 1,
        "response_format": FORMAT,
    }


async def run_aiohttp(base_url: str, texts: Sequence[str], in_flight: int) -> None:
    """A session, a post, the parsed text."""
    import aiohttp

    url = f"{base_url}/chat/completions"

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def post(text: str) -> str:
            async with session.post(url, json=body(text)) as reply:
                content: str = (await reply.json())["choices"][0]["message"]["content"]
                return content

        with measured() as found:
            found["samples"] = await run_all(post, texts, in_flight)


async def run_openai(base_url: str, texts: Sequence[str], in_flight: int, over_aiohttp: bool) -> None:
    """The official client, as it comes or over its aiohttp transport."""
    import httpx2
    from openai import AsyncOpenAI, DefaultAioHttpClient, DefaultAsyncHttpxClient

    kind = DefaultAioHttpClient if over_aiohttp else DefaultAsyncHttpxClient
    transport = kind(limits=httpx2.Limits(max_connections=4096, max_keepalive_connections=4096), timeout=600)
    async with AsyncOpenAI(base_url=base_url, api_key="none", http_client=transport) as client:

        async def post(text: str) -> str:
            answer = await client.chat.completions.create(**body(text))  # type: ignore[call-overload]
            return str(answer.choices[0].message.content)

        with measured() as found:
            found["samples"] = await run_all(post, texts, in_flight)


def main() -> None:
    kind, base_url, num_requests, in_flight = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    texts = rows(num_requests)
    if kind == "aiohttp":
        asyncio.run(run_aiohttp(base_url, texts, in_flight))
    else:
        asyncio.run(run_openai(base_url, texts, in_flight, kind == "openai-aiohttp"))


if __name__ == "__main__":
    main()
