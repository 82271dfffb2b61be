"""Answers as HTML pages: a template filled in, with a tag by which a browser sees that nothing changed.

What is worth looking at again while a run writes is marked `data-live` in a template; the script asks for
the same page every while and takes over those parts. A wrong address or question is a page that says so.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from factory.digests import hash_text
from factory.errors import FactoryError

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

    from factory.audit.access import Access

NAVIGATION = (
    ("/", "Overview"),
    ("/samples", "Samples"),
    ("/review", "Review"),
    ("/compare", "Compare"),
    ("/sql", "SQL"),
)


def access(request: Request) -> Access:
    """The workspace that the request is about."""
    found: Access = request.app.state.access
    return found


def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """The page of a template; 304 where the browser has it already."""
    body = (
        _environment()
        .get_template(template)
        .render(
            path=request.url.path, navigation=NAVIGATION, workspace=access(request).workspace.name, **values
        )
    )
    tag = f'"{hash_text(body)[:20]}"'
    if status == 200 and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return HTMLResponse(body, status, headers={"ETag": tag})


def wrong(request: Request, error: Exception) -> Response:
    """The page for input that is wrong or a workspace that cannot be read."""
    assert isinstance(error, FactoryError)  # noqa: S101 (it is registered for these alone)
    return render(request, "wrong.jinja", 400, what=error.what, where=error.where, hint=error.hint)


async def overloaded(request: Request, error: Exception) -> Response:
    """The page where a process at its limit of memory could not make another; it needs little itself."""
    if isinstance(error, RuntimeError) and "start new thread" not in str(error):
        raise error
    what, hint = "no memory is left for this page", "ask again when others are answered"
    return render(request, "wrong.jinja", 503, what=what, where=request.url.path, hint=hint)


def missing(request: Request, _error: Exception) -> Response:
    """The page for an address that is none."""
    return render(request, "wrong.jinja", 404, what="there is no such page", where=request.url.path, hint="")


@cache
def _environment() -> SandboxedEnvironment:
    from jinja2 import PackageLoader

    from factory.html_pages import environment

    return environment(PackageLoader("factory.audit"))
