"""Which SQL the box on the page takes: one SELECT over the tables and views of the workspace, by harmless
functions.

The statement is read as a tree by DuckDB's own parser. Tables are those of the workspace, functions that
yield tables are few, and functions that make much of little, or that nothing can stop, are refused. What
holds besides: the connection is confined, the transaction read-only, and time, memory and rows are limited.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from factory.audit.access import Access
from factory.errors import InputError
from factory.store.confined import Limits

MAX_CHARACTERS: Final = 10_000
LIMITS: Final = Limits(seconds=10.0, rows=2000, characters=4 * 2**20, memory_share=0.5)
TABLE_FUNCTIONS: Final = frozenset(
    {"range", "generate_series", "unnest", "json_each", "json_tree", "histogram"}
)
# They make much of little, at once and outside of what DuckDB accounts for ...
GROWING: Final = frozenset(
    {
        "repeat",
        "lpad",
        "rpad",
        "bar",
        "printf",
        "format",
        "to_base",
        "list_resize",
        "array_resize",
        "bitstring",
    }
    | {
        "range",
        "generate_series",
        "list_reduce",
        "array_reduce",
        "reduce",
        "generate_subscripts",
        "equi_width_bins",
    }
)
# ... take the product of two lengths, or wait, and cannot be interrupted ...
UNSTOPPABLE: Final = frozenset(
    {"levenshtein", "editdist3", "damerau_levenshtein", "jaro_similarity", "jaro_winkler_similarity"}
    | {"sleep_ms", "pg_sleep"}
)
# ... or speak of the process instead of the data.
FOREIGN: Final = frozenset(
    {"current_setting", "getenv", "write_log", "getvariable", "setseed", "nextval", "currval", "set_config"}
    | {"json_execute_serialized_sql", "json_serialize_plan", "query", "query_table", "pg_conf_load_time"}
)
# They put a text in the place of another, as often as it occurs: a long one makes much of little.
REPLACING: Final = frozenset({"replace", "regexp_replace"})
MAX_REPLACEMENT: Final = 100  # characters
REFUSED: Final = GROWING | UNSTOPPABLE | FOREIGN
TABLES: Final = """SELECT table_name AS name, internal FROM duckdb_tables()
                   UNION ALL SELECT view_name, internal FROM duckdb_views()"""


def check_question(access: Access, sql: str) -> None:
    """Raises InputError for SQL that the box does not take, saying why."""
    if len(sql) > MAX_CHARACTERS:
        raise InputError(f"a question has {MAX_CHARACTERS:,} characters at most", where="query")
    if "\0" in sql or (
        not sql.isprintable() and any(not (each.isprintable() or each.isspace()) for each in sql)
    ):
        raise InputError("control characters are no SQL", where="query")
    try:
        tree = json.loads(access.select("SELECT json_serialize_sql(?) AS tree", [sql])[0]["tree"])
    except RecursionError as error:
        raise InputError("the question is nested too deep", where="query") from error
    if tree["error"]:
        raise InputError(
            "only one SELECT is answered here: " + str(tree.get("error_message", "")).split("\n")[0],
            where="query",
        )
    if len(tree["statements"]) != 1:
        raise InputError(f"one SELECT expected, not {len(tree['statements'])}", where="query")
    nodes = list(_nodes(tree))
    named = {str(each["key"]).lower() for node in nodes for each in node.get("cte_map", {}).get("map", [])}
    tables = access.select(TABLES)
    if taken := named & {str(row["name"]).lower() for row in tables if row["internal"]}:
        raise InputError(f"'{min(taken)}' is a name of the database's own", where="query")
    known = named | {str(row["name"]) for row in tables if not row["internal"]}
    for node in nodes:
        _check_node(node, known)


def _check_node(node: dict[str, Any], known: set[str]) -> None:
    if node.get("type") == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise InputError(f"the function {name[:60]} is not available here", where="query")
        node["function"]["is_table"] = True
    elif node.get("type") == "BASE_TABLE":
        name = str(node.get("table_name", "")).lower()
        if name not in known or node.get("catalog_name") or node.get("schema_name") not in ("", "main", None):
            raise InputError(f"there is no table or view {name[:60]} in the workspace", where="query")
    elif "function_name" in node and not node.get("is_table"):
        name = str(node["function_name"]).lower()
        if name in REFUSED:
            raise InputError(f"the function {name[:60]} is not available here", where="query")
        if name in REPLACING and not _has_short_replacement(node):
            what = f"{name} puts in a text of {MAX_REPLACEMENT} characters at most here, written out"
            raise InputError(what, where="query")


def _has_short_replacement(node: dict[str, Any]) -> bool:
    given = node.get("arguments", [])[2:3]
    literal = given[0]["expression"].get("literal") if given else None
    return not given or (literal is not None and len(str(literal.get("text", ""))) <= MAX_REPLACEMENT)


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a tree, those above first."""
    stack = [tree]
    while stack:
        each = stack.pop()
        if isinstance(each, dict):
            yield each
            stack.extend(each.values())
        elif isinstance(each, list):
            stack.extend(each)
