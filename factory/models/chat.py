"""The chat completions format, both ways: a request to bytes, an answer's bytes to a completion.

Pure functions of what is asked and what came: no connection, no client, no error kinds. What does not
change between requests, the schema above all, becomes text once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from factory.tokens import read_given, read_tokens
from factory.tool_calls import text_of_calls
from factory.types import OPEN_TURN, Completion, Json, Request

TOKEN_COUNTS: Final = ("prompt_tokens", "completion_tokens")
THINK: Final = re.compile(r"\A\s*<think>(.*?)</think>\s*", re.DOTALL)
MAX_SCHEMAS: Final = 64  # kept as text; a strategy has a few


class Unscored(ValueError):
    """A chat completion without the probabilities of the prompt that were asked for."""


class ChatRequests:
    """Requests for one model as bytes; `structured`: whether they carry the JSON schema of the answer.

    A schema counts as the same one while it is the same object: who asks with it does not change it.
    """

    def __init__(self, model_name: str, structured: bool = True) -> None:
        self._model = _text(model_name)
        self._structured = structured
        self._formats: dict[int, tuple[Json, str]] = {}

    def encode(self, request: Request) -> bytes:
        """The body of a POST to /chat/completions; lone surrogates, which UTF-8 cannot hold, as '?'."""
        sampling = request.sampling
        turns = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        body = (
            f'{{"model":{self._model},"messages":{_text_of_turns(turns)},"temperature":{float(sampling.temperature)!r},'
            f'"top_p":{float(sampling.top_p)!r},"max_tokens":{int(sampling.max_tokens)}'
        )
        if sampling.seed is not None:
            body += f',"seed":{int(sampling.seed)}'
        if request.given or request.messages[-1] == OPEN_TURN:
            body += ',"add_generation_prompt":false,"continue_final_message":true'
        if request.given:
            body += ',"prompt_logprobs":0'  # of the prompt's own tokens and no others
        if request.top_logprobs:
            body += f',"logprobs":true,"top_logprobs":{int(request.top_logprobs)}'
        if request.tools:
            body += f',"tools":{_text(request.tools)}'
        if request.schema is not None and self._structured:
            body += self._format(request.schema)
        return (body + "}").encode("utf-8", "replace")

    def _format(self, schema: Json) -> str:
        known = self._formats.get(id(schema))
        if known is not None and known[0] is schema:
            return known[1]
        shape = {"name": "answer", "schema": schema, "strict": True}
        text = f',"response_format":{_text({"type": "json_schema", "json_schema": shape})}'
        if len(self._formats) >= MAX_SCHEMAS:  # schemas made for each request: none of them is worth keeping
            self._formats.clear()
        self._formats[id(schema)] = (schema, text)  # with the schema itself, so that its id stays its own
        return text


def read_completion(content: bytes, latency_ms: float = 0.0) -> Completion:
    """The first choice of an answer's body; raises ValueError where it is no chat completion."""
    try:
        body = _parsed(content)
    except (ValueError, RecursionError) as error:
        raise ValueError("the answer is not a chat completion") from error
    return completion_of(body, latency_ms)


def read_given_answer(content: bytes, answer: str, latency_ms: float = 0.0) -> Completion:
    """The answer that was given, with its tokens as they stand in the prompt.

    Raises Unscored where an endpoint passes over `prompt_logprobs`, and ValueError as `read_completion`.
    """
    completion = read_completion(content, latency_ms)
    prompt = _parsed(content).get("prompt_logprobs")
    if not prompt:
        raise Unscored("it does not tell how likely an answer is that is given to it")
    return replace(completion, text=answer, finish_reason="stop", logprobs=read_given(prompt, answer))


def completion_of(body: Json, latency_ms: float = 0.0) -> Completion:
    """The same of a body that is parsed already."""
    try:
        choice = body["choices"][0]
        message = choice["message"]
        usage: Mapping[str, Any] = body.get("usage") or {}
        text = message.get("content") or ""
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        finish_reason = str(choice.get("finish_reason") or "stop")
        num_prompt, num_completion = [int(usage.get(name) or 0) for name in TOKEN_COUNTS]
        if not isinstance(text, str) or not isinstance(reasoning, str):
            raise TypeError("content is not a string")
        calls = [call["function"] for call in message.get("tool_calls") or ()]
        answer = text_of_calls(calls) if calls else ""
        said, reasoning = split_reasoning(text, reasoning)
        tokens = read_tokens(choice.get("logprobs"), said) if not answer else None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError("the answer is not a chat completion") from error
    if answer:  # calls are the answer; what is said beside them is kept, and no part of it
        said, reasoning = answer, "\n".join(part for part in (reasoning, said.strip()) if part)
    return Completion(said, finish_reason, reasoning, num_prompt, num_completion, latency_ms, tokens)


def split_reasoning(text: str, reasoning: str = "") -> tuple[str, str]:
    """(answer, reasoning), where a leading <think>...</think> block of `text` counts as reasoning."""
    found = THINK.match(text)
    if found is None:
        return text, reasoning
    return text[found.end() :], "\n".join(part for part in (reasoning, found[1].strip()) if part)


def server_message(content: bytes) -> str:
    """What the server says is wrong, from the usual places of an error body; else the body as it is."""
    text = content.decode("utf-8", "replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return text
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, dict):
        inner = inner.get("message") or inner.get("detail") or json.dumps(inner)
    return inner if isinstance(inner, str) and inner else text


def _parsed(content: bytes) -> Json:
    try:
        return orjson.loads(content)
    except ValueError:  # Python's own reads lone surrogates and NaN
        return json.loads(content)


def _text_of_turns(turns: list[dict[str, str]]) -> str:
    try:
        return orjson.dumps(turns).decode()
    except TypeError:  # lone surrogates
        return _text(turns)


_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
