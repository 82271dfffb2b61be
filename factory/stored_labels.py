"""Drafts from a workspace: what people said of its samples, and what a teacher wrote anew and checks passed.

A person's newest verdict about a sample counts, unless it was withdrawn; where people differ, none does. A
teacher's rewrite is the critique's last revision, or that of a refiner step whose model is no trained
adapter: nothing learns from itself. What a refiner cannot be asked about in one question and one section is
left out and counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from factory.domain import Domain
from factory.held_out import HeldOut
from factory.labels import OK, Origin
from factory.store.text import restore
from factory.store.trace import Selects
from factory.store.verdicts import STANDING
from factory.types import CheckedDraft, Source

PAGE = 2000  # rows of a query that one answer holds
SAMPLE = """
    s.id, s.question, s.answer, s.slice, s.attributes, s.strategy,
    len(json_extract(s.messages, '$[*].role').list_filter(lambda r: r = '"user"')) AS num_turns,
    (SELECT list(src.id ORDER BY src.id) FROM edges e JOIN sources src ON src.id = e.parent
     WHERE e.child = s.id AND e.relation = 'source') AS sections"""
LATEST_VERDICTS = f"""
    SELECT sample_id, any_value(action) AS action, any_value(reason) AS reason,
           any_value(corrected) AS corrected,
           count(DISTINCT (action, coalesce(corrected, ''))) AS num_opinions
    FROM {STANDING} GROUP BY sample_id"""  # noqa: S608 (constants)
VERDICTS = f"""
    SELECT v.action, v.reason, v.corrected, v.num_opinions, {SAMPLE}
    FROM ({LATEST_VERDICTS}) v
    JOIN samples s ON s.id = v.sample_id
    WHERE s.id > ? ORDER BY s.id LIMIT {PAGE}"""  # noqa: S608 (constants)
REWRITES = f"""
    SELECT w.reason, w.corrected, {SAMPLE} FROM (
        SELECT d.sample_id, min(d.reason) AS reason, min(child.answer) AS corrected
        FROM decisions d
        JOIN samples child ON child.id = d.rewrite_id
        JOIN decisions last ON last.sample_id = d.rewrite_id AND last.run_id = d.run_id
                           AND last.final AND last.action = 'keep'
        JOIN calls c ON c.id = d.evidence ->> 'call' AND c.status = 'ok'
        WHERE d.action = 'rewrite'
          AND NOT EXISTS (SELECT 1 FROM models m WHERE m.id = c.model_id AND m.adapter IS NOT NULL)
        GROUP BY d.sample_id HAVING count(DISTINCT child.answer) = 1) w
    JOIN samples s ON s.id = w.sample_id
    WHERE s.id > ? ORDER BY s.id LIMIT {PAGE}"""  # noqa: S608 (constants)
REVISIONS = f"""
    SELECT {SAMPLE},
        (SELECT list(c.response ORDER BY c.created_at, c.rowid) FROM edges e
         JOIN calls c ON c.id = e.parent AND c.status = 'ok'
         WHERE e.child = s.id AND e.relation = 'call') AS responses
    FROM samples s
    WHERE s.strategy = 'critique' AND TRY_CAST(s.attributes ->> 'num_revisions' AS INTEGER) > 0
      AND EXISTS (SELECT 1 FROM decisions d WHERE d.sample_id = s.id AND d.final AND d.action = 'keep')
      AND s.id > ? ORDER BY s.id LIMIT {PAGE}"""  # noqa: S608 (constants)
REVISED = "revised"  # what the critique's teacher wrote anew; it says in words why, not in a slug


class StoredLabels:
    """The drafts of a workspace, one at a time; `left_out` counts those that are none, by the reason."""

    def __init__(self, store: Selects, domain: Domain) -> None:
        self._store, self._domain = store, domain
        self._sections = {source.id: source for source in domain.sources}
        self._tested = HeldOut([*domain.dev, *domain.test])
        self.left_out: Counter[str] = Counter()

    def read(self) -> Iterator[tuple[CheckedDraft, Origin]]:
        """People's verdicts, then a teacher's rewrites."""
        for row in self.pages(VERDICTS):
            if row["num_opinions"] > 1:
                self.left_out["people_disagree"] += 1
            elif row["action"] == "edit" and not (row["corrected"] or "").strip():
                self.left_out["edit_without_text"] += 1
            elif draft := self.draft(row, *_said(row)):
                yield draft, "verdict"
        for row in self.pages(REWRITES):
            if draft := self.draft(row, row["answer"], row["corrected"], row["reason"]):
                yield draft, "rewritten"
        for row in self.pages(REVISIONS):
            before = _draft_before(row["responses"] or [], row["answer"])
            if before is None:
                self.left_out["no_first_draft"] += 1
            elif draft := self.draft(row, before, row["answer"], REVISED):
                yield (
                    replace(draft, key=f"{draft.key}.{REVISED}"),
                    "rewritten",
                )  # a verdict bears the bare one

    def pages(self, sql: str) -> Iterator[dict[str, Any]]:
        """The rows of a query that starts after an id, in pages."""
        last = ""
        while rows := self._store.select(sql, (last,)):
            yield from rows
            last = rows[-1]["id"]

    def draft(
        self, row: Mapping[str, Any], answer: str, corrected: str | None, reason: str
    ) -> CheckedDraft | None:
        """The draft about a sample, or None and one more that is left out."""
        fault, source = "", self._section(row)
        if row["num_turns"] != 1:
            fault = "conversation"
        elif len(row["sections"] or ()) > 1:
            fault = "several_sections"
        elif source is None:
            fault = "no_section" if not row["sections"] else "section_changed"
        elif self._tested.find(row["question"]):
            fault = "asked_in_dev_or_test"
        if fault or source is None:
            self.left_out[fault] += 1
            return None
        question, answer = restore(row["question"]), restore(answer)
        corrected = None if corrected is None else restore(corrected)
        return CheckedDraft(row["id"], question, answer, corrected, reason, source.key, source.slice)

    def _section(self, row: Mapping[str, Any]) -> Source | None:
        """The sample's section as it is now, or the one that the refiner would be shown in its place."""
        if row["sections"]:
            return self._sections.get(row["sections"][0])
        return self._domain.nearest_source(row["question"], row["slice"] or None)


def _said(row: Mapping[str, Any]) -> tuple[str, str | None, str]:
    """Answer, corrected text and reason of a verdict."""
    answer, reason = row["answer"], row["reason"]
    if row["action"] == "drop":
        return answer, None, reason
    if row["action"] == "edit" and row["corrected"] != answer:
        return answer, row["corrected"], reason
    return answer, answer, OK


def _draft_before(responses: list[str], answer: str) -> str | None:
    """The answer that was revised last: of the calls' answers the last one that is another."""
    found = []
    for response in responses:
        try:
            text = json.loads(response).get("answer")
        except (ValueError, AttributeError):
            continue
        found += [text] if isinstance(text, str) and text and text != answer else []
    return found[-1] if found else None
