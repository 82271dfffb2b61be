"""EndpointModel against a real endpoint on loopback: what is sent, what is read, how it fails."""

import asyncio
import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import aiohttp
import pytest
from fake_endpoint import Drop, FakeEndpoint, Hang, Status, answer
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import EndpointError
from factory.models.chat import split_reasoning
from factory.models.client import EndpointModel
from factory.models.failure import parse_retry_after
from factory.models.wire import Reply
from factory.types import Completion, Message, Request, Sampling

KEY = "sk-very-secret-1234"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def request(schema=None, **sampling) -> Request:
    return Request(
        "m", (Message("system", "be brief"), Message("user", "Why?")), schema, Sampling(**sampling)
    )


async def ask(endpoint: FakeEndpoint, req: Request | None = None, **options) -> Completion:
    options = {"api_key": KEY, "timeout_seconds": 30.0, **options}
    model = EndpointModel(endpoint.base_url, "fake", "id-1", **options)
    try:
        return await model.complete(req or request())
    finally:
        await model.close()


async def fail(answers, **options) -> EndpointError:
    async with FakeEndpoint(answers) as endpoint:
        with pytest.raises(EndpointError) as caught:
            await ask(endpoint, **options)
        assert len(endpoint.requests) == 1, "it must not retry by itself"
        assert KEY not in str(caught.value)
        assert endpoint.base_url in str(caught.value)
        assert "\n" not in str(caught.value)
        return caught.value


async def test_what_is_sent_and_read():
    async with FakeEndpoint([answer("thirty days", delay_seconds=0.05)]) as endpoint:
        found = await ask(endpoint, request(SCHEMA, temperature=0.5, top_p=0.9, max_tokens=33, seed=4))
    assert found.text == "thirty days"
    assert (found.prompt_tokens, found.completion_tokens, found.finish_reason) == (7, 2, "stop")
    assert 50 <= found.latency_ms < 5000
    sent = endpoint.requests[0]
    assert sent["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "Why?"},
    ]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["seed"]) == (0.5, 0.9, 33, 4)
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_no_schema_is_sent_where_the_endpoint_cannot_constrain_and_no_seed_where_there_is_none():
    async with FakeEndpoint([answer("x")]) as endpoint:
        await ask(endpoint, request(SCHEMA), structured=False)
        await ask(endpoint, request(None))
    assert all("response_format" not in sent and "seed" not in sent for sent in endpoint.requests)


@pytest.mark.parametrize(
    ("given_answer", "text", "reasoning"),
    [
        (answer("<think>\nhm</think>\n\n42"), "42", "hm"),
        (answer("42", reasoning_content="because"), "42", "because"),
        (answer("42", reasoning="because"), "42", "because"),
        (answer("42 <think>late</think>"), "42 <think>late</think>", ""),
        (answer("<think>never closed"), "<think>never closed", ""),
    ],
)
async def test_reasoning_is_kept_apart(given_answer, text, reasoning):
    async with FakeEndpoint([given_answer]) as endpoint:
        found = await ask(endpoint)
    assert (found.text, found.reasoning) == (text, reasoning)


@given(st.text(), st.text(alphabet=st.characters(exclude_characters="<")))
def test_split_reasoning_loses_nothing(text, thought):
    assert split_reasoning(f"<think>{thought}</think>{text}") == (text.lstrip(), thought.strip())


async def test_no_content_is_an_empty_answer():
    body = answer("x").body
    body["choices"][0]["message"]["content"] = None
    async with FakeEndpoint([Status(200, body)]) as endpoint:
        assert (await ask(endpoint)).text == ""


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (401, "unauthorized", False),
        (403, "unauthorized", False),
        (400, "refused", False),
        (404, "refused", False),
        (422, "refused", False),
        (408, "timeout", True),
        (429, "rate_limited", True),
        (500, "server_error", True),
        (503, "server_error", True),
    ],
)
async def test_statuses(status, kind, retryable):
    error = await fail([Status(status, {"error": {"message": f"the key {KEY} or the model is wrong"}})])
    assert (error.kind, error.retryable) == (kind, retryable)
    assert "or the model is wrong" in str(error)


@pytest.mark.parametrize("body", ["<html>Bad gateway</html>", {"detail": "Bad gateway"}, "", ["Bad gateway"]])
async def test_any_error_body_is_told(body):
    error = await fail([Status(502, body)])
    assert "Bad gateway" in str(error) if body else "502" in str(error)


async def test_retry_after_in_seconds_and_as_a_date():
    assert (await fail([Status(429, "slow", {"Retry-After": "2.5"})])).retry_after_seconds == 2.5
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    seconds = (await fail([Status(429, "slow", {"Retry-After": date})])).retry_after_seconds
    assert seconds is not None
    assert 80 < seconds <= 90
    assert (await fail([Status(503, "slow")])).retry_after_seconds is None


@given(st.text())
def test_any_retry_after_is_a_wait_or_nothing(text):
    seconds = parse_retry_after(text)
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    "body",
    [
        "<html>login</html>",
        b"\xff\xfe\x00",
        "",
        "[" * 10_000,
        [],
        {},
        {"choices": []},
        {"choices": [{"message": {"content": 3}}]},
        {"choices": [None]},
        {"object": "error", "message": "200 but wrong"},
    ],
)
async def test_what_is_not_a_completion_is_malformed(body):
    for kind in ("text/html", "application/json"):
        headers = {} if isinstance(body, (dict, list)) else {"Content-Type": kind}
        error = await fail([Status(200, body, headers)])
        assert (error.kind, error.retryable) == ("malformed", True)


async def test_an_aborted_answer_is_no_answer():
    assert (await fail([answer("half an", finish_reason="abort")])).kind == "server_error"


@pytest.mark.parametrize("hang", [Hang(), Hang(drip=True), answer("late", delay_seconds=4)])
async def test_hangs_end(hang):
    began = time.monotonic()
    error = await fail([hang], timeout_seconds=0.5)
    assert (error.kind, error.retryable) == ("timeout", True)
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize("num_bytes", range(100, 126))
async def test_no_piece_of_a_key_is_told_where_the_answer_is_cut(num_bytes):
    error = await fail([Status(200, "x" * num_bytes + KEY + "x" * 50)])
    assert ("sk-" not in str(error) and "x***" in str(error)) or "sk" not in str(error)


@pytest.mark.parametrize("drop", [Drop(), Drop(midway=True)])
async def test_dropped_connections_are_unreachable(drop):
    error = await fail([drop])
    assert (error.kind, error.retryable) == ("unreachable", True)


@pytest.mark.parametrize(
    ("reply", "worked_on"),
    [
        (Hang(), True),
        (Drop(), True),
        (Drop(midway=True), True),
        (Status(200, "<html>"), True),
        (answer("half an", finish_reason="abort"), True),
        (Status(504, "gateway timeout"), True),
        (Status(500, "broken"), False),
        (Status(429, "slow down"), False),
        (Status(400, "no such thing"), False),
    ],
)
async def test_what_the_endpoint_may_have_worked_on_is_told_from_what_it_refused(reply, worked_on):
    assert (await fail([reply], timeout_seconds=0.5)).worked_on is worked_on


async def test_a_connection_that_is_never_made_sends_nothing_that_could_be_billed():
    with socket.socket() as busy, socket.socket() as first, socket.socket() as second:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        for waiting in (first, second):  # nobody accepts them, so that there is no room for a third
            waiting.setblocking(False)
            waiting.connect_ex(busy.getsockname())
        model = EndpointModel(f"http://127.0.0.1:{busy.getsockname()[1]}/v1", "m", "id", KEY, 0.5)
        with pytest.raises(EndpointError, match=r"no connection within 0\.5 s") as caught:
            await model.complete(request())
        await model.close()
    assert (caught.value.kind, caught.value.retryable, caught.value.worked_on) == ("timeout", True, False)


FAR = SimpleNamespace(host="far", port=443, ssl=True, real_url="https://far/v1")


class NoWay:
    """A way to an endpoint on which every connection fails by `error`, before anything is sent."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def post(self, body: bytes, sent: asyncio.Event) -> Reply:
        raise self.error

    async def close(self) -> None: ...


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ConnectionTimeoutError("no connection"),
        aiohttp.ClientConnectorError(FAR, TimeoutError(110, "timed out")),
        aiohttp.ClientHttpProxyError(FAR, (), status=407, message="who are you?"),
        TimeoutError(110, "timed out"),
    ],
)
async def test_what_fails_on_the_way_to_a_connection_is_not_billed(error):
    with pytest.raises(EndpointError) as caught:
        await EndpointModel("http://far/v1", "m", "id", KEY, 5.0, connection=NoWay(error)).complete(request())
    assert not caught.value.worked_on


async def test_nobody_listens():
    model = EndpointModel("http://127.0.0.1:9/v1", "m", "id", KEY, 5.0)
    with pytest.raises(EndpointError) as caught:
        await model.complete(request())
    assert caught.value.kind == "unreachable" and not caught.value.worked_on
    assert "127.0.0.1:9" in str(caught.value)
    await model.close()
    await model.close()


@pytest.mark.parametrize("url", ["http://", "nonsense", "http://[::1", "ftp://127.0.0.1/v1"])
async def test_an_address_that_is_none_is_an_endpoint_error(url):
    with pytest.raises(EndpointError):
        await EndpointModel(url, "m", "id", KEY, 5.0).complete(request())


async def test_cancelling_is_not_an_endpoint_error():
    async with FakeEndpoint([Hang()]) as endpoint:
        task = asyncio.create_task(ask(endpoint))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_proxy_in_the_environment_does_not_catch_loopback(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with FakeEndpoint([answer("direct")]) as endpoint:
        assert (await ask(endpoint)).text == "direct"


async def test_256_in_flight_are_not_held_back_by_the_client():
    async with FakeEndpoint([answer("x", delay_seconds=2.0)]) as endpoint:
        model = EndpointModel(endpoint.base_url, "fake", "id", KEY, 60.0)
        found = await asyncio.gather(*[model.complete(request(seed=n)) for n in range(256)])
        await model.close()
    assert len(found) == 256
    assert endpoint.most_in_flight > 200, "an HTTP client's usual limit is 100"


async def test_odd_text_survives_and_lone_surrogates_do_not_break_the_call():
    text = 'a"\\\n\u2028\U0001f600'
    async with FakeEndpoint([answer(text)]) as endpoint:
        found = await ask(endpoint, Request("m", (Message("user", text + "\ud800"),), None, Sampling()))
    assert found.text == text
    assert endpoint.requests[0]["messages"][0]["content"] == text + "?"
