"""Two runs written by hand: two rounds of `run_a`, one of `run_b`, two models and what they answer."""

from __future__ import annotations

from datetime import UTC, datetime

from example_store import call

from factory.store.store import Store

QUESTIONS = {
    "smp_1": "When must notice be given to the employer?",
    "smp_2": "Who pays for the doctor?",
    "smp_3": "How long is a claim open?",
    "smp_4": "How long is a claim open?",
    "smp_5": "Which benefit is paid for the loss of a hand?",
    "smp_6": "What is a hand?",
}
ROUND = {"smp_1": 1, "smp_2": 1, "smp_3": 1, "smp_4": 1, "smp_5": 2, "smp_6": 2}
SLICE = {"smp_5": "benefits", "smp_6": "benefits"}


def tell(store: Store) -> None:
    """Writes it all; durable when it returns."""
    runs = [("run_a", {"seeds": "a", "refiners": [{"name": "form"}, {"name": "near", "at": 0.5}]}, 1)]
    runs += [("run_b", {"seeds": "b", "refiners": [{"name": "near", "at": 0.7}, {"name": "form"}]}, 0)]
    for run_id, config, day in runs:
        started_at = _time(1 + day)
        row = {"id": run_id, "recipe": "r", "digest": "d", "config": config, "version": "1"}
        store.append("runs", [row | {"started_at": started_at}])
    _samples(store)
    _decisions(store)
    _models(store)
    _calls(store)
    store.flush()


def _time(day: int) -> datetime:
    return datetime(2026, 1, day, tzinfo=UTC)


def _samples(store: Store) -> None:
    source = {"id": "src_1", "key": "34-9-80", "path": "h.md", "citation": "§ 34-9-80", "title": "Notice"}
    store.append("sources", [source | {"text": "Within 30 days.", "slice": "notice"}])
    store.append("seeds", [{"id": "seed_1", "key": "s1", "prompt": "When?", "slice": "notice"}])
    for number, (sample_id, question) in enumerate(QUESTIONS.items()):
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": "So."}]
        made = {"id": sample_id, "run_id": "run_a", "round": ROUND[sample_id], "strategy": "grounded"}
        made |= {"operation": "edit" if sample_id == "smp_4" else "grounded", "attributes": {}}
        made |= {"slice": SLICE.get(sample_id, "notice"), "question": question, "answer": "So."}
        store.append("samples", [made | {"messages": messages, "content_hash": f"hash_{number}"}])
        if sample_id != "smp_4":
            place = {"run_id": "run_a", "round": ROUND[sample_id], "position": number}
            store.append("round_samples", [place | {"sample_id": sample_id}])
    edges = [("smp_1", "src_1", "source"), ("smp_1", "seed_1", "seed"), ("smp_1", "call_1", "call")]
    edges += [("smp_4", "smp_3", "rewrite_of"), ("smp_4", "call_3", "call"), ("smp_3", "src_1", "source")]
    store.append("edges", [{"child": c, "parent": p, "relation": r} for c, p, r in edges])


def _decisions(store: Store) -> None:
    ops = [{"op": "replace", "old": "60", "new": "30"}, {"op": "delete", "old": "x", "new": ""}]
    rewrite = {"rewrite_id": "smp_4", "evidence": {"ops": ops, "call": "call_3"}}
    steps = [
        ("smp_1", 0, "form", "keep", "ok", False, {}),
        ("smp_1", 1, "near", "keep", "ok", True, {}),
        ("smp_2", 0, "form", "keep", "ok", False, {}),
        ("smp_2", 1, "near", "drop", "near_duplicate", True, {}),
        ("smp_3", 2, "edit", "rewrite", "wrong_quantity", True, rewrite),
        ("smp_4", 0, "form", "keep", "ok", True, {}),
        ("smp_5", 1, "near", "keep", "ok", True, {}),
        ("smp_6", 0, "form", "drop", "too_short", True, {}),
    ]
    for sample_id, step, refiner, action, reason, final, more in steps:
        row = {"run_id": "run_a", "round": ROUND[sample_id], "sample_id": sample_id, "step": step}
        row |= {"refiner": refiner, "action": action, "reason": reason, "evidence": {}, "final": final}
        store.append("decisions", [row | more])
        if sample_id in ("smp_1", "smp_2"):  # the other run keeps both
            other = {"run_id": "run_b", "action": "keep", "reason": "ok"}
            store.append("decisions", [row | other])
    verdict = {"reviewer": "ann", "reason": "fine", "created_at": _time(2)}
    store.append(
        "verdicts",
        [
            verdict | {"sample_id": "smp_1", "action": "drop", "created_at": _time(1)},
            verdict | {"sample_id": "smp_1", "action": "keep"},
            verdict | {"sample_id": "smp_2", "action": "keep", "reason": "no copy"},
            verdict | {"sample_id": "smp_4", "action": "drop"},
            verdict | {"sample_id": "smp_5", "reviewer": "Cleo", "action": "withdrawn", "reason": "undo"},
        ],
    )


def _models(store: Store) -> None:
    held = {"dat_1": ["smp_1", "smp_4"], "dat_2": ["smp_1", "smp_5"]}
    for number, (dataset, samples) in enumerate(held.items(), 1):
        row = {"id": dataset, "run_id": "run_a", "round": number, "num_samples": 2, "guards": {}}
        store.append("datasets", [row])
        for position, sample_id in enumerate(samples):
            place = {"dataset_id": dataset, "sample_id": sample_id, "position": position}
            store.append("dataset_samples", [place])
        model = {"id": f"mdl_{number}", "role": "student", "name": f"student-{number}", "base": "b"}
        store.append("models", [model | {"run_id": "run_a", "round": number, "dataset_id": dataset}])
    curve = [("sft", 5, 2.0, None), ("sft", 10, 1.0, 1.5), ("dpo", 1, 0.7, None)]
    points = [
        {"phase": phase, "step": step, "loss": loss, "dev_loss": dev} for phase, step, loss, dev in curve
    ]
    store.append("training_steps", [{"model_id": "mdl_1", **point} for point in points])
    store.append("training_steps", [{"model_id": "mdl_2", "phase": "sft", "step": 5, "num_tokens": 640}])
    items = [
        ("i1", "notice", "When must notice be given?", (1.0, 0.0)),
        ("i2", "notice", "How long is a claim open for?", (0.0, 1.0)),
        ("i3", "benefits", "Which benefit is paid for a hand?", (1.0, 1.0)),
    ]
    for number in (1, 2):
        for run_id, name in (("run_a", f"evl_{number}"), ("run_b", f"evl_b{number}")):
            if run_id == "run_b" and number == 2:
                continue
            scores = [score[number - 1] if run_id == "run_a" else 0.0 for *_, score in items]
            row = {"id": name, "run_id": run_id, "round": number, "model_id": f"mdl_{number}"}
            row |= {"split": "test", "metric": "exact", "num_items": 3, "mean": sum(scores) / 3}
            if run_id == "run_b":
                row["model_id"] = "mdl_b"
            store.append("evaluations", [row | {"low": 0.0, "high": 1.0}])
            for (key, slice_name, question, _), score in zip(items, scores, strict=True):
                item = {"evaluation_id": name, "item_key": key, "slice": slice_name, "cluster": key}
                item |= {"question": question, "expected": "e", "answer": f"answer {number}"}
                store.append("evaluation_items", [item | {"score": score, "call_id": f"call_{name}_{key}"}])


def _calls(store: Store) -> None:
    edit = {"stage": "refine", "role": "refiner", "model_id": "mdl_refiner"}
    failed = {"status": "failed", "response": None, "error": "timeout", "completion_tokens": 0}
    request = {"messages": [{"role": "user", "content": "asked in vain"}]}
    store.append("calls", [call("call_1"), call("call_3", **edit)])
    store.append("calls", [call("call_4", **failed, lost_tokens=70, created_at=_time(3))])
    store.append("calls", [call("call_5", **failed, request=request, created_at=_time(4))])
    store.append("calls", [call("call_4")])
