"""An embedder at an OpenAI-compatible endpoint: texts in parts to /v1/embeddings, rows back in their order.

The connection is that of the chat models (factory.models.connection): the same key from the environment,
proxies and certificates. What is kept and counted, and where, is the account's matter
(factory.embedding.account), without which nothing is asked.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from factory.address import without_password
from factory.backoff import delay_seconds
from factory.budget import Budget
from factory.digests import digest
from factory.embedding.account import Account, EmbeddingCall
from factory.embedding.bundled import unit_rows
from factory.errors import EndpointError, FactoryError
from factory.models.api_key import read_key
from factory.models.chat import server_message
from factory.models.connection import Connection
from factory.models.failure import failure_from_status, one_line
from factory.recipe import Price
from factory.servers import EndpointServer

if TYPE_CHECKING:
    from numpy.typing import NDArray

BATCH_TEXTS = 64
TIMEOUT_SECONDS = 120.0
MAX_ATTEMPTS = 6
TOKENS_PER_TEXT = 16  # begin, end and what a model may set before a text
FIRST_DELAY_SECONDS = 1.0


class EndpointEmbedder:
    """A model at an endpoint; `id`: name and address. Raises RecipeError for a key that is not set.

    `price` is in dollars per million tokens.
    """

    def __init__(
        self,
        server: EndpointServer,
        model: str,
        price: float = 0.0,
        first_delay_seconds: float = FIRST_DELAY_SECONDS,
    ) -> None:
        self._server, self._model = server, model
        self._price = Price(prompt=price)
        self._first_delay_seconds = first_delay_seconds
        self._key = read_key(server.api_key_env, "embedder.server") or ""
        self._where = without_password(server.base_url)
        self._account: Account | None = None

    @property
    def id(self) -> str:
        return f"endpoint:{self._model}@{self._where}"

    def bind(self, account: Account) -> None:
        """See `Embedder`."""
        self._account = account
        account.record_model(self.id, self._model, self._where)

    async def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (texts, dimensions); see `Embedder`. EndpointError comes once the attempts are spent."""
        if self._account is None:
            raise FactoryError("an embedder at an endpoint was asked outside of a run")
        if not texts:
            return np.zeros((0, 1), np.float32)
        keys = [digest([self.id, text]) for text in texts]
        wanted = dict(zip(keys, texts, strict=True))
        rows = self._account.find(self.id, wanted)
        missing = [key for key in wanted if key not in rows]
        if missing:
            connection = Connection(self._server.base_url, self._key)
            try:
                for start in range(0, len(missing), BATCH_TEXTS):
                    part = {key: wanted[key] for key in missing[start : start + BATCH_TEXTS]}
                    rows |= await self._embed_part(self._account, connection, part)
            finally:
                await connection.close()
        if len({len(row) for row in rows.values()}) > 1:
            raise self._failure("rows of different lengths", "malformed")
        return np.stack([rows[key] for key in keys])

    async def _embed_part(
        self, account: Account, connection: Connection, part: Mapping[str, str]
    ) -> dict[str, NDArray[np.float32]]:
        """Attempts until rows come or the retries are spent; either way the call is recorded."""
        call, began = EmbeddingCall(list(part)), time.monotonic()
        try:
            rows = dict(zip(part, await self._retry(account.budget, connection, part, call), strict=True))
        except BaseException as error:
            if not isinstance(error, FactoryError):
                call.error = "cancelled"
            if call.num_attempts:
                call.latency_ms = 1000 * (time.monotonic() - began)
                account.keep(self.id, call, {})
            raise
        call.latency_ms = 1000 * (time.monotonic() - began)
        account.keep(self.id, call, rows)
        return rows

    async def _retry(
        self, budget: Budget, connection: Connection, part: Mapping[str, str], call: EmbeddingCall
    ) -> NDArray[np.float32]:
        while True:
            try:
                return await self._attempt(budget, connection, list(part.values()), call)
            except EndpointError as error:
                call.error = error.kind
                if not error.retryable or call.num_attempts >= MAX_ATTEMPTS:
                    raise
                wait = delay_seconds(
                    error, call.num_attempts, self._first_delay_seconds, is_up=False, spread=0.5
                )
            await asyncio.sleep(wait)

    async def _attempt(
        self, budget: Budget, connection: Connection, texts: Sequence[str], call: EmbeddingCall
    ) -> NDArray[np.float32]:
        """Rows of unit length; the reservation is settled or given back whatever happens."""
        most = bound_tokens(texts)
        reservation = await budget.reserve(most, 0, self._price)
        call.num_attempts += 1
        try:
            rows, used = await self._ask(connection, texts, budget.seconds_left())
        except BaseException as error:
            # Cut off by us, it may be worked on all the same.
            if error.worked_on if isinstance(error, EndpointError) else True:
                call.lost += reservation
                budget.keep(reservation)
            else:
                budget.release(reservation)
            if isinstance(error, TimeoutError):
                call.error = "cancelled"
                raise budget.exceeded("minutes") from None
            raise
        call.error = ""
        call.num_tokens = most if used is None else used
        call.dollars = budget.settle(reservation, call.num_tokens, 0, self._price)
        return unit_rows(rows)

    async def _ask(
        self, connection: Connection, texts: Sequence[str], seconds_left: float | None
    ) -> tuple[NDArray[np.float32], int | None]:
        """Rows and their tokens, None where it does not say; TimeoutError where the run's minutes end."""
        import aiohttp

        asked = {"model": self._model, "input": [text or " " for text in texts], "encoding_format": "float"}
        try:
            async with asyncio.timeout(seconds_left), asyncio.timeout(TIMEOUT_SECONDS) as limit:
                reply = await connection.request("POST", "embeddings", json.dumps(asked).encode())
        except TimeoutError as error:
            if not limit.expired():
                raise
            what = f"no answer within {TIMEOUT_SECONDS:g} s"
            raise self._failure(what, "timeout", worked_on=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._failure(str(error) or type(error).__name__, "unreachable") from None
        if not 200 <= reply.status < 300:
            message = self._hide(server_message(reply.content))
            raise failure_from_status(reply.status, reply.headers, message, self._where)
        try:
            return _rows(reply.content, len(texts))
        except (ValueError, KeyError, TypeError) as error:
            raise self._failure(f"no embeddings: {error}", "malformed", worked_on=True) from None

    def _failure(self, what: str, kind: str, worked_on: bool = False) -> EndpointError:
        return EndpointError(one_line(self._hide(what)), kind=kind, worked_on=worked_on, where=self._where)

    def _hide(self, text: str) -> str:
        text = text.replace(self._server.base_url, self._where)
        return text.replace(self._key, "***") if self._key else text


def bound_tokens(texts: Sequence[str]) -> int:
    """At least as many tokens as a byte-level tokenizer makes of the texts."""
    num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return num_bytes + TOKENS_PER_TEXT * len(texts)


def _rows(content: bytes, num_texts: int) -> tuple[NDArray[np.float32], int | None]:
    """The embeddings of an answer by their index, and its tokens; raises ValueError, KeyError, TypeError."""
    body = json.loads(content)
    data = sorted(body["data"], key=lambda row: row["index"])
    if [row["index"] for row in data] != list(range(num_texts)):
        raise ValueError(f"{num_texts} texts were sent, and {len(data)} rows came")
    rows = np.array([row["embedding"] for row in data], np.float32)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise ValueError("rows that are no vectors")
    used = (body.get("usage") or {}).get("prompt_tokens")
    return rows, used if isinstance(used, int) else None
