"""What goes over the wire: the request that the openai client itself would send, by a shorter way."""

import asyncio
import gzip
import json

import pytest
from aiohttp import encode_basic_auth, web
from fake_endpoint import FakeEndpoint, Status, answer
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from factory.errors import EndpointError
from factory.models import chat, wire
from factory.models.chat import MAX_SCHEMAS, ChatRequests
from factory.models.client import EndpointModel
from factory.models.connection import find_route, open_client
from factory.types import Message, Request, Sampling

KEY = "sk-very-secret-1234"
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "description": "é"}}, "required": ["a"]}
PROXIES = (
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


def request(text="Why?", schema=SCHEMA, seed: int | None = 4) -> Request:
    return Request(
        "m", (Message("system", "be brief"), Message("user", text)), schema, Sampling(0.5, 0.9, 33, seed)
    )


async def ask(base_url: str, req: Request | None = None, key: str | None = KEY):
    model = EndpointModel(base_url, "fake", "id-1", key, 20.0)
    try:
        return await model.complete(req or request())
    finally:
        await model.close()


async def test_it_is_the_request_that_openai_would_send(monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: law\nuser-agent: ours")
    async with FakeEndpoint([answer("x")]) as endpoint:
        await ask(endpoint.base_url)
        async with AsyncOpenAI(base_url=endpoint.base_url, api_key=KEY, max_retries=0) as client:
            shape = {"name": "answer", "schema": SCHEMA, "strict": True}
            await client.chat.completions.create(
                model="fake",
                messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "Why?"}],
                temperature=0.5,
                top_p=0.9,
                max_tokens=33,
                seed=4,
                response_format={"type": "json_schema", "json_schema": shape},
            )
    ours, theirs = endpoint.requests
    assert ours == theirs
    ours, theirs = [{name.lower(): value for name, value in each.items()} for each in endpoint.headers]
    assert (ours["x-team"], ours["openai-organization"], ours["user-agent"]) == ("law", "org-1", "ours")
    of_transport = {
        "accept-encoding",
        "connection",
        "content-length",
        "x-stainless-read-timeout",
        "x-stainless-retry-count",
    }
    for name in theirs.keys() - of_transport:
        assert ours[name] == theirs[name], name


async def test_without_a_key_openais_own_variable_is_not_sent(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    async with FakeEndpoint([answer("x")]) as endpoint:
        await ask(endpoint.base_url, key=None)
    assert KEY not in str(endpoint.headers)


@given(st.text(), st.integers(0, 2**63 - 1))
def test_the_body_is_json_whatever_is_asked(text, seed):
    body = json.loads(ChatRequests('mo"del').encode(request(text, seed=seed)))
    assert body["model"] == 'mo"del'
    assert body["messages"][1] == {"role": "user", "content": text.encode("utf-8", "replace").decode()}
    assert body["seed"] == seed
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA


def test_a_schema_becomes_text_once_and_never_that_of_another(monkeypatch):
    written = []
    monkeypatch.setattr(chat, "_text", lambda value, text=chat._text: written.append(value) or text(value))
    requests, schema = ChatRequests("m"), dict(SCHEMA)
    first = requests.encode(request(schema=schema))
    num_written = len(written)
    assert requests.encode(request(schema=schema)) == first
    assert len(written) == num_written
    for number in range(3 * MAX_SCHEMAS):  # made for one request each, so that their ids come again
        sent = json.loads(requests.encode(request(schema={"const": number})))
        assert sent["response_format"]["json_schema"]["schema"] == {"const": number}
    assert len(requests._formats) <= MAX_SCHEMAS


async def test_a_proxy_of_the_environment_is_used_with_its_password(monkeypatch):
    async with FakeEndpoint([answer("by proxy")]) as proxy:
        host = proxy.base_url.removeprefix("http://").removesuffix("/v1")
        monkeypatch.setenv("http_proxy", f"http://me:p%40ss@{host}")
        found = await ask("http://models.invalid/v1")
    assert found.text == "by proxy"
    assert proxy.headers[0]["Host"] == "models.invalid"
    assert proxy.headers[0]["Proxy-Authorization"] == encode_basic_auth("me", "p@ss")


@pytest.mark.parametrize(
    ("base_url", "exempt", "proxy"),
    [
        ("https://api.example.com/v1", "", "http://p.invalid:1"),
        ("https://api.example.com/v1", "example.com", None),
        ("https://api.example.com/v1", "other.com", "http://p.invalid:1"),
        ("https://api.example.com/v1", "*", None),
        ("http://api.example.com:8000/v1", "api.example.com", None),
        ("http://api.example.com/v1", "", "http://all.invalid:2"),
        ("http://127.0.0.1:8000/v1", "", None),
        ("http://[::1]:8000/v1", "", None),
        ("http://localhost/v1", "", None),
    ],
)
def test_which_proxy_serves_an_address(monkeypatch, base_url, exempt, proxy):
    monkeypatch.setenv("https_proxy", "http://p.invalid:1")
    monkeypatch.setenv("all_proxy", "all.invalid:2")
    monkeypatch.setenv("no_proxy", exempt)
    assert find_route(open_client(base_url, KEY)).proxy == proxy


async def test_a_proxy_of_https_gets_its_password_and_not_the_key(monkeypatch):
    heads = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    monkeypatch.setenv("https_proxy", f"http://me:p%40ss@127.0.0.1:{server.sockets[0].getsockname()[1]}")
    with pytest.raises(EndpointError) as caught:
        await ask("https://models.invalid/v1")
    server.close()
    assert caught.value.kind == "unreachable"
    assert heads[0].startswith("CONNECT models.invalid:443")
    assert f"Proxy-Authorization: {encode_basic_auth('me', 'p@ss')}" in heads[0]
    assert KEY not in heads[0]


async def test_a_dead_proxy_is_told_without_its_password(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:sesame@127.0.0.1:9")
    with pytest.raises(EndpointError) as caught:
        await ask("http://models.invalid/v1")
    assert caught.value.kind == "unreachable"
    assert "sesame" not in str(caught.value)


async def test_user_and_password_of_the_address_become_a_header():
    async with FakeEndpoint([answer("x")]) as endpoint:
        await ask(endpoint.base_url.replace("http://", "http://me:p%40ss@"))
    assert endpoint.headers[0]["Authorization"] == encode_basic_auth("me", "p@ss")


@pytest.mark.parametrize("status", [400, 429, 200])
async def test_user_and_password_of_the_address_are_never_told(status):
    async with FakeEndpoint([Status(status, "no")]) as endpoint:
        with pytest.raises(EndpointError) as caught:
            await ask(endpoint.base_url.replace("http://", "http://me:sesame@"))
    assert "sesame" not in str(caught.value) and "me:" not in str(caught.value)
    assert endpoint.base_url.replace("http://", "http://***@") in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://me:ses/ame@host/v1", "http://me:sesame@127.0.0.1:9/v1", "me:sesame@host/v1"]
)
async def test_nor_of_an_address_that_is_none_or_where_nobody_listens(url):
    with pytest.raises(EndpointError) as caught:
        await ask(url)
    assert "ses" not in str(caught.value) and "***@" in str(caught.value)


async def test_a_redirect_is_told_and_not_followed():
    async with (
        FakeEndpoint([answer("moved")]) as other,
        FakeEndpoint([Status(307, "", {"Location": f"{other.base_url}/chat/completions"})]) as endpoint,
    ):
        with pytest.raises(EndpointError, match="another address") as caught:
            await ask(endpoint.base_url)
    assert other.base_url in str(caught.value)
    assert other.requests == []


async def test_compressed_answers_are_read():
    body = gzip.compress(json.dumps(answer("small").body).encode())
    async with FakeEndpoint([Status(200, body, {"Content-Encoding": "gzip"})]) as endpoint:
        assert (await ask(endpoint.base_url)).text == "small"


@pytest.mark.parametrize(("keepalive_seconds", "num_connections"), [(4.0, 1), (0.05, 3)])
async def test_connections_are_reused_until_they_are_old(monkeypatch, keepalive_seconds, num_connections):
    assert wire.KEEPALIVE_SECONDS < 5, "uvicorn closes idle connections after five"
    monkeypatch.setattr(wire, "KEEPALIVE_SECONDS", keepalive_seconds)
    ports = set()

    async def handle(asked: web.Request) -> web.Response:
        ports.add(asked.transport.get_extra_info("peername")[1])
        return web.json_response(answer("x").body)

    app = web.Application()
    app.router.add_post("/v1/chat/completions", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    model = EndpointModel(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", "m", "id")
    for _ in range(3):
        await model.complete(request())
        await asyncio.sleep(0.2)
    await model.close()
    await runner.cleanup()
    assert len(ports) == num_connections


@pytest.mark.parametrize("key", ["sk\nvery-secret", "sk\r\nX-Evil: 1"])
async def test_a_key_that_no_header_can_hold_is_an_endpoint_error(key):
    async with FakeEndpoint([answer("x")]) as endpoint:
        with pytest.raises(EndpointError) as caught:
            await ask(endpoint.base_url, key=key)
    assert "secret" not in str(caught.value)
    assert endpoint.requests == []
