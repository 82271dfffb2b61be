"""The end of a vLLM process of ours that reaches nobody any more: waited for, or brought about.

One whose engine died ends by itself, mostly within seconds, and its guard stays until all else is gone. But
where its engine died with a request about adapters under way, vLLM 0.32 waits for that answer for ever: it
listens no more and does not end. When a server is started again is the pool's concern.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import aiohttp

    from factory.models.vllm_server import VllmProcess

END_SECONDS: Final = 8.0  # of a process that died: its guard gives what is left of it five
POLL_SECONDS: Final = 0.25
READY, NOBODY, ENGINE_DEAD = 200, 0, 503


async def wait_for_end(process: VllmProcess, started: subprocess.Popen[bytes] | None) -> None:
    """Returns at once where it is well, else once the process that was `started` has ended.

    `started` is what was there, and ready, when somebody asked and reached nobody.
    """
    if started is None or await process.health() == READY:
        return
    deadline = time.monotonic() + END_SECONDS
    while started.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 (it is another process)
        await asyncio.sleep(POLL_SECONDS)
    is_there = started.poll() is None and process.started is started
    if is_there and started.stdin is not None and await process.health() in (NOBODY, ENGINE_DEAD):
        started.stdin.close()  # the guard ends it, and it counts as one that died
        while started.poll() is None:  # noqa: ASYNC110 (it is another process)
            await asyncio.sleep(POLL_SECONDS)


async def read_health(session: aiohttp.ClientSession, base_url: str) -> int | None:
    """The status that a server tells of itself; NOBODY where nobody listens, None where no answer comes."""
    import aiohttp

    try:
        address = base_url.removesuffix("/v1") + "/health"
        async with session.get(address, timeout=aiohttp.ClientTimeout(5)) as reply:
            return reply.status
    except aiohttp.ClientConnectorError:
        return NOBODY
    except (aiohttp.ClientError, TimeoutError):
        return None
