"""The files of an exported dataset, JSONL and Parquet, from the same rows.

Samples go page by page from the store into both files, so memory does not grow with the dataset. Where some
offer tools, all have the columns that these need: `tools`, and `tool_calls` within messages, which
the datasets library reads as mappings from both files. Where the files go is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from factory.accuracy import Selects
from factory.errors import FactoryError
from factory.store.text import from_json, restore
from factory.tool_calls import chat_of
from factory.types import Json, Message

PAGE_SIZE = 1000
TEXTS = ("question", "answer", "slice", "strategy", "sample_id", "source_citation", "source_key")

PAGE = """
    WITH RECURSIVE page AS (
        SELECT d.position, s.* FROM dataset_samples d JOIN samples s ON s.id = d.sample_id
        WHERE d.dataset_id = ? AND d.position > ? ORDER BY d.position LIMIT ?
    ), up(sample_id, ancestor) AS (
        SELECT id, id FROM page
        UNION SELECT up.sample_id, e.parent FROM up JOIN edges e ON e.child = up.ancestor
        WHERE e.relation IN ('rewrite_of', 'derived_from')
    ), origin AS (
        SELECT up.sample_id, string_agg(DISTINCT o.citation, '; ' ORDER BY o.citation) AS citation,
               string_agg(DISTINCT o.key, '; ' ORDER BY o.key) AS key
        FROM up JOIN edges e ON e.child = up.ancestor AND e.relation = 'source'
        JOIN sources o ON o.id = e.parent
        GROUP BY up.sample_id
    ), cited AS (
        SELECT key, string_agg(DISTINCT citation, '; ' ORDER BY citation) AS citation
        FROM sources GROUP BY key
    )
    SELECT p.position, p.id AS sample_id, p.messages, p.attributes, p.question, p.answer, p.slice,
           p.strategy, p.round, coalesce(origin.key, p.attributes->>'source_key', '') AS source_key,
           coalesce(origin.citation, cited.citation, '') AS source_citation
    FROM page p LEFT JOIN origin ON origin.sample_id = p.id
    LEFT JOIN cited ON cited.key = p.attributes->>'source_key'
    ORDER BY p.position
"""


HAS_TOOLS = """
    SELECT count(*) AS n FROM dataset_samples d JOIN samples s ON s.id = d.sample_id
    WHERE d.dataset_id = ? AND s.attributes->>'tools' IS NOT NULL
"""


def write_samples(store: Selects, dataset: dict[str, Any], folder: Path) -> None:
    """Writes train.jsonl and train.parquet; raises FactoryError where samples are missing."""
    import pyarrow.parquet as pq

    has_tools = bool(store.select(HAS_TOOLS, (dataset["id"],))[0]["n"])
    schema, num_samples = _schema(has_tools), 0
    with (
        (folder / "train.jsonl").open("w", encoding="utf-8", errors="replace") as lines,
        pq.ParquetWriter(folder / "train.parquet", schema, compression="zstd") as parquet,
    ):
        for page in _pages(store, dataset["id"]):
            rows = [_sample(row, has_tools) for row in page]
            lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            parquet.write_table(_table(rows, schema, has_tools))
            num_samples += len(rows)
    if num_samples != dataset["num_samples"]:
        what = f"the dataset has {dataset['num_samples']} samples but {num_samples} were found"
        raise FactoryError(what, where=dataset["id"])


def _schema(has_tools: bool, *, plain: bool = False) -> Any:
    """The Parquet columns; `plain`: JSON as text, from which pyarrow can be made to cast it."""
    import pyarrow as pa

    message = [("role", pa.string()), ("content", pa.string())]
    columns: list[tuple[str, Any]] = [*((name, pa.string()) for name in TEXTS), ("round", pa.int32())]
    if has_tools:
        several = pa.list_(pa.string() if plain else pa.json_())
        message.append(("tool_calls", several))
        columns.append(("tools", several))
    return pa.schema([("messages", pa.list_(pa.struct(message))), *columns])


def _table(rows: list[dict[str, Json]], schema: Any, has_tools: bool) -> Any:
    import pyarrow as pa

    if not has_tools:
        return pa.Table.from_pylist(rows, schema)
    texts = []
    for row in rows:
        turns = [{**turn, "tool_calls": _as_texts(turn["tool_calls"])} for turn in row["messages"]]
        texts.append({**row, "messages": turns, "tools": _as_texts(row["tools"])})
    return pa.Table.from_pylist(texts, _schema(has_tools, plain=True)).cast(schema)


def _as_texts(values: list[Json] | None) -> list[str] | None:
    return None if values is None else [_unicode(json.dumps(value, ensure_ascii=False)) for value in values]


def _pages(store: Selects, dataset_id: str) -> Iterator[list[dict[str, Any]]]:
    """The rows in order; only what `select` offers is used, so any process can export."""
    last = -1
    while rows := store.select(PAGE, (dataset_id, last, PAGE_SIZE)):
        yield rows
        last = rows[-1]["position"]


def _sample(row: dict[str, Any], has_tools: bool) -> dict[str, Json]:
    """Absent sources are empty texts: readers of JSONL infer a column's type from its first lines."""
    messages = [Message(each["role"], _unicode(each["content"])) for each in from_json(row["messages"])]
    attributes = {name: _unicode(text) for name, text in from_json(row["attributes"]).items()}
    chat = chat_of(messages, attributes)
    if has_tools:
        chat["tools"] = chat.get("tools")
        for turn in chat["messages"]:
            turn.setdefault("tool_calls", None)
    texts = {name: _unicode(restore(row[name])) for name in TEXTS}
    return {"messages": chat.pop("messages"), **texts, "round": row["round"], **chat}


def _unicode(text: str) -> str:
    """Files are UTF-8, which has no lone surrogates; models sometimes emit them."""
    return text.encode("utf-8", "replace").decode("utf-8")
