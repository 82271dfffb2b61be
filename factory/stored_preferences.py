"""Preferences from a workspace: what people said of a sample beside what the refiner had said about it.

A verdict judges the sample that the refiner was asked about, or the one that it made of it. Where its reply
leads to what people want it is a good answer, else a bad one, and what it should have said is a good one.
Bad and good together are a pair. The reply is taken as it was stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from factory.domain import Domain
from factory.edits import EditRefused, Op, apply
from factory.examples import refiner_answer, refiner_examples, restates
from factory.store.text import restore
from factory.store.trace import Selects
from factory.stored_labels import LATEST_VERDICTS, PAGE, SAMPLE, StoredLabels
from factory.types import CheckedDraft, Json

ASKED = f"""
    SELECT v.action, v.reason, v.corrected, d.sample_id <> v.sample_id AS is_child,
           judged.answer AS judged_answer, c.response, {SAMPLE}
    FROM ({LATEST_VERDICTS}) v
    JOIN samples judged ON judged.id = v.sample_id
    JOIN decisions d ON (d.sample_id = v.sample_id OR d.rewrite_id = v.sample_id) AND d.refiner = 'edit'
    JOIN calls c ON c.id = d.evidence ->> 'call' AND c.status = 'ok' AND c.role = 'refiner'
    JOIN samples s ON s.id = d.sample_id
    WHERE v.num_opinions = 1 AND (v.action <> 'edit' OR trim(v.corrected) <> '') AND s.id > ?
    QUALIFY row_number() OVER (PARTITION BY s.id ORDER BY is_child DESC, d.created_at DESC) = 1
    ORDER BY s.id LIMIT {PAGE}"""  # noqa: S608 (constants)


Method = Literal["dpo", "kto"]


class StoredPreferences:
    """The preferences of a workspace, one at a time, with the section that each is about."""

    def __init__(self, store: Selects, domain: Domain) -> None:
        self._labels, self._domain = StoredLabels(store, domain), domain
        self._restate = restates(domain)

    def read(self, method: Method) -> Iterator[tuple[str, Json]]:
        """Section and preference, for each sample that the refiner was asked about and people judged.

        For `dpo` {"prompt", "chosen", "rejected"} where its reply was bad, for `kto` {"prompt", "completion",
        "label"} for its reply and, where that was bad, for what it should have said.
        """
        for row in self._labels.pages(ASKED):
            wanted = _wanted(row)
            draft = self._labels.draft(
                row, row["answer"], wanted, "ok" if wanted == row["answer"] else row["reason"]
            )
            said = restore(row["response"])
            if draft is None or not said:
                continue
            (chat,) = refiner_examples(self._domain, [draft])
            right = refiner_answer(draft, restate=self._restate)
            is_good = _is_good(said, draft)
            for preference in _SHAPES[method](said, right, is_good):
                yield draft.source_key, {"prompt": chat["messages"][:1], **preference}


def _pairs(said: str, right: str, is_good: bool) -> Iterator[Json]:
    if not is_good:
        yield {"chosen": _turns(right), "rejected": _turns(said)}


def _labelled(said: str, right: str, is_good: bool) -> Iterator[Json]:
    yield {"completion": _turns(said), "label": is_good}
    if not is_good:
        yield {"completion": _turns(right), "label": True}


_SHAPES = {"dpo": _pairs, "kto": _labelled}


def _turns(text: str) -> Json:
    return [{"role": "assistant", "content": text}]


def _wanted(row: Mapping[str, Any]) -> str | None:
    """What the answer that the refiner was asked about should have become; None: gone."""
    if row["action"] == "drop":
        return None
    wanted: str = row["corrected"] if row["action"] == "edit" else row["judged_answer"]
    return restore(wanted)


def _is_good(said: str, draft: CheckedDraft) -> bool:
    """Whether the refiner's reply leads to what people want; one that cannot be followed does not."""
    try:
        reply = json.loads(said)
        verdict = reply["verdict"]
        if verdict == "drop" or draft.corrected is None:
            return bool(verdict == "drop" and draft.corrected is None)
        if verdict == "edit":
            ops = [Op(op["op"], op["old"], op["new"]) for op in reply["ops"]]
            return apply(ops, draft.answer) == draft.corrected
        became = {"keep": draft.answer, "rewrite": reply.get("rewrite")}.get(verdict)
        return bool(became == draft.corrected)
    except (ValueError, KeyError, TypeError, AttributeError, EditRefused):
        return False
