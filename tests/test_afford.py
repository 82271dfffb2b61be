"""What a task has cost so far, by which a wave is sized near the end of a budget."""

from pathlib import Path

from example_store import call, fill

from factory.afford import SPENT
from factory.store.store import Store


def test_lost_attempts_count_for_a_task_but_not_what_was_cut_off(tmp_path: Path):
    with Store.open(tmp_path) as store:
        fill(store)
        before = store.select(SPENT, ("run_a", 1))
        store.append(
            "calls", [call("call_9", status="failed", error="cancelled", lost_tokens=9_000, attempts=0)]
        )
        (after,) = store.select(SPENT, ("run_a", 1))
    assert before == [{"calls": 6, "tokens": 55 + 900, "dollars": 2.0 + 0.25}]
    assert after["tokens"] == 55 + 900 + 15
