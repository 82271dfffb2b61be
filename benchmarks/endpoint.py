"""A chat endpoint on loopback for benchmarks: answers 150-token JSON after a while, and fails on order.

It runs in a process of its own and is as cheap as it can be (bytes in, bytes out, no HTTP library), so
that the client is what is measured. What it answered is counted by the request's content: that is how
calls that were paid twice are seen. It is no model and knows nothing.

    python -m benchmarks.endpoint --port 8000 --delay-ms 50 --rate-limited 0.05
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

NUM_TEXTS = 64
NUM_WORDS = 55  # makes about 150 tokens together with keys and quotes
SYLLABLES = ("ben", "cla", "dor", "fen", "gal", "hir", "jun", "kel", "lim", "mor", "nav", "pol", "rus", "tev")


@dataclass(frozen=True)
class Behaviour:
    """Delay in milliseconds (spread: ± that share of it), and shares of requests that fail in each way.

    `malformed`: half of them are no JSON at all, half a chat completion whose text is cut off. `shape` is
    what the text is as JSON: an `answer` with its question, or a `conversation` of two messages.
    """

    delay_ms: float = 50.0
    spread: float = 0.5
    rate_limited: float = 0.0
    server_error: float = 0.0
    malformed: float = 0.0
    dropped: float = 0.0
    seed: int = 0
    shape: str = "answer"


class Counts:
    """What was answered well, by the hash of the request; attempts of each kind besides."""

    def __init__(self) -> None:
        self.answered: Counter[bytes] = Counter()
        self.kinds: Counter[str] = Counter()
        self.num_in_flight = 0
        self.most_in_flight = 0

    def json(self) -> bytes:
        times = self.answered.values()
        counts = {
            **self.kinds,
            "distinct": len(self.answered),
            "paid_twice": sum(times) - len(self.answered),
            "in_flight": self.num_in_flight,
            "most_in_flight": self.most_in_flight,
        }
        return json.dumps(counts).encode()


class Connection(asyncio.Protocol):
    """One client's connection: whole requests out of the bytes, one answer for each."""

    def __init__(self, behaviour: Behaviour, counts: Counts, dice: random.Random, texts: list[str]) -> None:
        self.behaviour, self.counts, self.dice, self.texts = behaviour, counts, dice, texts
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            size = 0
            if (at := head.find(b"content-length:")) >= 0:
                size = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self.received) < end + 4 + size:
                if b"expect: 100-continue" in head:
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body = self.received[end + 4 : end + 4 + size]
            self.received = self.received[end + 4 + size :]
            self._take(head, body)

    def _take(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"get"):
            models = json.dumps({"object": "list", "data": [{"id": "bench", "object": "model"}]}).encode()
            self._write(200, self.counts.json() if b"/counts" in head[:64] else models)
            return
        kind = self._draw()
        behaviour, counts = self.behaviour, self.counts
        delay = behaviour.delay_ms * (1 + behaviour.spread * self.dice.uniform(-1, 1)) / 1000
        counts.num_in_flight += 1
        counts.most_in_flight = max(counts.most_in_flight, counts.num_in_flight)
        self.loop.call_later(delay, self._answer, kind, body, self.dice.random())

    def _draw(self) -> str:
        chance = self.dice.random()
        for kind in ("rate_limited", "server_error", "malformed", "dropped"):
            chance -= getattr(self.behaviour, kind)
            if chance < 0:
                return kind
        return "ok"

    def _answer(self, kind: str, body: bytes, chance: float) -> None:
        counts = self.counts
        counts.num_in_flight -= 1
        counts.kinds[kind] += 1
        if self.transport.is_closing():  # the client has gone; it was answered all the same
            counts.kinds["nobody_there"] += 1
        key = blake2b(body, digest_size=8).digest()
        if kind in {"ok", "malformed"}:
            text = self.texts[key[0] % NUM_TEXTS].replace("KEY", key.hex())
            text = text[: len(text) // 2] if kind == "malformed" else text
            if kind == "ok":
                counts.answered[key] += 1
            content = completion(text, len(body) // 4)
            self._write(200, b"<html>" if kind == "malformed" and chance < 0.5 else content)
        elif kind == "rate_limited":
            self._write(429, b'{"error":{"message":"slow down"}}')
        elif kind == "server_error":
            self._write(500, b'{"error":{"message":"something broke"}}')
        else:
            self.transport.abort()

    def _write(self, status: int, body: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )


def completion(text: str, prompt_tokens: int) -> bytes:
    """The body of a chat completion, as vLLM sends it."""
    return json.dumps(
        {
            "id": "chatcmpl-0",
            "object": "chat.completion",
            "created": 1,
            "model": "bench",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": "stop",
                }
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": 150,
                "total_tokens": 150 + prompt_tokens,
            },
        }
    ).encode()


def make_texts(seed: int, shape: str = "answer") -> list[str]:
    """Answers of about 150 tokens as JSON; KEY is replaced for each request."""
    dice = random.Random(seed)

    def words(count: int) -> str:
        return " ".join("".join(dice.choices(SYLLABLES, k=2)) for _ in range(count))

    pairs = [(f"What is {words(15)}?", f"KEY {words(NUM_WORDS - 15)}.") for _ in range(NUM_TEXTS)]
    if shape == "answer":
        return [json.dumps({"question": question, "answer": answer}) for question, answer in pairs]
    roles = ("user", "assistant")
    turns = [
        [{"role": role, "content": text} for role, text in zip(roles, pair, strict=True)] for pair in pairs
    ]
    return [json.dumps({"messages": each}) for each in turns]


async def serve(behaviour: Behaviour, port: int) -> None:
    """Serves on loopback until it is cancelled; prints the port first."""
    counts, dice, texts = Counts(), random.Random(behaviour.seed), make_texts(behaviour.seed, behaviour.shape)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(behaviour, counts, dice, texts), "127.0.0.1", port, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


class Endpoint:
    """An endpoint in a process of its own."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def counts(self) -> dict[str, int]:
        """What it was asked and answered so far: ok, rate_limited, ..., distinct, paid_twice."""
        with urllib.request.urlopen(f"{self.base_url}/counts", timeout=30) as reply:
            counts: dict[str, int] = json.load(reply)
        return counts


@contextlib.contextmanager
def endpoint(behaviour: Behaviour) -> Iterator[Endpoint]:
    """Starts an endpoint for the time of the context."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asdict(behaviour).items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.endpoint", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield Endpoint(f"http://127.0.0.1:{int(process.stdout.readline())}/v1")
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    for name, value in asdict(Behaviour()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    port = options.pop("port")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(Behaviour(**options), port))


if __name__ == "__main__":
    main()
