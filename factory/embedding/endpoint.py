"""An embedder at an OpenAI-compatible endpoint: texts in parts to /v1/embeddings, rows back in their order.

The connection is that of the chat models (factory.models.connection): the same key from the environment,
proxies and certificates. Nothing is stored and nothing counted: an embedder at an endpoint is refused beside
a budget that would have to count it. It works in a thread of its own, since callers wait for it with and
without an event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from factory.address import without_password
from factory.backoff import delay_seconds
from factory.embedding.bundled import unit_rows
from factory.errors import EndpointError
from factory.models.api_key import read_key
from factory.models.chat import server_message
from factory.models.connection import Connection
from factory.models.failure import failure_from_status, one_line
from factory.servers import EndpointServer

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_TEXTS = 64
TIMEOUT_SECONDS = 120.0
MAX_ATTEMPTS = 6
FIRST_DELAY_SECONDS = 1.0


class EndpointEmbedder:
    """A model at an endpoint; `id`: name and address. Raises RecipeError for a key that is not set."""

    def __init__(
        self, server: EndpointServer, model: str, first_delay_seconds: float = FIRST_DELAY_SECONDS
    ) -> None:
        self._server, self._model = server, model
        self._first_delay_seconds = first_delay_seconds
        self._key = read_key(server.api_key_env, "embedder.server") or ""
        self._where = without_password(server.base_url)

    @property
    def id(self) -> str:
        return f"endpoint:{self._model}@{self._where}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (texts, dimensions); see `Embedder`. Raises EndpointError once the attempts are spent."""
        if not texts:
            return np.zeros((0, 1), np.float32)
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self._embed(texts)).result()

    async def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        connection = Connection(self._server.base_url, self._key)
        try:
            parts = [
                await self._embed_part(connection, texts[start : start + BATCH_TEXTS])
                for start in range(0, len(texts), BATCH_TEXTS)
            ]
        finally:
            await connection.close()
        if len({part.shape[1] for part in parts}) > 1:
            raise self._failure("rows of different lengths", "malformed")
        return unit_rows(np.concatenate(parts))

    async def _embed_part(self, connection: Connection, texts: Sequence[str]) -> NDArray[np.float32]:
        attempt = 1
        while True:
            try:
                return await self._ask(connection, texts)
            except EndpointError as error:
                if not error.retryable or attempt >= MAX_ATTEMPTS:
                    raise
                wait = delay_seconds(error, attempt, self._first_delay_seconds, is_up=False, spread=0.5)
            await asyncio.sleep(wait)
            attempt += 1

    async def _ask(self, connection: Connection, texts: Sequence[str]) -> NDArray[np.float32]:
        import aiohttp

        asked = {"model": self._model, "input": [text or " " for text in texts], "encoding_format": "float"}
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                reply = await connection.request("POST", "embeddings", json.dumps(asked).encode())
        except TimeoutError as error:
            raise self._failure(f"no answer within {TIMEOUT_SECONDS:g} s", "timeout") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(str(error) or type(error).__name__, "unreachable") from None
        if not 200 <= reply.status < 300:
            message = self._hide(server_message(reply.content))
            raise failure_from_status(reply.status, reply.headers, message, self._where)
        try:
            return _rows(reply.content, len(texts))
        except (ValueError, KeyError, TypeError) as error:
            raise self._failure(f"no embeddings: {error}", "malformed") from None

    def _failure(self, what: str, kind: str) -> EndpointError:
        return EndpointError(one_line(self._hide(what)), kind=kind, where=self._where)

    def _hide(self, text: str) -> str:
        text = text.replace(self._server.base_url, self._where)
        return text.replace(self._key, "***") if self._key else text


def _rows(content: bytes, num_texts: int) -> NDArray[np.float32]:
    """The embeddings of an answer by their index; raises ValueError, KeyError, TypeError for what is none."""
    data = sorted(json.loads(content)["data"], key=lambda row: row["index"])
    if [row["index"] for row in data] != list(range(num_texts)):
        raise ValueError(f"{num_texts} texts were sent, and {len(data)} rows came")
    rows = np.array([row["embedding"] for row in data], np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError("rows that are no vectors")
    return rows
