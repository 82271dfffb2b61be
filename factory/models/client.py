"""One call to an OpenAI-compatible chat endpoint: a request in, a completion or an EndpointError out.

Every way to fail becomes one of EndpointError's kinds, with the server's own words and never with the
key. It does not retry, queue, store or count money; the engine does.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from factory.address import without_password
from factory.errors import EndpointError
from factory.models.chat import (
    ChatRequests,
    Unscored,
    read_completion,
    read_given_answer,
    server_message,
)
from factory.models.connection import Connection
from factory.models.failure import failure_from_status, one_line
from factory.models.listing import Listed
from factory.models.remote_adapter import list_models
from factory.models.wire import Reply
from factory.types import Completion, Request

SHOWN_CHARS: Final = 120  # of an answer that is none
OF_GIVEN: Final = ("prompt_logprobs", "continue_final_message", "add_generation_prompt")
GIVEN_HINT: Final = (
    "vLLM tells it (`prompt_logprobs`): name a server of kind vllm, or an endpoint that is one"
)


class Posts(Protocol):
    """The way to an endpoint, as far as single calls go."""

    async def post(self, body: bytes, sent: asyncio.Event) -> Reply:
        """The reply; `sent` is set before anything leaves, since nobody works on what never left."""
        ...

    async def close(self) -> None: ...


class EndpointModel:
    """A model at an endpoint. `structured` says whether the endpoint constrains answers to a JSON schema.

    Where a `connection` is given, requests go through that one, and the address is only a name.
    """

    def __init__(
        self,
        base_url: str,
        model_name: str,
        model_id: str,
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
        structured: bool = True,
        connection: Posts | None = None,
    ) -> None:
        self.base_url = base_url
        self.name = model_name
        self.timeout_seconds = timeout_seconds
        self.structured = structured
        self._id = model_id
        self._where = without_password(base_url)
        self._key = api_key or ""
        self._requests = ChatRequests(model_name, structured)
        self._connection = connection

    @property
    def id(self) -> str:
        return self._id

    async def complete(self, request: Request) -> Completion:
        """The first choice of one chat completion, its latency in milliseconds; raises EndpointError."""
        connection = self._connected()  # imports openai the first time, which is no part of the latency
        began, sent = time.monotonic(), asyncio.Event()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                reply = await self._post(connection, self._requests.encode(request), sent)
        except TimeoutError as error:
            what = f"no {'answer' if sent.is_set() else 'connection'} within {self.timeout_seconds:g} s"
            raise self._failure(what, "timeout", worked_on=sent.is_set()) from error
        return self._read(request, reply, 1000 * (time.monotonic() - began))

    async def list_models(self) -> dict[str, Listed]:
        """What the endpoint serves, by name; raises EndpointError."""
        return await list_models(self.base_url, self._key)

    async def address(self) -> tuple[str, str]:
        """Where others can ask it and with what key."""
        return self.base_url, self._key

    def beside(self, name: str, model_id: str) -> EndpointModel:
        """Another model of the same endpoint."""
        return EndpointModel(self.base_url, name, model_id, self._key, self.timeout_seconds, self.structured)

    async def close(self) -> None:
        """Closes the connections; calling it again does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _connected(self) -> Posts:
        if self._connection is None:
            import httpx2

            try:
                self._connection = Connection(self.base_url, self._key)
            except (ValueError, TypeError, httpx2.InvalidURL) as error:
                why = f": {error}" if self._where == self.base_url else ""  # it may quote the password
                raise self._failure(f"not an address{why}", "unreachable") from None
        return self._connection

    async def _post(self, connection: Posts, body: bytes, sent: asyncio.Event) -> Reply:
        import aiohttp

        try:
            return await connection.post(body, sent)
        except (aiohttp.ClientError, OSError) as error:
            root = _root(error)
            if isinstance(root, TimeoutError):
                raise root from None
            what = str(root) or type(root).__name__
            raise self._failure(what, "unreachable", worked_on=sent.is_set()) from None
        except ValueError as error:  # a key that no header can hold
            raise self._failure(f"the request cannot be sent: {error}", "malformed") from None

    def _read(self, request: Request, reply: Reply, latency_ms: float) -> Completion:
        if not 200 <= reply.status < 300:
            message = self._hide(server_message(reply.content))
            if reply.status < 400 and (address := reply.headers.get("Location")):
                message = self._hide(f"it points to another address, {address}; put that into the recipe")
            failure = failure_from_status(reply.status, reply.headers, message, self._where)
            if request.given and any(name in message for name in OF_GIVEN):
                failure.hint = GIVEN_HINT
            raise failure
        try:
            if request.given:
                completion = read_given_answer(reply.content, request.messages[-1].content, latency_ms)
            else:
                completion = read_completion(reply.content, latency_ms)
        except Unscored as error:
            raise self._failure(str(error), "refused", worked_on=True, hint=GIVEN_HINT) from None
        except ValueError as error:
            # Hidden before it is cut: a piece of the key would be no longer found.
            start = self._hide(reply.content.decode("utf-8", "replace"))[:SHOWN_CHARS]
            raise self._failure(f"{error}: {start!r}", "malformed", worked_on=True) from None
        if completion.finish_reason == "abort":  # by vLLM, when it is put to sleep: the text is cut off
            raise self._failure("the server aborted the request", "server_error", worked_on=True)
        return completion

    def _failure(self, what: str, kind: str, *, worked_on: bool = False, hint: str = "") -> EndpointError:
        what, where = one_line(self._hide(what)), self._where
        return EndpointError(
            what, kind=kind, retryable=kind != "refused", worked_on=worked_on, where=where, hint=hint
        )

    def _hide(self, text: str) -> str:
        """A server may quote the key that it refuses, and a library the address that it was given."""
        text = text.replace(self.base_url, self._where)
        return text.replace(self._key, "***") if self._key else text


def _root(error: BaseException) -> BaseException:
    """The innermost cause, which says what happened to the connection itself."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
