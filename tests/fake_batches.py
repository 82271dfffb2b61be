"""An endpoint with OpenAI's Batch API on loopback, which keeps files and batches while the context is open.

    async with FakeBatches(reply) as endpoint:
        EndpointCarrier(endpoint.base_url, "key")

`reply` makes of a request's body an answer of tests/fake_endpoint.py, an error code such as 'batch_expired',
or a bytes line that is written as it is. The first `num_free` batches end when they are asked about. `refuse`
may answer any request to a path with a status first; `status` is how batches end. Where it `holds_deletions`,
whoever wants to delete a file waits.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from typing import Any

from aiohttp import web
from fake_endpoint import Status, answer

Reply = Callable[[dict[str, Any]], Status | str | bytes]


def say_last(body: dict[str, Any]) -> Status:
    """The last message, in capitals."""
    return answer(body["messages"][-1]["content"].upper())


class FakeBatches:
    """Serves while the context is open."""

    def __init__(
        self, reply: Reply = say_last, *, api_key: str | None = None, num_free: float = math.inf
    ) -> None:
        self.reply = reply
        self.api_key = api_key
        self.num_free = num_free
        self.status = "completed"
        self.errors: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.deleted: list[str] = []
        self.holds_deletions = False
        self.num_held = 0
        self._num_kept = 0
        self.batches: dict[str, dict[str, Any]] = {}
        self.bodies: list[dict[str, Any]] = []  # of all requests that were run, in order
        self.refuse: Callable[[str, str], int | None] = lambda _method, _path: None
        self.forget_create = False  # the batch is made, and the answer lost
        self.base_url = ""

    async def __aenter__(self) -> FakeBatches:
        app = web.Application(middlewares=[self._guard], client_max_size=2**30)
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_delete("/v1/files/{id}", self._delete)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list)
        app.router.add_get("/v1/batches/{id}", self._state)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def sizes(self) -> list[int]:
        """The number of requests of each batch, in the order they were made."""
        return [batch["request_counts"]["total"] for batch in self.batches.values()]

    @web.middleware
    async def _guard(self, request: web.Request, handler) -> web.StreamResponse:
        if self.api_key and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            said = f"Incorrect API key provided: {request.headers.get('Authorization')}"
            return web.json_response({"error": {"message": said}}, status=401)
        if (status := self.refuse(request.method, request.path)) is not None:
            return web.json_response({"error": {"message": "not now"}}, status=status)
        return await handler(request)

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        assert form["file"].filename.endswith(".jsonl")
        return web.json_response({"id": self._keep(form["file"].file.read()), "object": "file"})

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["id"]])

    async def _delete(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if self.holds_deletions:
            self.num_held += 1
            await asyncio.sleep(60)
        if self.files.pop(name, None) is None:
            return web.json_response({"error": {"message": "no such file"}}, status=404)
        self.deleted.append(name)
        return web.json_response({"id": name, "object": "file", "deleted": True})

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert body["endpoint"] == "/v1/chat/completions"
        assert body["completion_window"] == "24h"
        lines = [json.loads(line) for line in self.files[body["input_file_id"]].splitlines()]
        batch = {
            "id": f"batch/{len(self.batches)}",
            "object": "batch",
            "status": "validating",
            "metadata": body["metadata"],
            "input_file_id": body["input_file_id"],
            "request_counts": {"total": len(lines)},
            "input": lines,
            "number": len(self.batches),
        }
        self.batches[batch["id"]] = batch
        if self.forget_create:
            self.forget_create = False
            request.transport.abort()
        return web.json_response(_shown(batch))

    async def _list(self, request: web.Request) -> web.Response:
        newest = list(reversed(self.batches.values()))
        after = request.query.get("after")
        start = next((i + 1 for i, batch in enumerate(newest) if batch["id"] == after), 0)
        page = newest[start : start + 2]
        more = start + 2 < len(newest)
        return web.json_response({"data": [_shown(batch) for batch in page], "has_more": more})

    async def _state(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        batch["status"] = "in_progress"
        if batch["number"] < self.num_free:
            self._end(batch)
        return web.json_response(_shown(batch))

    def _end(self, batch: dict[str, Any]) -> None:
        batch["status"] = self.status
        batch["errors"] = {"data": self.errors}
        if self.status == "failed" or "output_file_id" in batch:
            return
        done, failed = [], []
        for number, line in enumerate(reversed(batch["input"])):  # in another order than they came
            self.bodies.append(line["body"])
            reply = self.reply(line["body"])
            if isinstance(reply, bytes):
                done.append(reply)
                continue
            result = {
                "id": f"batch_req_{number}",
                "custom_id": line["custom_id"],
                "response": None,
                "error": None,
            }
            if isinstance(reply, str):
                result["error"] = {"code": reply, "message": f"because of {reply}"}
                failed.append(json.dumps(result).encode())
            else:
                result["response"] = {"status_code": reply.status, "request_id": "r", "body": reply.body}
                (done if reply.status == 200 else failed).append(json.dumps(result).encode())
        batch["output_file_id"] = self._keep(b"\n".join(done)) if done else None
        batch["error_file_id"] = self._keep(b"\n".join(failed)) if failed else None

    def _keep(self, content: bytes) -> str:
        self._num_kept += 1
        name = f"file/{self._num_kept}"
        self.files[name] = content
        return name


def _shown(batch: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key not in ("input", "number")}
