"""Where a thing came from and what became of it, as two trees around it.

The graph is the edges table and the foreign ids of the others; it is walked a level at a time, one
query for each kind of thing, so a trace costs a few scans however many samples there are. Wide places
are cut at MAX_CHILDREN and say so; what stands in a tree twice is followed once; the samples of a
dataset are listed and not followed. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from factory.errors import InputError
from factory.printable import printable_line

if TYPE_CHECKING:
    from rich.tree import Tree

MAX_CHILDREN = 20
MAX_DEPTH = 12


class Selects(Protocol):
    """What can be asked in SQL: a Store or a Reader."""

    def select(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Node:
    """A thing in a trace; `relation` says how it hangs on the node above it."""

    id: str
    kind: str  # seed, source, call, sample, dataset, model, evaluation
    label: str
    relation: str = ""
    children: tuple[Node, ...] = ()
    num_hidden: int = 0  # children beyond MAX_CHILDREN
    is_repeated: bool = False  # its children stand at its first place


@dataclass(frozen=True, slots=True)
class Trace:
    """Two trees with the same thing at their root: where it came from and what became of it."""

    ancestors: Node
    descendants: Node

    @property
    def subject(self) -> Node:
        """The thing itself."""
        return replace(self.ancestors, children=(), num_hidden=0)


def outcomes_in(store: Selects) -> str:
    """What says how samples were settled: the view `outcomes`, or the table `decisions`, which has an index.

    The table says the same where nothing was selected, and in a file that no newer version opened yet.
    """
    found = store.select("SELECT 1 FROM duckdb_views() WHERE view_name = 'outcomes'")
    return "outcomes" if found and store.select("SELECT 1 FROM selections LIMIT 1") else "decisions"


# Items with their judge's calls, also in a file that no newer version has opened for writing yet.
ITEMS = """(SELECT * FROM evaluation_items UNION ALL BY NAME
            SELECT NULL::VARCHAR AS judge_call_id WHERE false)"""
# Each query yields near, far, kind and relation for the near ids in the list $1. DuckDB looks such a list up
# in an index; a join with it becomes a scan where the list is long.
ANCESTORS = {
    "sample": """SELECT child AS near, parent AS far, relation,
                        CASE WHEN relation IN ('rewrite_of', 'derived_from') THEN 'sample'
                             ELSE relation END AS kind
                 FROM edges WHERE list_contains($1::VARCHAR[], child)""",
    "call": """SELECT DISTINCT id AS near, model_id AS far, 'model' AS kind, 'answered by' AS relation
               FROM calls WHERE list_contains($1::VARCHAR[], id)""",
    "dataset": """SELECT dataset_id AS near, sample_id AS far, 'sample' AS kind, 'holds' AS relation
                  FROM dataset_samples WHERE list_contains($1::VARCHAR[], dataset_id)""",
    "model": """SELECT id AS near, dataset_id AS far, 'dataset' AS kind, 'trained on' AS relation
                FROM models WHERE list_contains($1::VARCHAR[], id) AND dataset_id IS NOT NULL""",
    "evaluation": f"""SELECT id AS near, model_id AS far, 'model' AS kind, 'of' AS relation
                      FROM evaluations WHERE list_contains($1::VARCHAR[], id)
                      UNION SELECT i.evaluation_id, c.model_id, 'model', 'judged by'
                      FROM {ITEMS} i JOIN calls c ON c.id = i.judge_call_id
                      WHERE list_contains($1::VARCHAR[], i.evaluation_id)""",  # noqa: S608 (text of ours)
}
MADE = """SELECT parent AS near, child AS far, 'sample' AS kind, relation
          FROM edges WHERE list_contains($1::VARCHAR[], parent)"""
DESCENDANTS = {
    "seed": MADE,
    "source": MADE,
    "call": f"""{MADE} UNION SELECT call_id, evaluation_id, 'evaluation', 'answer in'
                FROM evaluation_items WHERE list_contains($1::VARCHAR[], call_id)
                UNION SELECT judge_call_id, evaluation_id, 'evaluation', 'judgement in'
                FROM {ITEMS} WHERE list_contains($1::VARCHAR[], judge_call_id)""",  # noqa: S608 (text of ours)
    "sample": f"""{MADE} UNION ALL SELECT sample_id, dataset_id, 'dataset', 'part of'
                  FROM dataset_samples WHERE list_contains($1::VARCHAR[], sample_id)""",  # noqa: S608 (text of ours)
    "dataset": """SELECT dataset_id AS near, id AS far, 'model' AS kind, 'trained' AS relation
                  FROM models WHERE list_contains($1::VARCHAR[], dataset_id)""",
    "model": """SELECT model_id AS near, id AS far, 'evaluation' AS kind, 'evaluated in' AS relation
                FROM evaluations WHERE list_contains($1::VARCHAR[], model_id)""",
}
CUT = f"""
    WITH links AS ({{}})
    SELECT *, count(*) OVER (PARTITION BY near) AS total FROM links
    QUALIFY row_number() OVER (PARTITION BY near ORDER BY relation, far) <= {MAX_CHILDREN}
    ORDER BY near, relation, far"""  # noqa: S608 (text of ours)

LABELS = {
    "seed": """SELECT id, concat_ws(' ', key || ':', left(prompt, 200)) AS label
               FROM seeds WHERE list_contains($1::VARCHAR[], id)""",
    "source": """SELECT id, concat_ws(' ', citation, title) AS label
                 FROM sources WHERE list_contains($1::VARCHAR[], id)""",
    "call": """SELECT id, concat(role, ', ', stage, ' round ', round, ', ', prompt_tokens + completion_tokens,
                                 ' tokens, ', status) AS label
               FROM calls WHERE list_contains($1::VARCHAR[], id)""",
    "sample": """SELECT s.id, concat_ws(' · ', s.operation, f.fate,
                                        left(s.question, 60) || ' → ' || left(s.answer, 60)) AS label
                 FROM samples s LEFT JOIN (
                     -- FILTER, since a second condition would keep DuckDB from looking into the index.
                     SELECT sample_id, string_agg(DISTINCT concat_ws(' ', action, refiner, reason), ', ')
                                       FILTER (final) AS fate
                     FROM OUTCOMES WHERE list_contains($1::VARCHAR[], sample_id) GROUP BY sample_id
                 ) f ON f.sample_id = s.id WHERE list_contains($1::VARCHAR[], s.id)""",
    "dataset": """SELECT id, concat(num_samples, ' samples, round ', round) AS label
                  FROM datasets WHERE list_contains($1::VARCHAR[], id)""",
    "model": """SELECT id, concat(role, ' ', name, ' on ', base) AS label
                FROM models WHERE list_contains($1::VARCHAR[], id)""",
    "evaluation": """SELECT id, concat(printf('%s, %s %.3f, ', split, metric, mean),
                                         coalesce('round ' || round, 'by hand')) AS label
                     FROM evaluations WHERE list_contains($1::VARCHAR[], id)""",
}
FIND = " UNION ALL ".join(
    f"SELECT '{kind}' AS kind FROM {kind}s WHERE id = $1"  # noqa: S608 (kinds are ours)
    for kind in LABELS
)

_Links = dict[str, tuple[list[tuple[str, str, str]], int]]  # near -> (far, kind, relation), total


def trace(store: Selects, thing_id: str) -> Trace:
    """The trace of a seed, source, call, sample, dataset, model or evaluation.

    Raises InputError where nothing has that id.
    """
    found = store.select(FIND, [thing_id])
    if not found:
        raise InputError(
            f"nothing has the id '{printable_line(thing_id)}'",
            hint="ids stand in `factory sql` and in reports",
        )
    kind = str(found[0]["kind"])
    up = _walk(store, ANCESTORS, thing_id, kind)
    down = _walk(store, DESCENDANTS, thing_id, kind)
    labels = _labels(store, {(thing_id, kind), *_things(up), *_things(down)})
    thing = (thing_id, kind, "")
    return Trace(_node(up, labels, thing, set()), _node(down, labels, thing, set()))


def render(traced: Trace) -> Tree:
    """The trace as a rich tree of plain text, safe to print whatever models wrote."""
    from rich.text import Text
    from rich.tree import Tree

    def grow(tree: Tree, node: Node) -> None:
        for child in node.children:
            grow(tree.add(Text(_line(child))), child)
        if node.num_hidden:
            tree.add(Text(f"… and {node.num_hidden} more"))

    tree = Tree(Text(_line(traced.subject)))
    for title, node in (("comes from", traced.ancestors), ("went into", traced.descendants)):
        grow(tree.add(Text(title if node.children else f"{title} nothing")), node)
    return tree


def _line(node: Node) -> str:
    relation = f"{node.relation}: " if node.relation and node.relation != node.kind else ""
    again = " (see above)" if node.is_repeated else ""
    return printable_line(f"{relation}{node.kind} {node.id} · {node.label}", 220) + again


def _walk(store: Selects, queries: dict[str, str], thing_id: str, kind: str) -> _Links:
    links: _Links = {}
    level = {kind: {thing_id}}
    for _ in range(MAX_DEPTH):
        following: dict[str, set[str]] = {}
        for near_kind, ids in level.items():
            fresh = sorted(ids - links.keys())
            if near_kind not in queries or not fresh:
                continue
            links.update({near: ([], 0) for near in fresh})
            for row in store.select(CUT.format(queries[near_kind]), [fresh]):
                far = (str(row["far"]), str(row["kind"]), str(row["relation"]))
                links[row["near"]] = ([*links[row["near"]][0], far], int(row["total"]))
                if near_kind != "dataset" or far[1] != "sample":
                    following.setdefault(far[1], set()).add(far[0])
        level = following
    return links


def _things(links: _Links) -> set[tuple[str, str]]:
    return {(far, kind) for found, _ in links.values() for far, kind, _ in found}


def _labels(store: Selects, things: set[tuple[str, str]]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for kind, template in LABELS.items():
        sql = template.replace("OUTCOMES", outcomes_in(store)) if kind == "sample" else template
        ids = sorted(thing_id for thing_id, its_kind in things if its_kind == kind)
        if ids:
            for row in store.select(sql, [ids]):
                labels[row["id"]] = printable_line(str(row["label"]), 160)
    return labels


def _node(links: _Links, labels: dict[str, str], thing: tuple[str, str, str], shown: set[str]) -> Node:
    thing_id, kind, relation = thing
    found, total = links.get(thing_id, ([], 0))
    label = labels.get(thing_id, "not in this workspace")
    if thing_id in shown and found:
        return Node(thing_id, kind, label, relation, is_repeated=True)
    shown.add(thing_id)
    children = tuple(_node(links, labels, far, shown) for far in found)
    return Node(thing_id, kind, label, relation, children, total - len(found))
