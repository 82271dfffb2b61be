"""The page of one sample, the whole of its text as a file, and pages of the other things in its lineage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from factory.audit.differences import Piece, differences, shorten
from factory.audit.pages import access, missing, render
from factory.audit.sample_facts import read_facts, read_sample
from factory.printable import printable
from factory.store.trace import FIND, trace

SHOWN: Final = 20_000  # characters of a text on a page
SHOWN_CALL: Final = 4_000


class Change(NamedTuple):
    """What an edit changed in one message."""

    title: str
    other_id: str
    pieces: list[Piece]


def sample(request: Request) -> Response:
    """The page."""
    found = read_sample(access(request), request.path_params["id"])
    if found is None:
        return missing(request, KeyError())
    facts = read_facts(access(request), found)
    changes = [change for other in facts.before for change in _changes("Made from", other, other, found)]
    changes += [change for other in facts.after for change in _changes("Became", other, found, other)]
    return render(
        request, "sample.jinja", facts=facts, sample=found, changes=changes, most=SHOWN, most_call=SHOWN_CALL
    )


def whole(request: Request) -> Response:
    """All messages as a text file; control characters are shown as signs, as everywhere."""
    found = read_sample(access(request), request.path_params["id"])
    if found is None:
        return missing(request, KeyError())
    text = "\n\n".join(f"[{each['role']}]\n{each['content']}" for each in found["messages"])
    return _attachment(text, f"{found['id']}.txt")


def thing(request: Request) -> Response:
    """The page of a seed, source, call, dataset, model or evaluation; a sample has its own."""
    asks, thing_id = access(request), request.path_params["id"]
    found = asks.select(FIND, [thing_id])
    if not found:
        return missing(request, KeyError())
    kind = str(found[0]["kind"])
    if kind == "sample":
        return RedirectResponse("/samples/" + quote(thing_id, safe=""), status_code=303)
    (row, *_) = asks.select(f"SELECT * FROM {kind}s WHERE id = ?", [thing_id])  # noqa: S608 (kinds are ours)
    if request.url.path.endswith("/text"):
        text = "\n\n".join(f"[{name}]\n{_plain(value)}" for name, value in row.items() if value is not None)
        return _attachment(text, f"{kind}.txt")
    values = {name: _plain(value) for name, value in row.items() if value is not None}
    return render(
        request, "thing.jinja", kind=kind, id=thing_id, values=values, trace=trace(asks, thing_id), most=SHOWN
    )


def _changes(title: str, other: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """A change for each message that differs; the last answers where the turns are not the same."""
    pairs: Sequence[tuple[str, str, str]]
    if len(old["messages"]) == len(new["messages"]):
        turns = zip(old["messages"], new["messages"], strict=True)
        pairs = [(a["role"], a["content"], b["content"]) for a, b in turns if a != b]
    else:
        pairs = [("assistant", old["answer"], new["answer"])]
    return [
        Change(f"{title}: {role}", other["id"], shorten(differences(before, after), SHOWN))
        for role, before, after in pairs
    ]


def _plain(value: Any) -> str:
    """A column as text; JSON with indents."""
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return json.dumps(json.loads(value), ensure_ascii=False, indent=1)
        except ValueError:
            return value
    return str(value)


def _attachment(text: str, name: str) -> Response:
    quoted = quote(name, safe=".")
    return PlainTextResponse(
        printable(text), headers={"Content-Disposition": f"attachment; filename*=UTF-8''{quoted}"}
    )


routes = [
    Route("/samples/{id}", sample),
    Route("/samples/{id}/text", whole),
    Route("/things/{id}", thing),
    Route("/things/{id}/text", thing),
]
