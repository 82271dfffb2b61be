"""The first page: the runs of the workspace, and of one of them what its samples, scores and slices came
to."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from factory.audit import figures
from factory.audit.filters import Filters
from factory.audit.pages import access, render
from factory.errors import InputError
from factory.findings import find_run
from factory.store.queries import status


def overview(request: Request) -> Response:
    """The page."""
    asks = access(request)
    runs = status(asks)
    if not runs:
        return render(request, "overview.jinja", runs=runs, run="")
    chosen = request.query_params.get("run", "")
    run = chosen or _newest(request)
    if run not in {each.run_id for each in runs}:
        raise InputError(f"no run '{run[:60]}' in this workspace", where="run")
    rounds, slices = figures.read_slices(asks, run)
    measures, datasets = figures.read_guards(asks, run)
    return render(
        request,
        "overview.jinja",
        runs=runs,
        run=run,
        of_run=Filters(run=run),
        funnel=figures.read_funnel(asks, run),
        histograms=figures.read_histograms(asks, run),
        spend=figures.read_spend(asks, run),
        rounds=rounds,
        slices=slices,
        most_accepted=max((n for each in slices for n in each.accepted.values()), default=1),
        measures=measures,
        datasets=datasets,
    )


def _newest(request: Request) -> str:
    try:
        return str(find_run(access(request))["id"])
    except InputError:  # controls alone
        return status(access(request))[-1].run_id


routes = [Route("/", overview)]
