"""Commands that ask a workspace, also while a run holds it: `sql`, by SQL or a ready question, and `diff`.

What the questions are stands in factory.store.questions, what differs in factory.diff.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factory.commands.arguments import DEFAULT_WORKSPACE, AsJson, Workspace
from factory.commands.look import QUERY
from factory.errors import InputError

if TYPE_CHECKING:
    from factory.store.confined import Params
    from factory.store.queries import Reader


class Format(StrEnum):
    """How an answer is printed."""

    table = "table"
    json = "json"
    csv = "csv"


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command(
        epilog=f"Example: factory sql {QUERY}; factory sql --list; "
        "factory sql between-rounds --param before=1 --param after=2 --output changes.parquet"
    )(sql)
    app.command(epilog="Example: factory diff run_2b11 run_2b110d522d20_raw --workspace workspace")(diff)


def sql(
    query: Annotated[
        str | None,
        typer.Argument(help="One SELECT, a file that ends in .sql, or the name of a ready question."),
    ] = None,
    workspace: Workspace = DEFAULT_WORKSPACE,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to print.")] = Format.table,
    param: Annotated[
        list[str] | None,
        typer.Option(
            "--param", help="Value of the next ? in the query, or NAME=VALUE of $NAME; again for more."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write all rows to a file: .parquet, .csv or .json."),
    ] = None,
    list: Annotated[bool, typer.Option("--list", help="List the ready questions.")] = False,
    json: AsJson = False,
) -> None:
    """Ask the database one SELECT. Its tables are explained in docs/schema.md.

    In JSON and Parquet, columns of one name are told apart: id, id_1, id_2.
    NaN and infinities are null in JSON.
    """
    from factory.store.queries import Reader

    if list:
        return _print_questions(json or format is Format.json)
    if query is None:
        raise InputError("a query is needed", hint="`factory sql --list` names the ready questions")
    text, params = _question(query, param or [])
    with Reader(workspace) as reader:
        if output is not None:
            return _write(reader, text, params, output)
        return _print(reader, text, params, Format.json if json else format)


def diff(
    before: Annotated[str, typer.Argument(help="Id of a run, or how it begins.", metavar="RUN")],
    after: Annotated[str, typer.Argument(help="Id of the other.", metavar="RUN")],
    workspace: Workspace = DEFAULT_WORKSPACE,
    json: AsJson = False,
) -> None:
    """Say how two runs differ: recipe, samples, reasons, spend, models and accuracy."""
    from dataclasses import asdict

    from factory.diff import compare, render
    from factory.screen import print_json, print_renderable
    from factory.store.queries import Reader

    with Reader(workspace) as reader:
        found = compare(reader, before, after)
    if json:
        print_json(asdict(found))
    else:
        print_renderable(render(found))


def _question(query: str, given: list[str]) -> tuple[str, Params]:
    """The SQL and its values; raises InputError."""
    from factory.store.confined import names_of
    from factory.store.questions import find_question

    if (question := find_question(query)) is not None:
        return question.sql, question.bind(_named(given))
    text = _query_text(query)
    return text, _named(given) if given and names_of(text) else given


def _named(given: list[str]) -> dict[str, str]:
    found = {}
    for each in given:
        name, sign, value = each.partition("=")
        if not sign:
            raise InputError(f"--param {each}: NAME=VALUE expected")
        found[name.removeprefix("$")] = value
    return found


def _print_questions(json: bool) -> None:
    from dataclasses import asdict

    from factory.screen import print_json, print_table
    from factory.store.questions import questions

    found = questions()
    if json:
        print_json([{key: value for key, value in asdict(each).items() if key != "sql"} for each in found])
        return
    rows = [
        (each.name, each.title, ", ".join(p.name if p.required else f"[{p.name}]" for p in each.parameters))
        for each in found
    ]
    print_table(("question", "what it answers", "parameters"), rows)


def _write(reader: Reader, text: str, params: Params, output: Path) -> None:
    from factory.answer_files import check_suffix, write_answer
    from factory.screen import print_note

    check_suffix(output)
    with reader.stream(text, params) as found:
        num_rows = write_answer(found, output)
    print_note(f"wrote {num_rows:,} rows to {output}")


def _print(reader: Reader, text: str, params: Params, format: Format) -> None:
    from factory.screen import distinct_names, print_csv, print_json, print_note, print_table

    found = reader.table(text, params)
    if format is Format.json:
        names = distinct_names(found.columns)
        print_json([dict(zip(names, row, strict=True)) for row in found.rows])
    elif format is Format.csv:
        print_csv(found.columns, found.rows)
    else:
        print_table(found.columns, found.rows)
    if found.truncated:
        print_note(
            f"only the first {len(found.rows):,} rows: add a LIMIT or a condition, "
            "or write all of them to a file with --output"
        )


def _query_text(query: str) -> str:
    if not query.endswith(".sql"):
        return query
    try:
        return Path(query).read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("not UTF-8 text", where=query) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=query) from error
