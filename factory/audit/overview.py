"""The first page: the runs of the workspace and where they stand."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from factory.audit.pages import access, render
from factory.store.queries import status


def overview(request: Request) -> Response:
    """The page."""
    return render(request, "overview.jinja", runs=status(access(request)))


routes = [Route("/", overview)]
