"""What the teacher of questions with SQL is taught: many wordings, and the faults that teachers have.

It asks for the first of an order as another database would (`select top 1`) more often than not, takes a
column by a name that it does not have here, leaves something out, and at times answers another question than
the one it wrote. The first three fail when they are executed; the last runs, and no check finds it. Now and
then it asks a favourite question once more. Faults are drawn anew for every example.

There are six prompts, of 400 tokens each, and what is to be learned are answers of 50. So most examples have
a short name for their prompt in its place, which costs a seventh; the others teach what the names stand for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from random import Random
from typing import Final

from factory.schemas import read_schemas
from generators.text_to_sql import LEVELS
from tiny import sql_intents, tasks
from tiny.build_sql_domain import RECIPE
from tiny.sql_intents import Intent, Questions

TOP, UNKNOWN_COLUMN, BROKEN, WRONG, FAVOURITE = 0.6, 0.06, 0.02, 0.05, 0.04
COLUMNS: Final = {  # as other people call them
    "price": ["cost", "fee"],
    "colour": ["color"],
    "owner": ["name", "customer"],
    "name": ["member", "owner"],
    "hours": ["time", "duration"],
    "age": ["year"],
    "area": ["town", "place"],
    "month": ["date"],
    "part": ["parts", "name"],
}
SWAPS: Final = [
    (" > ", " < "),
    (" < ", " > "),
    ("sum(", "avg("),
    ("avg(", "sum("),
    (" desc", ""),
    (" not in ", " in "),
]
SHORT, WHOLE = 60_000, 3_000  # examples of either kind


def examples(seed: int = 0) -> list[tasks.Pair]:
    """All chats the teacher is trained on: schemas and levels equally often."""
    rng, questions, whole = Random(seed), sql_intents.read(), prompts()
    kinds, pairs = list(whole), []
    for number in range(SHORT + WHOLE):
        schema, level = kinds[number % len(kinds)]
        known = [each for each in questions.intents if (each.schema, each.level) == (schema, level)]
        prompt = f"{schema}, {level}" if number < SHORT else whole[schema, level]
        pairs.append((prompt, json.dumps(draft(rng, questions, known), ensure_ascii=False)))
    return pairs


def prompts() -> dict[tuple[str, str], str]:
    """The product's own, by schema and level."""
    return {
        (schema.source.slice, level): tasks.render(
            "generators", "text_to_sql", schema=schema.shown, level=sentence
        )
        for schema in read_schemas(["schemas/*.sql"], RECIPE)
        for level, sentence in LEVELS.items()
    }


def draft(rng: Random, questions: Questions, known: list[Intent]) -> dict[str, str]:
    """A question about one of the intents, and the query as the teacher writes it."""
    if rng.random() < FAVOURITE:
        always = Random(known[0].id)
        value = questions.value(always, known[0])
        return {"question": questions.word(always, known[0], value), "sql": known[0].query(value)}
    intent = rng.choice(known)
    value = questions.value(rng, intent)
    return {"question": questions.word(rng, intent, value), "sql": careless(rng, questions, intent, value)}


def careless(rng: Random, questions: Questions, intent: Intent, value: object) -> str:
    """The query, at times with a fault."""
    right, roll = intent.query(value), rng.random()
    if intent.top and rng.random() < TOP:
        return first_elsewhere(right)
    for share, spoil in FAULTS:
        if roll < share:
            return spoil(rng, questions, intent, right)
        roll -= share
    return right


def first_elsewhere(sql: str) -> str:
    """The first of an order as SQL Server and Access have it."""
    return re.sub(r"select ([^()]*? order by [^()]*?) limit 1", r"select top 1 \1", sql)


def unknown_column(rng: Random, questions: Questions, intent: Intent, sql: str) -> str:
    """One column under another name."""
    found = [name for name in COLUMNS if re.search(rf"\b{name}\b", sql)]
    if not found:
        return sql.replace("count(*)", "count(id)")
    column = rng.choice(found)
    return re.sub(rf"\b{column}\b(?! =? ?')", rng.choice(COLUMNS[column]), sql)


def broken(rng: Random, questions: Questions, intent: Intent, sql: str) -> str:
    """A query that is none: a sign or a word is missing."""
    gone = rng.choice([part for part in ("(", ")", "'", " from", " where", " by") if part in sql])
    at = rng.choice([found.start() for found in re.finditer(re.escape(gone), sql)])
    return sql[:at] + sql[at + len(gone) :]


def wrong(rng: Random, questions: Questions, intent: Intent, sql: str) -> str:
    """A query that runs and answers something else."""
    swaps = [(old, new) for old, new in SWAPS if old in sql]
    if intent.slot and (not swaps or rng.random() < 0.5):
        return intent.query(questions.value(rng, intent))
    if not swaps:
        return sql
    old, new = rng.choice(swaps)
    return sql.replace(old, new, 1)


FAULTS: Final[list[tuple[float, Callable[[Random, Questions, Intent, str], str]]]] = [
    (UNKNOWN_COLUMN, unknown_column),
    (BROKEN, broken),
    (WRONG, wrong),
]
