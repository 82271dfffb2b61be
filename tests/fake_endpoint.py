"""An OpenAI-compatible endpoint on loopback whose behaviour a test scripts, one answer after the other.

    async with FakeEndpoint([Status(429, headers={"Retry-After": "2"}), answer("yes")]) as endpoint:
        EndpointModel(endpoint.base_url, ...)

The last answer repeats. A callable (request body -> answer) may stand in place of the list. Requests
are kept in `requests`, with their headers in `headers`. `adapters` is what /v1/load_lora_adapter added.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Status:
    """An answer with this status; a dict body is sent as JSON."""

    status: int = 200
    body: Any = ""
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0


@dataclass(frozen=True)
class Hang:
    """Takes the request and says nothing; with `drip` it sends a byte now and then."""

    drip: bool = False


@dataclass(frozen=True)
class Drop:
    """Closes the connection, after the first half of an answer where `midway` says so."""

    midway: bool = False


Answer = Status | Hang | Drop


def answer(text: str, *, delay_seconds: float = 0.0, finish_reason: str = "stop", **message: Any) -> Status:
    """A well-formed chat completion; 7 prompt tokens, one completion token a word."""
    num_words = len(text.split())
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [{**choice, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 7, "completion_tokens": num_words, "total_tokens": 7 + num_words},
    }
    return Status(200, body, delay_seconds=delay_seconds)


class FakeEndpoint:
    """Serves while the context is open."""

    def __init__(
        self, answers: Sequence[Answer] | Callable[[dict[str, Any]], Answer], *, api_key: str | None = None
    ) -> None:
        self.answers = answers
        self.api_key = api_key
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.adapters: dict[str, str] = {}
        self.base_url = ""
        self.num_in_flight = 0
        self.most_in_flight = 0
        self._closing = asyncio.Event()

    async def __aenter__(self) -> FakeEndpoint:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/embeddings", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/load_lora_adapter", self._load)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        await self._runner.cleanup()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.num_in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.num_in_flight)
        try:
            return await self._answer(request)
        finally:
            self.num_in_flight -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return web.json_response({"error": {"message": "Incorrect API key provided"}}, status=401)
        if callable(self.answers):
            chosen = self.answers(body)
        else:
            chosen = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(chosen, Hang):
            return await self._hang(request, chosen.drip)
        if isinstance(chosen, Drop):
            return await self._drop(request, chosen.midway)
        await asyncio.sleep(chosen.delay_seconds)
        if isinstance(chosen.body, (dict, list)):
            return web.json_response(chosen.body, status=chosen.status, headers=chosen.headers)
        content = chosen.body if isinstance(chosen.body, bytes) else str(chosen.body).encode()
        headers = {"Content-Type": "text/html", **chosen.headers}
        return web.Response(body=content, status=chosen.status, headers=headers)

    async def _hang(self, request: web.Request, drip: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if drip:
            await response.prepare(request)
        while not self._closing.is_set():
            if drip:
                await response.write(b" ")
            await asyncio.wait([asyncio.create_task(self._closing.wait())], timeout=0.05)
        return response if drip else web.Response()

    async def _drop(self, request: web.Request, midway: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "500"})
        if midway:
            await response.prepare(request)
            await response.write(b'{"choices": [{"mess')
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _models(self, _: web.Request) -> web.Response:
        adapters = [{"id": name, "root": at, "parent": "fake"} for name, at in self.adapters.items()]
        return web.json_response({"data": [{"id": "fake", "root": "/fake", "parent": None}, *adapters]})

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["lora_name"] in self.adapters:
            return web.json_response({"error": {"message": "already loaded"}}, status=400)
        self.adapters[body["lora_name"]] = body["lora_path"]
        return web.Response(text="Success")
