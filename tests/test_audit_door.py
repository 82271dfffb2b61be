"""Who gets in: no answer without the token, none to other hosts and origins, none by other ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic_run
from audit_http import Visitor, served
from starlette.routing import Mount, Route

from factory.audit.access import Access
from factory.audit.server import AuditServer, application
from factory.store.queries import read
from factory.store.store import Store

UNSAFE = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuditServer]:
    workspace = tmp_path_factory.mktemp("door") / "w"
    with Store.open(workspace) as store:
        synthetic_run.fill(store)
    with served(workspace) as server:
        yield server


def addresses() -> list[tuple[str, str]]:
    """Method and path of every route that there is; identifiers are filled in."""
    found = [("GET", "/static/audit.css"), ("GET", "/static/live.js"), ("GET", "/nowhere")]
    for route in application(Access(Path("none")), "t", 1).routes:
        if isinstance(route, Mount):
            continue
        assert isinstance(route, Route)
        path = "/".join("x" if part.startswith("{") else part for part in route.path.split("/"))
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


@pytest.mark.parametrize(("method", "path"), addresses())
def test_without_the_token_nothing_is_answered(server: AuditServer, method: str, path: str) -> None:
    visitor, origin = Visitor(server), f"http://127.0.0.1:{server.port}"
    port = server.port
    for headers in (
        {},
        {"Origin": origin},
        {"Cookie": f"factory_audit_{port}=wrong"},
        {"Cookie": f"factory_audit_{port}="},
        {"Cookie": f"factory_audit={server.token}"},
        {"Authorization": f"Bearer {server.token}"},
    ):
        for query in ("", "?token=", "?token=wrong", f"?Token={server.token}", f"?token={server.token}x"):
            answer = visitor.ask(method, path + query, headers=headers)
            assert answer.status == 403 and b"<" not in answer.body
            assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(("method", "path"), addresses())
def test_other_hosts_and_origins_are_refused_with_the_token_too(
    server: AuditServer, method: str, path: str
) -> None:
    visitor = Visitor(server).enter()
    here = f"127.0.0.1:{server.port}"
    for headers in (
        {"Host": "evil.example"},
        {"Host": f"evil.example:{server.port}"},
        {"Host": "127.0.0.1"},
        {"Host": f"127.0.0.1:{server.port + 1}"},
        {"Host": here, "Origin": "http://evil.example"},
        {"Host": here, "Origin": "null"},
        {"Host": here, "Origin": f"https://{here}"},
        {"Host": here, "Origin": f"http://localhost:{server.port}"},
    ):
        assert visitor.ask(method, path, headers=headers).status == 403
        shown = f"{path}?token={server.token}"
        assert Visitor(server).ask(method, shown, headers=headers).status == 403


def test_the_token_is_in_the_first_address_and_nowhere_after(server: AuditServer) -> None:
    visitor = Visitor(server)
    answer = visitor.get(f"/review?queue=random&token={server.token}")
    assert (answer.status, answer.headers["Location"]) == (303, "/review?queue=random")
    (cookie,) = answer.headers.get_all("Set-Cookie")
    flags = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= flags and not any("domain" in flag for flag in flags)
    visitor.named("Ada")
    for method, path in addresses():
        if method == "GET":
            found = visitor.get(path)
            assert server.token not in found.text and server.token not in str(found.headers)
            assert found.headers["Referrer-Policy"] == "same-origin"
            assert found.headers["Cache-Control"] == "no-store"


def test_the_reviewers_name_is_kept_where_no_script_reads_it(server: AuditServer) -> None:
    answer = Visitor(server).enter().post("/review/name", {"reviewer": "Ada; Path=/x, Löwe"})
    (cookie,) = answer.headers.get_all("Set-Cookie")
    assert "httponly" in cookie.lower() and "samesite=strict" in cookie.lower() and "Path=/x" not in cookie


def test_every_answer_forbids_what_a_page_of_ours_does_not_need(server: AuditServer) -> None:
    visitor = Visitor(server).enter()
    for path in ("/", "/review", "/static/live.js", "/nowhere", "/review/text/answer?id=none"):
        for headers in (visitor.get(path).headers, Visitor(server).get(path).headers):
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
            assert "frame-ancestors 'none'" in policy and headers["X-Content-Type-Options"] == "nosniff"
            assert "Access-Control-Allow-Origin" not in headers


def test_pages_are_only_looked_at_and_forms_only_sent(server: AuditServer) -> None:
    visitor, origin = Visitor(server).enter(), f"http://127.0.0.1:{server.port}"
    for method, path in addresses():
        if method != "GET":
            continue
        head = visitor.ask("HEAD", path)
        assert head.body == b"" and head.status == visitor.get(path).status
    for path in ("/", "/compare", "/static/live.js", "/review/text/answer"):
        for method in UNSAFE:
            assert visitor.ask(method, path, b"", {"Origin": origin}).status == 405, (method, path)
            assert visitor.ask(method, path, b"").status == 403  # no origin: a browser would send one
    for path in ("/review/undo", "/review/name"):
        assert visitor.get(path).status == 405
    assert read(server.workspace, "SELECT count(*) FROM verdicts").rows == ((0,),)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fpyproject.toml",
        "/static/....//server.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/..%5cserver.py",
        "/static/audit.css%00.js",
        "/static/",
        "/templates/base.jinja",
        "//evil.example/",
    ],
)
def test_no_file_but_those_of_the_page_is_served(server: AuditServer, path: str) -> None:
    answer = Visitor(server).enter().get(path)
    assert answer.status in {400, 404} or (answer.status == 200 and "<h1>Overview" in answer.text)
    assert b"import" not in answer.body and b"root:" not in answer.body


def test_a_redirect_never_leads_elsewhere(server: AuditServer) -> None:
    for path in ("//evil.example/", "/\\evil.example/", "/%2f%2fevil.example", "///evil.example"):
        answer = Visitor(server).get(f"{path}?token={server.token}")
        place = answer.headers.get("Location", "/")
        assert place.startswith("/") and not place.startswith(("//", "/\\"))
