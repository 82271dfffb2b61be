"""One call to an OpenAI-compatible chat endpoint: a request in, a completion or an EndpointError out.

Every way to fail becomes one of EndpointError's kinds, with the server's own words and never with the
key. It does not retry, queue, store or count money; the engine does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from factory.errors import EndpointError
from factory.models.failure import failure_from_status, one_line
from factory.types import Completion, Request

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Below the five seconds after which uvicorn (vLLM) closes idle connections, so that none is reused too late.
KEEPALIVE_SECONDS: Final = 4.0
MAX_CONNECTIONS: Final = 4096
TOKEN_COUNTS: Final = ("prompt_tokens", "completion_tokens")
THINK = re.compile(r"\A\s*<think>(.*?)</think>\s*", re.DOTALL)


class EndpointModel:
    """A model at an endpoint. `structured` says whether the endpoint constrains answers to a JSON schema."""

    def __init__(
        self,
        base_url: str,
        model_name: str,
        model_id: str,
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
        structured: bool = True,
    ) -> None:
        self.base_url = base_url
        self.model_name = model_name
        self.timeout_seconds = timeout_seconds
        self.structured = structured
        self._id = model_id
        self._key = api_key or ""
        self._client: AsyncOpenAI | None = None

    @property
    def id(self) -> str:
        return self._id

    async def complete(self, request: Request) -> Completion:
        """The first choice of one chat completion, its latency in milliseconds; raises EndpointError."""
        client = self._connected()  # imports openai the first time, which is no part of the answer's latency
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                content = await self._post(client, self._body(request))
            completion = self._read(content)
        except TimeoutError as error:
            raise self._failure(f"no answer within {self.timeout_seconds:g} s", "timeout") from error
        return replace(completion, latency_ms=1000 * (time.monotonic() - began))

    async def close(self) -> None:
        """Closes the connections; calling it again does nothing."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _body(self, request: Request) -> dict[str, Any]:
        sampling = request.sampling
        body: dict[str, Any] = {
            "model": self.model_name,
            "messages": [
                {"role": turn.role, "content": _sendable(turn.content)} for turn in request.messages
            ],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if request.schema is not None and self.structured:
            shape = {"name": "answer", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        return body

    def _connected(self) -> AsyncOpenAI:
        if self._client is None:
            import httpx2

            try:
                self._client = _connect(self.base_url, self._key, self.timeout_seconds)
            except (ValueError, TypeError, httpx2.InvalidURL) as error:
                raise self._failure(f"not an address: {error}", "unreachable") from None
        return self._client

    async def _post(self, client: AsyncOpenAI, body: Mapping[str, Any]) -> bytes:
        import openai

        try:
            raw = await client.chat.completions.with_raw_response.create(**body)
            return bytes(raw.http_response.content)
        except openai.APIStatusError as error:
            message = _server_message(error.body) or error.response.text
            raise failure_from_status(
                error.status_code, error.response.headers, self._hide(message), self.base_url
            ) from None
        except openai.APIConnectionError as error:
            root = _root(error)
            if isinstance(root, TimeoutError):
                raise TimeoutError from error
            raise self._failure(str(root) or type(root).__name__, "unreachable") from None
        except (openai.OpenAIError, UnicodeError, ValueError) as error:
            raise self._failure(f"the answer cannot be read: {error}", "malformed") from None

    def _read(self, content: bytes) -> Completion:
        """The completion in an answer's body; raises EndpointError of kind malformed."""
        try:
            body = json.loads(content)
            choice = body["choices"][0]
            message = choice["message"]
            usage = body.get("usage") or {}
            text = message.get("content") or ""
            reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
            finish_reason = str(choice.get("finish_reason") or "stop")
            num_prompt, num_completion = (int(usage.get(name) or 0) for name in TOKEN_COUNTS)
            if not isinstance(text, str) or not isinstance(reasoning, str):
                raise TypeError("content is not a string")
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            start = content[:120].decode("utf-8", "replace")
            raise self._failure(f"the answer is not a chat completion: {start!r}", "malformed") from None
        if finish_reason == "abort":  # by vLLM, when it is put to sleep: the text is cut off
            raise self._failure("the server aborted the request", "server_error")
        text, reasoning = split_reasoning(text, reasoning)
        return Completion(text, finish_reason, reasoning, num_prompt, num_completion)

    def _failure(self, what: str, kind: str) -> EndpointError:
        return EndpointError(self._hide(one_line(what)), kind=kind, where=self.base_url)

    def _hide(self, text: str) -> str:
        """A server may quote the key that it refuses."""
        return text.replace(self._key, "***") if self._key else text


def split_reasoning(text: str, reasoning: str = "") -> tuple[str, str]:
    """(answer, reasoning), where a leading <think>...</think> block of `text` counts as reasoning."""
    found = THINK.match(text)
    if found is None:
        return text, reasoning
    return text[found.end() :], "\n".join(part for part in (reasoning, found[1].strip()) if part)


def _sendable(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot hold, as question marks."""
    return text.encode("utf-8", "replace").decode()


def _connect(base_url: str, key: str, timeout_seconds: float) -> AsyncOpenAI:
    """openai over aiohttp, which costs it half the time a request that its usual transport does."""
    import httpx2
    from openai import AsyncOpenAI, DefaultAioHttpClient

    limits = httpx2.Limits(max_connections=MAX_CONNECTIONS, keepalive_expiry=KEEPALIVE_SECONDS)
    transport = DefaultAioHttpClient(limits=limits, timeout=None, trust_env=not _is_loopback(base_url))
    return AsyncOpenAI(
        base_url=base_url,
        api_key=key or "none",
        max_retries=0,
        timeout=timeout_seconds,
        http_client=transport,
    )


def _is_loopback(base_url: str) -> bool:
    """Whether a proxy named in the environment could not reach the address anyway."""
    host = urlsplit(base_url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _server_message(body: object) -> str:
    """What the server says is wrong, from the usual places of an error body; '' where it says nothing."""
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, dict):
        inner = inner.get("message") or inner.get("detail") or json.dumps(inner)
    return inner if isinstance(inner, str) else ""


def _root(error: BaseException) -> BaseException:
    """The innermost cause: the transport in between calls every lost connection a timeout."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
