"""The benchmark of near duplicates runs, small; it plants the same each time; its score counts right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def test_what_is_planted() -> None:
    from benchmarks.planted import samples

    made = list(samples(2000))
    assert made == list(samples(2000)) != list(samples(2000, seed=1))
    firsts = {sample.origin for sample in made}
    assert (len(made), len(firsts)) == (2000, 1700)
    assert sum(sample.kind == "look-alike" for sample in made) >= 300
    assert all(18 <= len(f"{sample.question} {sample.answer}".split()) <= 66 for sample in made)


def test_the_score_takes_any_of_a_group_as_the_one_that_stays() -> None:
    from benchmarks.dedup import score

    truth = [(0, False), (0, False), (1, True), (2, True), (3, False)]
    assert score(truth, {0}) == {
        "precision": 1.0,
        "precision_without_look_alikes": 1.0,
        "recall": 1.0,
        "look_alikes_kept": 1.0,
    }
    assert score(truth, {0, 1, 2}) == {
        "precision": 1 / 3,
        "precision_without_look_alikes": 1 / 2,
        "recall": 1.0,
        "look_alikes_kept": 1 / 2,
    }


def test_ours_keeps_look_alikes_and_drops_copies() -> None:
    words = [sys.executable, "-m", "benchmarks.dedup", "--samples", "3000", "--store"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])["results"]["3000"]
    assert set(results) == {"ours", "ours, with the store"}
    for result in results.values():
        assert result["samples"] == 3000
        assert min(result["precision"], result["look_alikes_kept"]) >= 0.98
        assert result["recall"] >= 0.95
