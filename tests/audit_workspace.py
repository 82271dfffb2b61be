"""A workspace with samples made by chance, two runs and one hostile sample; and a browser for it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from factory.audit.access import Access
from factory.audit.server import application
from factory.store.store import Store

PORT = 8321
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
TOKEN = "token-of-the-tests"
RUNS = ("run_a", "run_a_raw")
STEPS = ("form", "near", "edit")
WORDS = ("Notice", "wage", "50%", "under_score", "Größe", "back\\slash", "weeks", "claim", "eye", "契約")
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> \x1b[31mred\x1b[0m \u202egnp.exe\u202c "
    "{{ 7*7 }} \x00end"
)
HOSTILE_ID = "smp_<b>&'\"..x"


@dataclass(repr=False)
class Made:
    """The rows of the workspace, as they were written."""

    samples: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    members: dict[str, set[str]]  # of datasets


def make(workspace: Path, num_samples: int = 240) -> Made:
    """Writes the workspace; the same each time."""
    chance = random.Random(7)
    made = Made([], [], [], {"dat_1": set(), "dat_2": set()})
    for number in range(num_samples):
        made.samples.append(_sample(chance, number))
    for sample in made.samples:
        for run in RUNS if chance.random() < 0.3 else RUNS[:1]:
            _decide(chance, made, sample, run)
        for name, members in made.members.items():
            if chance.random() < 0.2 and name:
                members.add(sample["id"])
    with Store.open(workspace) as store:
        for run in RUNS:
            row = {"id": run, "recipe": "r", "digest": "d", "config": {}, "version": "1"}
            store.append("runs", [row | {"control": "raw" if run.endswith("raw") else None}])
        store.append("samples", made.samples)
        store.append("decisions", made.decisions)
        store.append("scores", made.scores)
        places = [(run, at, each["id"]) for run in RUNS[:1] for at, each in enumerate(made.samples)]
        store.append(
            "round_samples",
            [{"run_id": run, "round": 1, "position": at, "sample_id": each} for run, at, each in places],
        )
        for name, members in made.members.items():
            guards = {"now": {"distinct2": 0.5}, "first": {"distinct2": 0.6}}
            row = {"id": name, "run_id": "run_a", "round": 1, "num_samples": len(members), "guards": guards}
            store.append("datasets", [row])
            rows = [
                {"dataset_id": name, "sample_id": each, "position": at}
                for at, each in enumerate(sorted(members))
            ]
            store.append("dataset_samples", rows)
        store.append("samples", [hostile()])
        store.append(
            "edges", [{"child": HOSTILE_ID, "parent": made.samples[0]["id"], "relation": "rewrite_of"}]
        )
    return made


def hostile() -> dict[str, Any]:
    """A sample full of what must stay text, with an answer of two million characters."""
    answer = HOSTILE + "x" * 2_000_000
    return _row(HOSTILE_ID, 9, "grounded", "edit", "hostile<b>", HOSTILE, answer) | {
        "attributes": {"<i>key</i>": HOSTILE, "strategy": "grounded"}
    }


def browse(access: Access) -> TestClient:
    """A client that has come in, and follows no redirect."""
    client = TestClient(
        application(access, TOKEN, PORT), base_url=f"http://127.0.0.1:{PORT}", follow_redirects=False
    )
    assert client.get("/", params={"token": TOKEN}).status_code == 303
    return client


def _sample(chance: random.Random, number: int) -> dict[str, Any]:
    strategy = chance.choice(("grounded", "seeded"))
    question = " ".join(chance.choices(WORDS, k=4))
    answer = " ".join(chance.choices(WORDS, k=6)) + f" {number}"
    row = _row(
        f"smp_{number:04d}",
        1 + number * 3 // 240,
        strategy,
        chance.choice((strategy, "edit")),
        chance.choice(("a", "b b", "c&d")),
        question,
        answer,
    )
    attributes: dict[str, Any] = {"manner": chance.choice(("plain", "it's"))}
    if chance.random() < 0.5:
        attributes["level/x~y"] = chance.randrange(3)
    return row | {"attributes": attributes, "created_at": BEGUN + timedelta(microseconds=number)}


def _row(
    sample_id: str, number: int, strategy: str, operation: str, slice: str, question: str, answer: str
) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {
        "id": sample_id, "run_id": "run_a", "round": number, "strategy": strategy, "operation": operation,
        "slice": slice, "question": question, "answer": answer, "messages": messages, "attributes": {},
        "content_hash": sample_id,
    }  # fmt: skip


def _decide(chance: random.Random, made: Made, sample: dict[str, Any], run: str) -> None:
    base = {"run_id": run, "round": sample["round"], "sample_id": sample["id"], "evidence": {}}
    if chance.random() < 0.1:
        return
    for step, refiner in enumerate(STEPS):
        action = chance.choices(("keep", "drop", "rewrite"), (8, 2, 1 if refiner == "edit" else 0))[0]
        reason = {"keep": "ok", "drop": f"{refiner}_fault", "rewrite": "restated"}[action]
        final = action != "keep" or refiner == STEPS[-1]
        made.decisions.append(
            base | {"step": step, "refiner": refiner, "action": action, "reason": reason, "final": final}
        )
        if final:
            break
    for metric, scorer in (("keep", "edit"), ("overall", "judge"), ("overall", "edit")):
        if chance.random() < 0.7:
            value = (
                None
                if chance.random() < 0.1
                else float(chance.randrange(6)) / (1 if metric == "overall" else 5)
            )
            made.scores.append(
                {"run_id": run, "sample_id": sample["id"], "metric": metric, "value": value, "scorer": scorer}
            )
