"""HTTP as servers write it, well or badly, over connections that are used again."""

import asyncio
import contextlib
import datetime
import gzip
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from factory.errors import EndpointError
from factory.models import wire as wire_module
from factory.models.client import EndpointModel
from factory.models.wire import Wire
from factory.types import Message, Request, Sampling

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"


class Raw:
    """A server that answers each request with the next of its replies."""

    def __init__(self, *replies: bytes | list[bytes], ends: bool = False) -> None:
        self.replies, self.ends = list(replies), ends
        self.requests: list[bytes] = []
        self.num_connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while self.replies:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(size))
                reply = self.replies.pop(0)
                for piece in [reply] if isinstance(reply, bytes) else reply:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if self.ends:
                    break
            else:
                await reader.read()
        writer.close()


@contextlib.asynccontextmanager
async def serving(raw: Raw, context: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    server = await asyncio.start_server(raw.serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def post_all(raw: Raw, count: int = 1, pause: float = 0.0) -> list[bytes]:
    async with serving(raw) as address:
        wire = Wire(f"{address}/v1?a=b", {"X-One": "é"}, None)
        answers = []
        try:
            for _ in range(count):
                answers.append((await wire.post(b"{}", asyncio.Event())).content)
                await asyncio.sleep(pause)
            return answers
        finally:
            await wire.close()


def chunked(*pieces: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body


def encoded(coding: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize(
    "reply",
    [
        OK,
        chunked(b"go", b"od"),
        [bytes([byte]) for byte in chunked(b"go", b"od")],
        [bytes([byte]) for byte in OK],
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK],
        b"HTTP/1.1 200 OK\nContent-Length: 4\n\ngood",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4 \r\ngood\r\n0\r\n\r\n",
        encoded("identity", b"good"),
        encoded("", b"good"),
        encoded("GZIP", gzip.compress(b"good", mtime=0)),
        encoded("gzip", gzip.compress(b"go", mtime=0) + gzip.compress(b"od", mtime=0)),
    ],
)
async def test_replies_are_read_whole_and_the_connection_is_used_again(reply):
    raw = Raw(reply, reply, OK)
    assert await post_all(raw, 3) == [b"good"] * 3
    assert raw.num_connections == 1
    head, body = raw.requests[0].split(b"\r\n\r\n")
    assert head.startswith(b"POST /v1?a=b HTTP/1.1\r\nhost: 127.0.0.1:") and "x-one: é".encode() in head
    assert body == b"{}"


@pytest.mark.parametrize("end", [b"Connection: close\r\n", b""])
async def test_a_body_without_a_length_ends_with_the_connection(end):
    raw = Raw(*[b"HTTP/1.1 200 OK\r\n%b\r\ngood" % end] * 2, ends=True)
    assert await post_all(raw, 2) == [b"good"] * 2
    assert raw.num_connections == 2


async def test_a_connection_that_the_server_closes_is_not_used_again():
    raw = Raw(*[b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood"] * 2)
    assert await post_all(raw, 2) == [b"good"] * 2
    assert raw.num_connections == 2


@pytest.mark.parametrize(
    "reply",
    [
        b"no HTTP at all",
        b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\ngood",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\ngood!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ngood\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\ngood\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"",
    ],
)
async def test_what_is_no_whole_reply_is_an_error_and_never_part_of_an_answer(reply):
    with pytest.raises(OSError):
        await post_all(Raw(reply, ends=True))


@pytest.mark.parametrize(
    "more", [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad", b"HTTP/1.1 200 OK\r\nX: "]
)
async def test_what_comes_unasked_is_never_the_next_answer(more):
    for reply in (OK + more, [OK, more]):
        assert await post_all(Raw(reply, OK), 2, pause=0.05) == [b"good"] * 2


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"429 Slow\r\nContent-Encoding: gzip\r\nRetry-After: 3", 429),
        (b"101 Switch\r\nUpgrade: x\r\nConnection: upgrade", 101),
        (b"204 Nothing", 204),
    ],
)
async def test_a_status_without_a_body_is_a_reply(head, status):
    length = b"Content-Length: 0\r\n" if status == 429 else b""
    raw = Raw(b"HTTP/1.1 %b\r\n%b\r\n" % (head, length))
    async with serving(raw) as address:
        wire = Wire(address, {}, None)
        reply = await wire.post(b"{}", asyncio.Event())
        await wire.close()
    assert (reply.status, reply.content) == (status, b"")
    assert reply.headers.get("retry-after") == ("3" if status == 429 else None)


async def test_a_host_and_encodings_of_the_user_are_sent_as_theirs():
    raw = Raw(OK)
    async with serving(raw) as address:
        wire = Wire(address, {"Host": "virtual.example", "Accept-Encoding": "identity", "Expect": "x"}, None)
        await wire.post(b"{}", asyncio.Event())
        await wire.close()
    head = raw.requests[0].lower()
    assert b"\r\nhost: virtual.example\r\n" in head and b"\r\naccept-encoding: identity\r\n" in head
    assert head.count(b"host:") == 1 and b"expect" not in head


@pytest.mark.asyncio(loop_factories=["asyncio"])  # the methods of uvloop's cannot be replaced
async def test_a_name_is_looked_up_once_for_all_who_connect_and_again_where_that_failed(monkeypatch):
    loop, looked_up = asyncio.get_running_loop(), []
    real = socket.getaddrinfo

    def look_up(host, *arguments, **options):
        looked_up.append(host)
        if len(looked_up) == 1:
            raise socket.gaierror("not now")
        return real("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(
        loop, "getaddrinfo", lambda host, port, **options: asyncio.to_thread(look_up, host, port, **options)
    )
    raws = Raw(*[OK] * 40)
    async with serving(raws) as address:
        wire = Wire(address.replace("127.0.0.1", "models.test"), {}, None)
        with pytest.raises(OSError, match="not now"):
            await wire.post(b"{}", asyncio.Event())
        await asyncio.gather(*[wire.post(b"{}", asyncio.Event()) for _ in range(20)])
        await wire.close()
    assert looked_up == ["models.test"] * 2


async def test_connections_that_are_too_old_are_closed(monkeypatch):
    monkeypatch.setattr(wire_module, "KEEPALIVE_SECONDS", 0.2)
    raw = Raw(*[OK] * 40)
    async with serving(raw) as address:
        wire = Wire(address, {}, None)
        await asyncio.gather(*[wire.post(b"{}", asyncio.Event()) for _ in range(10)])
        assert len(wire._open) == 10
        await asyncio.sleep(0.3)
        await wire.post(b"{}", asyncio.Event())
        await asyncio.sleep(0.1)
        assert len(wire._open) == 1
        await wire.close()


async def test_a_cancelled_request_takes_its_connection_with_it():
    raw = Raw([b"HTTP/1.1 200 OK\r\n"], OK)
    async with serving(raw) as address:
        wire = Wire(address, {}, None)
        task = asyncio.create_task(wire.post(b"{}", asyncio.Event()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await wire.post(b"{}", asyncio.Event())).content == b"good"
        await wire.close()
    assert raw.num_connections == 2


async def test_whatever_ends_a_connection_is_an_oserror():
    raw = Raw([b"HTTP/1.1 200 OK\r\n"])
    async with serving(raw) as address:
        wire = Wire(address, {}, None)
        task = asyncio.create_task(wire.post(b"{}", asyncio.Event()))
        await asyncio.sleep(0.05)
        (exchange,) = wire._open
        exchange.connection_lost(RuntimeError("a library's own"))
        with pytest.raises(OSError, match="disconnected"):
            await task
        await wire.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of 127.0.0.1, signed by itself, with its key, in one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    loopback = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(loopback, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.mark.parametrize("trusted", [True, False])
async def test_https_asks_only_whom_it_trusts(certificate, monkeypatch, trusted):
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    body = b'{"choices":[{"message":{"content":"safe"}}]}'
    raw = Raw(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    async with serving(raw, context) as address:
        model = EndpointModel(f"{address}/v1", "m", "id", "sk-key", 5.0)
        asked = model.complete(Request("m", (Message("user", "?"),), None, Sampling()))
        if trusted:
            assert (await asked).text == "safe"
        else:
            with pytest.raises(EndpointError, match="certificate") as caught:
                await asked
            assert not caught.value.worked_on
        await model.close()
    assert bool(raw.requests) == trusted
