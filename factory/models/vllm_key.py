"""Asks for the server's key on every path but /health: runs inside vLLM's web server.

vLLM asks for it under /v1 only; elsewhere it would complete prompts, load adapters and go to sleep for any
user of the machine. `VllmProcess` names `RequireKey` as `--middleware`. Nothing else of the factory uses it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

App = Callable[[Any, Any, Any], Awaitable[None]]


class RequireKey:
    """ASGI middleware: 401 without `Authorization: Bearer <VLLM_API_KEY>`."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.expected = b"Bearer " + os.environ["VLLM_API_KEY"].encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self.expected):
                await send({"type": "http.response.start", "status": 401, "headers": []})
                await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})
                return
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await self.app(scope, receive, send)
