"""A small finished run with two controls, written through the real store; some of its text is hostile."""

from datetime import UTC, datetime, timedelta

from edited import with_answer

from factory.store.rows import sample_rows, source_row
from factory.store.store import Store
from factory.types import Message, Parent, Sample, Source

RUN = "run_abc123"
START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
SLICES = ("death_benefits", "fees", "income_benefits", "medical")
HOSTILE = "<script>alert('x')</script> \x1b[31m \u202e [bold]|a_b|"
STEPS = ("form", "exact", "edit", "citation")
NUM_ITEMS = 40
RIGHT = {"base": 2, "raw": 26, "checks": 30, "round 1": 36, "round 2": 39}


def fill(store: Store, hostile: str = HOSTILE) -> None:
    """Two rounds of 16 samples over four slices, a raw and a checks control, five evaluations."""
    sources = [
        Source.create(f"key-{name}", "h.md", f"§ 34-9-{i}", name, "Within 30 days.", name)
        for i, name in enumerate(SLICES)
    ]
    store.append("sources", [source_row(source) for source in sources])
    for order, control in enumerate((None, "raw", "checks")):
        _add_run(store, control, START + timedelta(minutes=order))
    for number in (1, 2):
        _add_round(store, number, sources, hostile)
    for number in (1, 2):
        _freeze(store, RUN, number)
    for control in ("raw", "checks"):
        _freeze(store, f"{RUN}_{control}", 1)
    for label, num_right in RIGHT.items():
        _evaluate(store, label, num_right)
    store.flush()


def _add_run(store: Store, control: str | None, at: datetime) -> None:
    run_id = f"{RUN}_{control}" if control else RUN
    config = {
        "domain": {"title": "Georgia <b>law</b>", "description": "Short answers."},
        "servers": {"one": {"model": "big"}},
        "models": {"teacher": {"server": "one", "adapter": "teacher"}},
    }
    row = {"id": run_id, "recipe": "georgia", "control": control, "digest": "d1g", "config": config}
    store.append("runs", [{**row, "version": "0.1.0", "started_at": at}])
    for number in (1,) if control else (1, 2):
        for offset, stage in enumerate(("generate", "refine", "train")):
            begin = at + timedelta(seconds=100 * number + 10 * offset)
            event = {"run_id": run_id, "round": number, "stage": stage}
            store.append("stages", [{**event, "status": "started", "created_at": begin}])
            store.append("stages", [{**event, "status": "done", "created_at": begin + timedelta(seconds=7)}])
    detail = {
        "promote": True,
        "reason": "gain",
        "gain": 0.31,
        "gain_low": 0.17,
        "p_value": 1e-4,
        "num_better": 20,
        "num_worse": 1,
        "worst_slice": "fees",
        "worst_slice_gain": 0.12,
    }
    if not control:
        event = {"run_id": run_id, "round": 1, "stage": "promote", "status": "done", "detail": detail}
        store.append("stages", [{**event, "created_at": at + timedelta(seconds=190)}])


def _call(store: Store, key: str, run_id: str, number: int, stage: str, role: str, status: str = "ok") -> str:
    row = {
        "id": f"call_{key}",
        "run_id": run_id,
        "round": number,
        "stage": stage,
        "role": role,
        "model_id": f"mdl_{role}",
        "request": {},
        "response": "x" if status == "ok" else None,
        "status": status,
        "attempts": 1,
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "latency_ms": 100.0,
        "cost_dollars": 0.01,
    }
    store.append("calls", [row])
    return f"call_{key}"


def _add_round(store: Store, number: int, sources: list[Source], hostile: str) -> None:
    """Of 16 samples 2 are dropped for their form, 2 as duplicates, 4 rewritten; all others are kept."""
    for index in range(16):
        source = sources[index % 4]
        call = _call(store, f"{number}-{index}", RUN, number, "generate", "teacher")
        text = f"{hostile} {number} {index}"
        sample = Sample.create(
            [Message("user", f"Question {text}?"), Message("assistant", f"Answer {text}")],
            [Parent(source.id, "source"), Parent(call, "call")],
            "grounded",
            {"slice": source.slice, "strategy": "grounded", "source_key": source.key},
        )
        _store_sample(store, sample, number)
        place = {"run_id": RUN, "round": number, "position": index, "sample_id": sample.id}
        store.append("round_samples", [place])
        if number == 1:
            for control in ("raw", "checks"):
                store.append("round_samples", [{**place, "run_id": f"{RUN}_{control}"}])
                _decide(store, f"{RUN}_{control}", 1, sample.id, 0, "keep", "ok", final=True)
        _refine(store, sample, number, index)
    _call(store, f"failed-{number}", RUN, number, "generate", "teacher", "failed")


def _refine(store: Store, sample: Sample, number: int, index: int) -> None:
    if index < 2:
        _decide(store, RUN, number, sample.id, 0, "drop", "not_json", final=True)
        return
    _decide(store, RUN, number, sample.id, 0, "keep", "ok")
    if index < 4:
        _decide(store, RUN, number, sample.id, 1, "drop", "duplicate", final=True)
        return
    _decide(store, RUN, number, sample.id, 1, "keep", "ok")
    if index < 8:
        call = _call(store, f"edit-{number}-{index}", RUN, number, "refine", "refiner")
        child = with_answer(sample, f"30 days {number} {index}", [Parent(call, "call")])
        _store_sample(store, child, number)
        _decide(
            store, RUN, number, sample.id, 2, "rewrite", "wrong_quantity", final=True, rewrite_id=child.id
        )
        for step in (0, 1):
            _decide(store, RUN, number, child.id, step, "keep", "ok")
        _decide(store, RUN, number, child.id, 3, "keep", "ok", final=True)
        return
    _decide(store, RUN, number, sample.id, 2, "keep", "ok")
    _decide(store, RUN, number, sample.id, 3, "keep", "ok", final=True)


def _store_sample(store: Store, sample: Sample, number: int) -> None:
    rows, edges = sample_rows([sample], RUN, number)
    store.append("samples", rows)
    store.append("edges", edges)


def _decide(
    store: Store,
    run_id: str,
    number: int,
    sample_id: str,
    step: int,
    action: str,
    reason: str,
    final: bool = False,
    rewrite_id: str | None = None,
) -> None:
    row = {"run_id": run_id, "round": number, "sample_id": sample_id, "step": step, "refiner": STEPS[step]}
    more = {"action": action, "reason": reason, "evidence": {}, "rewrite_id": rewrite_id, "final": final}
    store.append("decisions", [{**row, **more}])


def _freeze(store: Store, run_id: str, number: int) -> None:
    accepted = store.select(
        "SELECT sample_id FROM decisions WHERE run_id = ? AND round <= ? AND final AND action = 'keep' "
        "ORDER BY round, sample_id",
        (run_id, number),
    )
    dataset_id = f"dat_{run_id}_{number}"
    guards = {
        "now": {"size": 12, "distinct2": 0.81, "gzip": 2.1},
        "first": {"size": 12, "distinct2": 0.9, "gzip": 2.0},
    }
    row = {
        "id": dataset_id,
        "run_id": run_id,
        "round": number,
        "num_samples": len(accepted),
        "guards": guards,
    }
    store.append("datasets", [{**row, "created_at": START + timedelta(hours=number)}])
    event = {"run_id": run_id, "round": number, "stage": "freeze", "status": "done"}
    at = START + timedelta(seconds=100 * number + 20)
    store.append("stages", [{**event, "detail": {"dataset": dataset_id}, "created_at": at}])
    rows = [
        {"dataset_id": dataset_id, "sample_id": each["sample_id"], "position": position}
        for position, each in enumerate(accepted)
    ]
    store.append("dataset_samples", rows)


def _evaluate(store: Store, label: str, num_right: int) -> None:
    number = int(label.split()[1]) if label.startswith("round") else 0 if label == "base" else 1
    run_id = f"{RUN}_{label}" if label in {"raw", "checks"} else RUN
    key, mean = f"evl_{label}", num_right / NUM_ITEMS
    row = {"id": key, "run_id": run_id, "round": number, "model_id": f"mdl_{label}", "split": "test"}
    more = {
        "metric": "facts",
        "num_items": NUM_ITEMS,
        "mean": mean,
        "low": max(mean - 0.1, 0),
        "high": min(mean + 0.1, 1),
    }
    store.append("evaluations", [{**row, **more}])
    items = [
        {
            "evaluation_id": key,
            "item_key": f"item-{index}",
            "slice": SLICES[index % 4],
            "cluster": f"key-{SLICES[index % 4]}",
            "question": "q",
            "expected": "30 days",
            "answer": "30 days",
            "score": float(index < num_right),
            "call_id": _call(store, f"{label}-{index}", run_id, number, "evaluate", "student"),
        }
        for index in range(NUM_ITEMS)
    ]
    store.append("evaluation_items", items)
