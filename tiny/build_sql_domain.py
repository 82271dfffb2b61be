"""Writes the gold of the domain bicycle_workshop from sql_questions.yaml: `python -m tiny.build_sql_domain`.

`check` proves what an evaluation rests on: every reference gives rows, every held-out question is apart from
whatever the teacher can say, and whoever takes another value or another intent gives something else.
`--check` compares the files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

from factory.overlap import Texts
from factory.sql_worker import open_database, same_rows
from tiny import sql_intents
from tiny.generated import write_or_check
from tiny.sql_intents import Intent, Questions

RECIPE = Path(__file__).parents[1] / "recipes" / "bicycle_workshop"
WORDINGS = 400  # drawn of each intent, to compare held-out questions with
MAX_ALIKE = 0.04  # share of pairs of different queries of a schema whose results are the same


def items(questions: Questions, split: str) -> list[dict[str, str]]:
    """The lines of a split."""
    return [
        {
            "id": f"{split}-{intent.id.replace('_', '-')}-{number}",
            "question": question,
            "answer": intent.query(value),
            "slice": intent.schema,
        }
        for intent in questions.intents
        for number, (value, question) in enumerate(getattr(intent, split), 1)
    ]


def check(questions: Questions) -> list[str]:
    """Every way in which the file breaks its own rules; empty when it keeps them."""
    bad = [f"{intent.id}: {what}" for intent in questions.intents for what in _faults(questions, intent)]
    gold = [item for split in ("dev", "test") for item in items(questions, split)]
    held_out, rng = Texts([item["question"] for item in gold]), Random(0)
    for intent in questions.intents:
        for _ in range(WORDINGS):
            said = questions.word(rng, intent, questions.value(rng, intent))
            if found := held_out.find(said):
                bad.append(f"{gold[found[0]]['id']} is {said!r} of the teacher ({found[1].measure})")
    return bad + alike(gold)


def _faults(questions: Questions, intent: Intent) -> list[str]:
    bad = []
    for value, question in (*intent.dev, *intent.test):
        if value is not None and str(value) not in question.replace("Wheel", "wheel").replace("Red", "red"):
            bad.append(f"{question!r} does not say {value}")
        if value is not None and value not in questions.slots[intent.slot]:
            bad.append(f"{value} is no {intent.slot}")
    if len(intent.dev) != 1 or len(intent.test) != 2:
        bad.append("one dev and two test questions")
    return bad


def alike(gold: list[dict[str, str]]) -> list[str]:
    """References without rows, and what pairs of them too often give the same."""
    bad = []
    for schema in sorted({item["slice"] for item in gold}):
        database = open_database((RECIPE / "schemas" / f"{schema}.sql").read_text("utf-8"))
        queries = sorted({item["answer"] for item in gold if item["slice"] == schema})
        rows = {sql: database.execute(sql).fetchall() for sql in queries}
        bad += [f"no rows: {sql}" for sql, found in rows.items() if not found or found == [(None,)]]
        pairs = [(a, b) for at, a in enumerate(queries) for b in queries[:at]]
        same = [(a, b) for a, b in pairs if len(rows[a]) == len(rows[b]) and _same(rows[a], rows[b])]
        if len(same) > MAX_ALIKE * len(pairs):
            bad.append(f"{schema}: {len(same)} of {len(pairs)} pairs of queries give the same: {same[:5]}")
    return bad


def _same(left: list[tuple[object, ...]], right: list[tuple[object, ...]]) -> bool:
    return len(left[0]) == len(right[0]) and same_rows(left, right, ordered=False)


def main() -> int:
    questions = sql_intents.read()
    if bad := check(questions):
        print("tiny/sql_questions.yaml:", *bad, sep="\n  ", file=sys.stderr)
        return 1
    files = {
        f"gold/{split}.jsonl": "".join(
            json.dumps(item, ensure_ascii=False) + "\n" for item in items(questions, split)
        )
        for split in ("dev", "test")
    }
    if not write_or_check(files, RECIPE, "tiny.build_sql_domain"):
        return 1
    print(", ".join(f"{name} {text.count(chr(10))}" for name, text in files.items()), "items")
    return 0


if __name__ == "__main__":
    sys.exit(main())
