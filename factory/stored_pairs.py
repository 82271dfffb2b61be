"""Pairs for preference training: what people said about a sample against what the refiner had said about it.

A verdict judges the sample that the refiner was asked about, or the one that it made of it. Where its reply
leads to what people want there is no pair. The reply itself is the rejected side, as it was stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from factory.domain import Domain
from factory.edits import EditRefused, Op, apply
from factory.examples import refiner_answer, refiner_examples, restates
from factory.store.text import restore
from factory.store.trace import Selects
from factory.stored_labels import LATEST_VERDICTS, PAGE, SAMPLE, StoredLabels
from factory.types import Json

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


class StoredPairs:
    """The pairs of a workspace, one at a time, with the section that each is about."""

    def __init__(self, store: Selects, domain: Domain) -> None:
        self._labels, self._domain = StoredLabels(store, domain), domain
        self._restate = restates(domain)

    def read(self) -> Iterator[tuple[str, Json]]:
        """Section and {"prompt", "chosen", "rejected"}; for each sample that the refiner was asked about."""
        for row in self._labels.pages(ASKED):
            wanted = _wanted(row)
            draft = self._labels.draft(
                row, row["answer"], wanted, "ok" if wanted == row["answer"] else row["reason"]
            )
            said = restore(row["response"])
            if draft is None or not said or _outcome(said, draft.answer) == draft.corrected:
                continue
            (chat,) = refiner_examples(self._domain, [draft])
            chosen = refiner_answer(draft, restate=self._restate)
            yield (
                draft.source_key,
                {
                    "prompt": chat["messages"][:1],
                    "chosen": [{"role": "assistant", "content": chosen}],
                    "rejected": [{"role": "assistant", "content": said}],
                },
            )


def _wanted(row: Mapping[str, Any]) -> str | None:
    """What the answer that the refiner was asked about should have become; None: gone."""
    if row["action"] == "drop":
        return None
    wanted: str = row["corrected"] if row["action"] == "edit" else row["judged_answer"]
    return restore(wanted)


def _outcome(said: str, answer: str) -> str | None:
    """The text that the refiner's reply leads to; None where it drops, or cannot be followed."""
    try:
        reply = json.loads(said)
        texts: dict[str, str | None] = {"keep": answer, "rewrite": reply.get("rewrite")}
        if reply["verdict"] != "edit":
            return texts.get(reply["verdict"])
        return apply([Op(op["op"], op["old"], op["new"]) for op in reply["ops"]], answer)
    except (ValueError, KeyError, TypeError, AttributeError, EditRefused):
        return None
