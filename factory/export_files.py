"""The files of an exported dataset, JSONL and Parquet, from the same rows.

Samples go page by page from the store into the files, so memory does not grow with the dataset. Where some
offer tools, all have the columns that these need: `tools`, and `tool_calls` within messages, which the
datasets library reads as mappings from both files. Pairs of answers stand in files of their own, in TRL's
form. Where the files go is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self, TextIO

from factory.accuracy import Selects
from factory.errors import FactoryError, InputError
from factory.export_forms import FORMS, RANKING, Chat, ranking
from factory.preference import pair_of
from factory.store.text import from_json, restore
from factory.tool_calls import chat_of
from factory.types import Json, Message

PAGE_SIZE = 1000
TEXTS = ("question", "answer", "slice", "strategy", "sample_id", "source_citation", "source_key")
PAIR = ("prompt", "chosen", "rejected")
FEW = ("sample_id", "slice", "strategy")  # what a pair carries of its sample
Row = dict[str, Json]

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


EXTRAS = """
    SELECT count(*) FILTER (s.attributes->>'tools' IS NOT NULL) AS num_tools,
           count(*) FILTER (s.attributes->>'rejected' <> s.answer AND s.attributes->>'tools' IS NULL)
               AS num_pairs
    FROM dataset_samples d JOIN samples s ON s.id = d.sample_id WHERE d.dataset_id = ?
"""


class Written(NamedTuple):
    """What stands in the files: pairs are some of the samples once more."""

    num_pairs: int
    has_tools: bool


def write_files(store: Selects, dataset: dict[str, Any], folder: Path, forms: Sequence[str] = ()) -> Written:
    """Writes data/train.* and, where there are pairs, preference/train.*, each as JSONL and Parquet.

    In each further form (factory.export_forms) FORM/train.jsonl, and pairs in the form sharegpt beside it.
    Raises InputError where a sample does not fit a form, FactoryError where samples are missing.
    """
    (extras,) = store.select(EXTRAS, (dataset["id"],))
    written = Written(extras["num_pairs"], extras["num_tools"] > 0)
    num_samples = 0
    with ExitStack() as stack:
        plain = _schema(written.has_tools, plain=True)
        samples = stack.enter_context(_Files(folder / "data", _schema(written.has_tools), plain))
        if written.num_pairs:
            pairs = stack.enter_context(_Files(folder / "preference", _pair_schema(), None))
        lines = {name: stack.enter_context(_open_lines(folder / name)) for name in forms}
        is_ranked = written.num_pairs and "sharegpt" in forms
        ranked = stack.enter_context(_open_lines(folder / "sharegpt", RANKING)) if is_ranked else None
        for page in _pages(store, dataset["id"]):
            chats = [_chat(row) for row in page]
            rows = [_sample(row, *chat, written.has_tools) for row, chat in zip(page, chats, strict=True)]
            samples.write(rows, [_with_texts(row) for row in rows] if written.has_tools else rows)
            if written.num_pairs:
                made = [pair_of(*chat) for chat in chats]
                found = [{**pair, **_few(row)} for pair, row in zip(made, rows, strict=True) if pair]
                pairs.write(found)
                if ranked is not None:
                    ranked.writelines(_line_in_form(ranking, pair, pair["sample_id"]) for pair in found)
            for name, file in lines.items():
                offered = [_offered(*chat, written.has_tools) for chat in chats]
                file.writelines(
                    _line_in_form(FORMS[name], chat, row["sample_id"])
                    for row, chat in zip(page, offered, strict=True)
                )
            num_samples += len(rows)
    if num_samples != dataset["num_samples"]:
        what = f"the dataset has {dataset['num_samples']} samples but {num_samples} were found"
        raise FactoryError(what, where=dataset["id"])
    return written


def _open_lines(folder: Path, name: str = "train.jsonl") -> TextIO:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / name).open("w", encoding="utf-8", errors="replace")


def _offered(messages: list[Message], attributes: dict[str, str], has_tools: bool) -> dict[str, Json]:
    """A chat as forms take it: with the key `tools` where any sample of the dataset has some."""
    return ({"tools": None} if has_tools else {}) | chat_of(messages, attributes)


def _line_in_form(form: Callable[[Chat], Row], chat: Chat, sample_id: str) -> str:
    try:
        made = form(chat)
    except InputError as error:
        raise InputError(error.what, where=sample_id, hint=error.hint) from error
    return json.dumps({**made, "sample_id": sample_id}, ensure_ascii=False) + "\n"


class _Files:
    """JSONL and Parquet of the same rows; `plain` is the schema that rows have before they are cast."""

    def __init__(self, folder: Path, schema: Any, plain: Any | None) -> None:
        import pyarrow.parquet as pq

        self._lines = _open_lines(folder)
        self._schema, self._plain = schema, plain or schema
        self._parquet = pq.ParquetWriter(folder / "train.parquet", schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._parquet.close()

    def write(self, rows: Sequence[Row], as_texts: Sequence[Row] | None = None) -> None:
        import pyarrow as pa

        self._lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        table = pa.Table.from_pylist(list(as_texts if as_texts is not None else rows), self._plain)
        self._parquet.write_table(table.cast(self._schema))


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


def _pair_schema() -> Any:
    import pyarrow as pa

    turns = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    return pa.schema([*((name, turns) for name in PAIR), *((name, pa.string()) for name in FEW)])


def _few(row: Row) -> Row:
    return {name: row[name] for name in FEW}


def _with_texts(row: Row) -> Row:
    turns = [{**turn, "tool_calls": _as_texts(turn["tool_calls"])} for turn in row["messages"]]
    return {**row, "messages": turns, "tools": _as_texts(row["tools"])}


def _as_texts(values: list[Json] | None) -> list[str] | None:
    return None if values is None else [_unicode(json.dumps(value, ensure_ascii=False)) for value in values]


def _pages(store: Selects, dataset_id: str) -> Iterator[list[dict[str, Any]]]:
    """The rows in order; only what `select` offers is used, so any process can export."""
    last = -1
    while rows := store.select(PAGE, (dataset_id, last, PAGE_SIZE)):
        yield rows
        last = rows[-1]["position"]


def _chat(row: dict[str, Any]) -> tuple[list[Message], dict[str, str]]:
    """Messages and attributes of a stored sample."""
    messages = [Message(each["role"], _unicode(each["content"])) for each in from_json(row["messages"])]
    return messages, {name: _unicode(text) for name, text in from_json(row["attributes"]).items()}


def _sample(row: dict[str, Any], messages: list[Message], attributes: dict[str, str], has_tools: bool) -> Row:
    """Absent sources are empty texts: readers of JSONL infer a column's type from its first lines."""
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
