"""The list of samples: a page at a time by filters, in an order that is kept by a key.

The ids of a page are chosen first, from narrow columns; what is shown of them is fetched after. A page begins
behind a key (time of creation or score, and row), so the last page costs what the first does. Samples are
counted only where nothing but their own columns decides.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from factory.audit.access import Access
from factory.audit.filters import Elsewhere, Filters
from factory.audit.options import Options, OptionsShelf
from factory.audit.pages import access, render
from factory.errors import InputError
from factory.store.trace import outcomes_in

PAGE: Final = 50
PROBED = 400  # first samples that are looked up elsewhere before whole tables are
EXCERPT: Final = 280  # characters of a question or answer in the list

SHOWN = f"""SELECT s.rowid AS at, s.id, s.run_id, s.round, s.strategy, s.operation, s.slice,
                   left(s.question, {EXCERPT}) AS question, left(s.answer, {EXCERPT}) AS answer
            FROM samples s WHERE """  # noqa: S608 (numbers of ours)
BY_ROW = SHOWN + "s.rowid IN (SELECT unnest(?::BIGINT[]))"
BY_ID = SHOWN + "s.id IN ({})"


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the list; `newer` and `older` are keys of its neighbours, None where there is none."""

    rows: list[dict[str, Any]]
    before: str | None
    after: str | None
    seconds: float
    num_found: int | None  # of all pages, where counting is cheap


def samples(request: Request) -> Response:
    """The page."""
    asks = access(request)
    options = shelf(request).get(asks)
    given = dict(request.query_params)
    filters = Filters.parse(given)
    page = read_page(asks, filters, options, given.get("after", ""), given.get("before", ""))
    return render(request, "samples.jinja", filters=filters, options=options, page=page)


def shelf(request: Request) -> OptionsShelf:
    """The options of the server's workspace."""
    state = request.app.state
    if not hasattr(state, "options"):
        state.options = OptionsShelf()
    found: OptionsShelf = state.options
    return found


def read_page(access: Access, filters: Filters, options: Options, after: str = "", before: str = "") -> Page:
    """The page behind the key `after`, or the one that ends before `before`; raises InputError."""
    begun = time.monotonic()
    keys, is_more = _choose(access, filters, options, after or before, back=bool(before and not after))
    rows = _fetch(access, filters, options, keys)
    where = filters.where(options.has_one_run, options.outcomes)
    counted = None
    if where.is_cheap:
        own = " AND ".join(where.conditions) or "true"
        (row,) = access.select(f"SELECT count(*) AS n FROM samples s WHERE {own}", where.values)  # noqa: S608
        counted = int(row["n"])
    has_older = is_more if not before or after else True
    has_newer = bool(after) or (bool(before) and is_more)
    first, last = (_key(keys[0]), _key(keys[-1])) if keys else (None, None)
    seconds = time.monotonic() - begun
    return Page(rows, first if has_newer else None, last if has_older else None, seconds, counted)


def _choose(
    access: Access, filters: Filters, options: Options, key: str, *, back: bool
) -> tuple[list[dict[str, Any]], bool]:
    """Key values and rows of a page in order, and whether more follow in the direction of reading."""
    where = filters.where(options.has_one_run, options.outcomes)
    is_by_score = filters.sort in ("high", "low")
    falls = (filters.sort in ("newest", "high")) != back
    order = _Order(
        "x.value" if is_by_score else "s.created_at", "?" if is_by_score else "make_timestamptz(?)"
    )
    behind, place = order.behind(key, falls=falls, kind=float if is_by_score else int)
    found = None
    if is_by_score:
        inner, bound = _score_values(filters, options)
        source, shown = f"samples s JOIN ({inner}) x ON x.sample_id = s.id", "x.value"
    else:
        source, shown, bound = "samples s", "epoch_us(s.created_at)", []
        if where.elsewhere and {each.table for each in where.elsewhere} <= options.indexed:
            sql = order.select(source, shown, [*where.conditions, *behind], PROBED, falls=falls)
            found = _probe(access, where.elsewhere, access.select(sql, [*where.values, *place]))
    if found is None:
        sql = order.select(source, shown, [*where.all_conditions, *behind], PAGE + 1, falls=falls)
        found = access.select(sql, [*bound, *where.all_values, *place])
    is_more = len(found) > PAGE
    found = found[:PAGE]
    return (found[::-1] if back else found), is_more


class _Order(NamedTuple):
    """The order of the list: by an expression, then by row; `bound` is how a value of it is bound."""

    by: str
    bound: str

    def behind(self, key: str, *, falls: bool, kind: type[int] | type[float]) -> tuple[list[str], list[Any]]:
        """The condition on what comes after a key, with its values; none without a key."""
        if not key:
            return [], []
        place, row = _parse_key(key, kind)
        by, bound, sign = self.by, self.bound, "<" if falls else ">"
        return [f"{by} {sign}= {bound} AND ({by} {sign} {bound} OR s.rowid {sign} ?)"], [place, place, row]

    def select(self, source: str, shown: str, conditions: list[str], limit: int, *, falls: bool) -> str:
        """The first rows under conditions: where each stands, and its id."""
        direction = "DESC" if falls else "ASC"
        return f"""SELECT s.rowid AS at, {shown} AS place, s.id FROM {source}
            WHERE {" AND ".join(conditions) or "true"}
            ORDER BY {self.by} {direction}, s.rowid {direction} LIMIT {limit}"""  # noqa: S608 (text of ours)


def _probe(
    access: Access, elsewhere: list[Elsewhere], rows: list[dict[str, Any]]
) -> list[dict[str, Any]] | None:
    """Those of the first rows that meet the conditions elsewhere; None where they do not fill a page."""
    was_all = len(rows) < PROBED
    for each in elsewhere:
        ids = [row["id"] for row in rows]
        if not ids:
            break
        found = access.select(
            f"""WITH own AS MATERIALIZED (SELECT * FROM {each.table} WHERE {_among(ids)})
                SELECT DISTINCT sample_id FROM own WHERE {each.condition}""",  # noqa: S608 (text of ours)
            [*ids, *each.values],
        )
        having = {row["sample_id"] for row in found}
        rows = [row for row in rows if (row["id"] in having) != each.is_none]
    return rows if was_all or len(rows) > PAGE else None


def _score_values(filters: Filters, options: Options) -> tuple[str, list[Any]]:
    """One value of the chosen score for each sample: the highest, where runs or scorers differ."""
    is_of_run = bool(filters.run) and not options.has_one_run
    of_run, run = (" AND run_id = ?", [filters.run]) if is_of_run else ("", [])
    condition, values = filters.scores(of_run, run)
    inner = f"FROM scores WHERE {condition} AND value IS NOT NULL"
    if (options.has_one_run or is_of_run) and filters.metric[
        1
    ]:  # then the primary key says that there is one
        return f"SELECT sample_id, value {inner}", values
    return f"SELECT sample_id, max(value) AS value {inner} GROUP BY sample_id", values


def _fetch(
    access: Access, filters: Filters, options: Options, keys: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What is shown of the samples of a page."""
    if not keys:
        return []
    found = {row["at"]: row for row in access.select(BY_ROW, [[key["at"] for key in keys]])}
    rows = [found[key["at"]] for key in keys]
    fates = read_fates(access, [row["id"] for row in rows], filters.run)
    scores = _read_scores(access, filters, options, [row["id"] for row in rows])
    for row in rows:
        row["fates"] = fates.get(row["id"], [])
        row["score"] = scores.get(row["id"])
    return rows


def rows_of(access: Access, ids: list[str]) -> list[dict[str, Any]]:
    """Samples by their ids as the list shows them, in this order; ids that no sample has are left out."""
    wanted = list(dict.fromkeys(ids))
    found = {row["id"]: row for row in access.select(BY_ID.format(", ".join("?" * len(wanted))), wanted)}
    fates = read_fates(access, wanted)
    return [
        found[sample_id] | {"fates": fates.get(sample_id, []), "score": None}
        for sample_id in wanted
        if sample_id in found
    ]


def read_fates(access: Access, ids: list[str], run: str = "") -> dict[str, list[dict[str, Any]]]:
    """The final decisions about samples, by sample: one for each run, or that of one run."""
    of_run = " AND run_id = ?" if run else ""
    rows = access.select(
        f"""WITH own AS MATERIALIZED (SELECT * FROM {outcomes_in(access)} WHERE {_among(ids)})
            SELECT sample_id, run_id, refiner, action, reason, rewrite_id FROM own WHERE final{of_run}
            ORDER BY created_at, run_id""",  # noqa: S608 (text of ours)
        [*ids, *([run] if run else [])],
    )
    fates: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        fates.setdefault(row["sample_id"], []).append(row)
    return fates


def _read_scores(access: Access, filters: Filters, options: Options, ids: list[str]) -> dict[str, float]:
    if not filters.score:
        return {}
    inner, values = _score_values(filters, options)
    own = f"WITH own AS MATERIALIZED (SELECT * FROM scores WHERE {_among(ids)})"  # noqa: S608 (text of ours)
    sql = f"{own} {inner.replace('FROM scores', 'FROM own')}"
    return {row["sample_id"]: row["value"] for row in access.select(sql, [*ids, *values])}


def _among(ids: list[str]) -> str:
    """By itself, with values and nothing beside it, it is what an index answers."""
    return f"sample_id IN ({', '.join('?' * len(ids))})"


def _key(row: dict[str, Any]) -> str:
    return f"{row['place']!r}~{row['at']}"


def _parse_key(text: str, kind: type[int] | type[float]) -> tuple[int | float, int]:
    place, _, row = text.partition("~")
    try:
        return kind(place), int(row)
    except ValueError as error:
        raise InputError("this is no place in the list", where="after") from error


routes = [Route("/samples", samples)]
