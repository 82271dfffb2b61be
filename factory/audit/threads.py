"""Threads for the pages, there from the beginning: a process at its limit of memory can start none."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

NUM_THREADS: Final = 24  # a question that waits for its turn holds one


class Threads:
    """Runs what would block the server; all of them are started with the first."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(NUM_THREADS, "page")
        all_there = threading.Barrier(NUM_THREADS + 1)
        for _ in range(NUM_THREADS):
            self._pool.submit(all_there.wait)
        all_there.wait()

    def close(self) -> None:
        """Ends them, without waiting for what they are at."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def call(self, function: Callable[..., Response], *given: Any) -> Response:
        """What the function returns; raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *given)

    def within(self, route: Route) -> Route:
        """The same route with its page made here; one that waits for something by itself stays as it is."""
        page = route.endpoint
        if inspect.iscoroutinefunction(page):
            return route

        async def answer(request: Request) -> Response:
            return await self.call(page, request)

        return Route(route.path, answer, methods=list(route.methods or ()), name=route.name)

    def handler(
        self, page: Callable[[Request, Exception], Response]
    ) -> Callable[[Request, Exception], Awaitable[Response]]:
        """The page of an error, made here."""

        async def answer(request: Request, error: Exception) -> Response:
            return await self.call(page, request, error)

        return answer
