"""Everything that the workspace knows of one sample, read a table at a time by its id.

Each question names the id or a few ids that an earlier one gave, so that an index answers it. What a page
shows of it, and how much, is not decided here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from factory.audit.access import Access
from factory.store.trace import Trace, outcomes_in, trace

MAX_CALLS: Final = 40
NEAR: Final = 5  # neighbours that are shown
LOOKED_AT: Final = 5_000  # newest samples of the slice among which neighbours are sought
CANDIDATES: Final = 60
LEAST_SHARE: Final = 0.2  # of words in common, below which nothing is near
MAX_WORDS: Final = 8  # of a question, by which neighbours are sought: the longest

SAMPLE = "SELECT * FROM samples WHERE id = ?"
DECISIONS = """SELECT run_id, round, step, refiner, action, reason, evidence, rewrite_id, final
               FROM {outcomes} WHERE sample_id = ? ORDER BY run_id, created_at, step"""
SCORES = """SELECT metric, value, scorer, run_id, model_id FROM scores WHERE sample_id = ?
            ORDER BY scorer, metric, run_id"""
PARENTS = "SELECT parent, relation FROM edges WHERE child = ? ORDER BY relation, parent"
# A condition beside the key would keep DuckDB from looking into the index.
REWRITES = """WITH own AS MATERIALIZED (SELECT child, relation FROM edges WHERE parent = ?)
              SELECT child FROM own WHERE relation = 'rewrite_of' ORDER BY child LIMIT 20"""
VERDICTS = """SELECT reviewer, action, reason, corrected, created_at FROM verdicts WHERE sample_id = ?
              ORDER BY created_at, rowid"""
DATASETS = """WITH own AS MATERIALIZED (SELECT dataset_id FROM dataset_samples WHERE sample_id = ?)
              SELECT id, run_id, round, num_samples FROM datasets WHERE id IN (SELECT dataset_id FROM own)
              ORDER BY created_at, id"""
ADAPTERS = """SELECT id, role, name, adapter, dataset_id, round FROM models
              WHERE dataset_id IN ({}) ORDER BY created_at"""
SOURCES = "SELECT id, key, path, citation, title, text, page FROM sources WHERE id IN ({}) OR key IN ({})"
SEEDS = "SELECT id, key, prompt FROM seeds WHERE id IN ({})"
CALLS = """SELECT id, run_id, round, stage, role, model_id, request, response, reasoning, status, error,
                  finish_reason, attempts, prompt_tokens, completion_tokens, latency_ms, cost_dollars
           FROM calls WHERE id IN ({}) ORDER BY created_at"""
OTHERS = "SELECT id, messages, question, answer, operation FROM samples WHERE id IN ({})"


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A sample close to another, and what says so."""

    id: str
    question: str
    answer: str
    why: str


@dataclass(frozen=True, slots=True)
class Facts:
    """The sample's row and what hangs on it; rows as they lie in the tables, JSON read."""

    sample: dict[str, Any]
    decisions: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    sources: list[dict[str, Any]]
    seeds: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    num_calls: int
    before: list[dict[str, Any]]  # samples whose place it took
    after: list[dict[str, Any]]  # samples that took its place
    neighbours: list[Neighbour]
    datasets: list[dict[str, Any]]
    adapters: list[dict[str, Any]]
    verdicts: list[dict[str, Any]]
    trace: Trace


def read_sample(access: Access, sample_id: str) -> dict[str, Any] | None:
    """The row of a sample, its JSON read; None where there is none."""
    rows = access.select(SAMPLE, [sample_id])
    return _read(rows[0], "messages", "attributes") if rows else None


def read_facts(access: Access, sample: dict[str, Any]) -> Facts:
    """What hangs on a sample."""
    sample_id = sample["id"]
    decisions = [
        _read(row, "evidence")
        for row in access.select(DECISIONS.format(outcomes=outcomes_in(access)), [sample_id])
    ]
    parents = access.select(PARENTS, [sample_id])
    of: dict[str, list[str]] = {}
    for row in parents:
        of.setdefault(row["relation"], []).append(row["parent"])
    calls = list(dict.fromkeys([*of.get("call", []), *_called(decisions)]))
    datasets = access.select(DATASETS, [sample_id])
    keys = [key] if isinstance(key := sample["attributes"].get("source_key"), str) else []
    after = dict.fromkeys(row["child"] for row in access.select(REWRITES, [sample_id]))
    after |= dict.fromkeys(row["rewrite_id"] for row in decisions if row["rewrite_id"])
    source_ids = of.get("source", [])
    return Facts(
        sample=sample,
        decisions=decisions,
        scores=access.select(SCORES, [sample_id]),
        sources=_among(access, SOURCES, source_ids, keys if not source_ids else []),
        seeds=_among(access, SEEDS, of.get("seed", [])),
        calls=[_read(row, "request") for row in _among(access, CALLS, calls[:MAX_CALLS])],
        num_calls=len(calls),
        before=[_read(row, "messages") for row in _among(access, OTHERS, of.get("rewrite_of", []))],
        after=[_read(row, "messages") for row in _among(access, OTHERS, list(after))],
        neighbours=_neighbours(access, sample, decisions),
        datasets=datasets,
        adapters=_among(access, ADAPTERS, [row["id"] for row in datasets]),
        verdicts=access.select(VERDICTS, [sample_id]),
        trace=trace(access, sample_id),
    )


def _among(access: Access, sql: str, *ids: Sequence[str]) -> list[dict[str, Any]]:
    if not any(ids):
        return []
    marks = [", ".join("?" * len(each)) or "NULL" for each in ids]
    return access.select(sql.format(*marks), [value for each in ids for value in each])


def _read(row: dict[str, Any], *columns: str) -> dict[str, Any]:
    return row | {
        name: json.loads(row[name]) if isinstance(row[name], str) else row[name] for name in columns
    }


def _called(decisions: list[dict[str, Any]]) -> Iterator[str]:
    """The calls that decisions rest on, by their evidence."""
    for decision in decisions:
        evidence = decision["evidence"] if isinstance(decision["evidence"], dict) else {}
        found = evidence.get("calls", [])
        for value in [evidence.get("call"), *(found if isinstance(found, list) else [])]:
            if isinstance(value, str):
                yield value


def _neighbours(
    access: Access, sample: Mapping[str, Any], decisions: list[dict[str, Any]]
) -> list[Neighbour]:
    named: dict[str, str] = {}
    for decision in decisions:
        evidence = decision["evidence"] if isinstance(decision["evidence"], dict) else {}
        if isinstance(other := evidence.get("of"), str) and other != sample["id"]:
            figures = [f"{name} {evidence[name]}" for name in ("jaccard", "cosine") if name in evidence]
            named[other] = ", ".join([f"named by {decision['refiner']}", *figures])
    found = [
        Neighbour(row["id"], row["question"], row["answer"], named[row["id"]])
        for row in _among(access, OTHERS, list(named))
    ]
    return found + [each for each in _by_words(access, sample) if each.id not in named]


def _by_words(access: Access, sample: Mapping[str, Any]) -> list[Neighbour]:
    """Samples of the slice whose questions share the most words, in the sense of Jaccard."""
    own = _word_set(sample["question"][:2000])
    sought = sorted(own, key=lambda word: (-len(word), word))[:MAX_WORDS]
    if not sought:
        return []
    shares = " + ".join(["contains(lower(question), ?)::INTEGER"] * len(sought))
    rows = access.select(
        f"""SELECT id, left(question, 2000) AS question FROM (
                SELECT id, question FROM samples WHERE slice = ? AND id <> ? AND content_hash <> ?
                ORDER BY created_at DESC LIMIT {LOOKED_AT})
            WHERE {shares} > 0 ORDER BY {shares} DESC, id LIMIT {CANDIDATES}""",  # noqa: S608 (text of ours)
        [sample["slice"], sample["id"], sample["content_hash"], *sought, *sought],
    )
    scored = [
        (len(own & other) / len(own | other), row) for row in rows if (other := _word_set(row["question"]))
    ]
    scored.sort(key=lambda each: (-each[0], each[1]["id"]))
    near = {row["id"]: share for share, row in scored[:NEAR] if share >= LEAST_SHARE}
    shown = {row["id"]: row for row in _among(access, OTHERS, list(near))}
    return [
        Neighbour(
            each,
            shown[each]["question"],
            shown[each]["answer"],
            f"words of the question {share:.0%} the same",
        )
        for each, share in near.items()
    ]


def _word_set(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
