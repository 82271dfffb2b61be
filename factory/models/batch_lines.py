"""The lines of batch files, as the OpenAI Batch API and `vllm run-batch` have them: requests out, results in.

A request is known by its `custom_id`, which is the id of the call; results come in any order. A line that is
none is left out, so that its request counts as unanswered. Pure functions of text; what is sent where, and
what is tried again, is not here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from factory.budget import bound_prompt_tokens
from factory.errors import EndpointError
from factory.models.chat import completion_of, server_message
from factory.models.failure import failure_from_status, one_line
from factory.types import Completion, Message

URL: Final = "/v1/chat/completions"
# OpenAI's codes of requests that met no model; what a person called off is not begun again by itself.
CODES: Final = {
    "batch_expired": ("timeout", True),
    "batch_cancelled": ("refused", False),
    "request_timeout": ("timeout", True),
}

Result = Completion | EndpointError


def request_line(call_id: str, body: bytes) -> bytes:
    """The line of a request whose chat completion body is given."""
    return b'{"custom_id":"%s","method":"POST","url":"%s","body":%s}\n' % (
        call_id.encode(),
        URL.encode(),
        body,
    )


def read_ids(lines: Iterable[bytes]) -> list[str]:
    """The ids of the calls in a file of requests."""
    return [str(json.loads(line)["custom_id"]) for line in lines if line.strip()]


def read_bounds(lines: Iterable[bytes]) -> Iterator[tuple[str, int, int]]:
    """What a file of requests can cost: id, most tokens of prompt and of answer of each request."""
    for line in lines:
        if line.strip():
            found = json.loads(line)
            body = found["body"]
            messages = [Message(turn["role"], turn["content"]) for turn in body["messages"]]
            yield found["custom_id"], bound_prompt_tokens(messages, body.get("tools", ())), body["max_tokens"]


def read_results(lines: Iterable[bytes], where: str, hide: Callable[[str], str] = str) -> dict[str, Result]:
    """What became of each request that the lines tell of; an answer counts more than a failure.

    `hide` takes out of a message what nobody is to see, such as a key.
    """
    results: dict[str, Result] = {}
    for line in lines:
        found = _parse(line)
        if found is None:
            continue
        call_id = found["custom_id"]
        if not isinstance(results.get(call_id), Completion):
            results[call_id] = _result(found, where, hide)
    return results


def failed_calls(call_ids: Iterable[str], results: Mapping[str, Result]) -> set[str]:
    """Those of which no line says that they were answered."""
    return {call for call in call_ids if not isinstance(results.get(call), Completion)}


def unanswered(what: str, where: str) -> EndpointError:
    """The failure of a request of which no line tells."""
    what = f"the batch came back without an answer to it: {what}"
    return EndpointError(what, kind="malformed", where=where, worked_on=True)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("custom_id"), str) else None


def _result(line: dict[str, Any], where: str, hide: Callable[[str], str]) -> Result:
    response, error = line.get("response"), line.get("error")
    if isinstance(response, dict):
        status = response.get("status_code", 200)
        if isinstance(status, int) and 200 <= status < 300:
            return _completion(response.get("body"), where)
        said = response.get("body") or error or ""
        message = server_message(json.dumps(said).encode() if not isinstance(said, str) else said.encode())
        return failure_from_status(status if isinstance(status, int) else 500, {}, hide(message), where)
    code, message = "", str(error)
    if isinstance(error, dict):
        code, message = str(error.get("code") or ""), str(error.get("message") or error.get("code") or error)
    kind, retryable = CODES.get(code, ("server_error", True))
    return EndpointError(one_line(hide(message)), kind=kind, retryable=retryable, where=where)


def _completion(body: Any, where: str) -> Result:
    try:
        completion = completion_of(body)
    except ValueError as error:
        return EndpointError(str(error), kind="malformed", where=where, worked_on=True)
    if completion.finish_reason == "abort":
        what = "the server aborted the request"
        return EndpointError(what, kind="server_error", where=where, worked_on=True)
    return completion
