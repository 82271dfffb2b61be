"""Where a person decides about samples, one after another: keep, drop or edit, each with a reason, or undo.

A verdict is a plain form that leads back to the next sample of the queue; it is in the store by then. The
script only presses buttons. Who decides is asked once.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from factory.audit.forms import Fields, check_name, posted, remember, reviewer_of, unsigned
from factory.audit.pages import access, render
from factory.audit.queues import QUEUES, Estimate, Turn, next_at_random, next_turn
from factory.audit.subject import ANSWER, MAX_SHOWN, Subject, read_subject
from factory.edits import ILL_FORMED, UNGROUNDED
from factory.errors import InputError
from factory.printable import printable
from factory.store.verdicts import STANDING, Said, slug, undone

OK: Final = "ok"
KEPT: Final = frozenset({"queue", "run", "seed", "skip", "sample"})  # of the address, through a form
REFUSED: Final = 422

RUNS = """
    SELECT id, recipe, control FROM runs ORDER BY control IS NOT NULL, started_at DESC, id LIMIT 200"""
REASONS = """
    SELECT reason FROM verdicts WHERE action IN ('edit', 'drop')
    GROUP BY reason ORDER BY min(rowid) LIMIT 50"""
LAST = f"""
    SELECT sample_id, action, reason FROM {STANDING} WHERE reviewer = ?
    ORDER BY created_at DESC LIMIT 1"""  # noqa: S608 (constants)
MINE = f"SELECT action, reason FROM {STANDING} WHERE reviewer = ? AND sample_id = ?"  # noqa: S608
HISTORY = """
    SELECT action, reason, corrected FROM verdicts WHERE reviewer = ? AND sample_id = ?
    ORDER BY created_at, rowid"""
PARTS = {
    "question": "SELECT question FROM samples WHERE id = ?",
    "answer": "SELECT answer FROM samples WHERE id = ?",
    "section": "SELECT text FROM sources WHERE id = ?",
}


def review(request: Request) -> Response:
    """The page: the next sample of the queue, or the one that the address names."""
    return _page(request, dict(request.query_params))


def decide(request: Request, fields: Fields) -> Response:
    """Writes a verdict and leads on; where it is not clear, the same page says so with what was typed."""
    reviewer, sample_id = reviewer_of(request), fields.get("about", "")
    try:
        if not reviewer:
            raise InputError("who are you? a verdict bears a name")
        said = _said(request, sample_id, fields)
        access(request).add_verdicts([{"sample_id": sample_id, "reviewer": reviewer, **said._asdict()}])
    except InputError as error:
        state = {**_state(fields), "sample": sample_id}
        return _page(request, state, problem=error.what, typed=fields, status=REFUSED)
    return _onward(_state(fields, without="sample"))


def undo(request: Request, fields: Fields) -> Response:
    """Says again what the reviewer said of a sample before, or withdraws; leads to that sample."""
    reviewer, sample_id = reviewer_of(request), fields.get("about", "")
    rows = access(request).select(HISTORY, [reviewer, sample_id])
    if not rows:
        raise InputError("there is nothing to undo", where=sample_id[:80])
    if fields.get("said", rows[-1]["action"]) != rows[-1]["action"]:  # on a page that is behind another
        raise InputError("something else was said of it since, or it is undone", where=sample_id[:80])
    said = undone([Said(**row) for row in rows])
    access(request).add_verdicts([{"sample_id": sample_id, "reviewer": reviewer, **said._asdict()}])
    return _onward({**_state(fields), "sample": sample_id})


def name(request: Request, fields: Fields) -> Response:
    """Keeps the reviewer's name and leads back."""
    found = check_name(fields.get("reviewer", ""))
    if not found:
        return _page(
            request, _state(fields), problem="a name has 1 to 100 characters on one line", status=REFUSED
        )
    return remember(_onward(_state(fields)), found)


def text(request: Request) -> Response:
    """The whole of a text that a page cuts, as a file to save."""
    part = request.path_params["part"]
    rows = (
        access(request).table(PARTS[part], [request.query_params.get("id", "")]).rows if part in PARTS else ()
    )
    if not rows:
        raise InputError("there is no such text", where=part[:40])
    headers = {"Content-Disposition": f'attachment; filename="{part}.txt"'}
    return Response(str(rows[0][0]).encode("utf-8", "replace"), media_type="text/plain", headers=headers)


def _page(
    request: Request,
    state: dict[str, str],
    problem: str = "",
    typed: Fields | None = None,
    status: int = 200,
) -> Response:
    asks, reviewer = access(request), reviewer_of(request)
    runs = asks.select(RUNS)
    queue = state.get("queue", "uncertain")
    run_id = state.get("run") or _first_run(request)
    if queue not in QUEUES:
        raise InputError("there is no such queue", where=queue[:40], hint=f"one of {', '.join(QUEUES)}")
    turn, estimate = _turn(request, queue, run_id, reviewer, state) if runs else (None, None)
    subject = read_subject(asks, turn.sample_id, run_id) if turn else None
    last = asks.select(LAST, [reviewer]) if reviewer else []
    mine = asks.select(MINE, [reviewer, turn.sample_id]) if turn and reviewer else []
    kept = {name: value for name, value in state.items() if name in KEPT and value}
    queued = {name: value for name, value in kept.items() if name != "sample"}
    return render(
        request,
        "review.jinja",
        status,
        problem=problem,
        typed=typed or {},
        reviewer=reviewer,
        queues=QUEUES,
        queue=queue,
        runs=runs,
        run_id=run_id,
        state=kept,
        later=urlencode({**queued, "skip": str(_number(state.get("skip", "")) + 1)}),
        back=urlencode({name: value for name, value in queued.items() if name != "skip"}),
        turn=turn,
        subject=subject,
        estimate=estimate,
        last=last[0] if last else None,
        mine=mine[0] if mine else None,
        reasons=_reasons(asks),
        limit=MAX_SHOWN,
        refined=_refined(subject),
    )


def _turn(
    request: Request, queue: str, run_id: str, reviewer: str, state: dict[str, str]
) -> tuple[Turn | None, Estimate | None]:
    asks, turn, estimate = access(request), None, None
    named = state.get("sample", "")
    if queue == "random":
        turn, estimate = next_at_random(asks, run_id, reviewer, state.get("seed", ""))
    elif not named:
        turn = next_turn(asks, queue, run_id, reviewer, _number(state.get("skip", "")))
    return (Turn(named, "") if named else turn), estimate


def _said(request: Request, sample_id: str, fields: Fields) -> Said:
    """What the pressed button says; raises InputError where something is missing."""
    rows = access(request).select(ANSWER, [sample_id])
    if not rows:
        raise InputError("there is no sample of this id", where=sample_id[:80])
    answer, action = rows[0]["answer"], fields.get("action", "")
    reason = fields.get("other", "").strip() or fields.get("reason", "")
    if action == "keep":
        return Said("keep", slug(reason) if reason else OK)
    if not reason:
        raise InputError("choose or write a reason first")
    if action == "refined":
        corrected = _refined(
            read_subject(access(request), sample_id, fields.get("run") or _first_run(request))
        )
        if corrected is None:
            raise InputError("the refiner made nothing of this sample")
        return Said("edit", slug(reason), corrected)
    if action == "edit":
        corrected = fields.get("corrected", "")
        if corrected in {answer, printable(answer).replace("\r\n", "\n")}:
            raise InputError("the answer is as it was: change it, or keep it")
        return Said("edit", slug(reason), unsigned(corrected, answer))
    return Said(action, slug(reason))


def _first_run(request: Request) -> str:
    """The newest that is no control, else the newest; nothing where none has started."""
    rows = access(request).table(RUNS).rows
    return str(rows[0][0]) if rows else ""


def _refined(subject: Subject | None) -> str | None:
    """What the refiner made of a sample, where it changed it."""
    change = subject.change if subject else None
    return change.after if change and not change.is_ours_the_later and change.after != change.before else None


def _reasons(asks: Any) -> list[str]:
    """Those that the refiner knows, and then others by their first use: a key keeps its reason."""
    used = [row["reason"] for row in asks.select(REASONS)]
    return list(dict.fromkeys([*sorted(UNGROUNDED | ILL_FORMED), *used]))


def _state(fields: Fields, without: str = "") -> dict[str, str]:
    return {name: fields[name] for name in sorted(KEPT - {without}) if fields.get(name)}


def _onward(state: dict[str, str]) -> Response:
    return RedirectResponse("/review?" + urlencode(state), status_code=303)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 6 else 0


routes = [
    Route("/review", review),
    Route("/review", posted(decide), methods=["POST"]),
    Route("/review/undo", posted(undo), methods=["POST"]),
    Route("/review/name", posted(name), methods=["POST"]),
    Route("/review/text/{part}", text),
]
