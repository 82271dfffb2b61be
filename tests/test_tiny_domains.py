"""Teachers of ready domains behind the real vLLM server: what they write is kept, or dropped for a reason."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from factory.check import check_recipe

ROOT = Path(__file__).parents[1]
REFINED = """
    SELECT d.action, d.refiner, d.reason, s.messages, s.attributes
    FROM decisions d JOIN samples s ON s.id = d.sample_id WHERE d.final"""


def refine_few(recipe: Path, folder: Path, num_samples: int) -> list[tuple[Any, ...]]:
    """`factory refine` with the profile `tiny` and fewer samples; the rows of REFINED."""
    profile = yaml.safe_load((recipe / "profiles" / "tiny.yaml").read_text("utf-8"))
    profile["loop"]["samples_per_round"] = num_samples
    (folder / "few.yaml").write_text(yaml.safe_dump(profile))
    words = ["refine", recipe, "--profile", folder / "few.yaml", "--workspace", folder / "w"]
    command = [sys.executable, "-m", "factory", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with duckdb.connect(str(folder / "w" / "factory.duckdb"), read_only=True) as connection:
        return connection.sql(REFINED).fetchall()


@pytest.mark.parametrize("recipe", ["bicycle_workshop", "smart_home"])
@pytest.mark.parametrize("profile", ["tiny", "one_gpu"])
def test_the_recipe_checks(recipe, profile):
    models = check_recipe(ROOT / "recipes" / recipe, profile)["models"]
    assert {model["role"] for model in models} >= {"teacher", "student"}


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("recipe", "fault"),
    [
        ("bicycle_workshop", ("sql", "sql_error")),
        ("smart_home", ("form", "invalid_arguments")),
    ],
)
def test_most_that_the_teacher_writes_is_kept_and_faults_are_seen(tmp_path, recipe, fault):
    rows = refine_few(ROOT / "recipes" / recipe, tmp_path, 128)
    reasons = Counter((refiner, reason) for action, refiner, reason, *_ in rows if action == "drop")
    kept = [json.loads(messages) for action, *_, messages, _ in rows if action == "keep"]
    assert len(rows) == 128 and 64 <= len(kept) < 128
    assert fault in reasons
    questions = {turn["content"] for messages in kept for turn in messages if turn["role"] == "user"}
    assert len(questions) > 0.9 * len(kept)
    assert {json.loads(attributes)["slice"] for *_, attributes in rows} == {
        row["slice"] for row in check_recipe(ROOT / "recipes" / recipe, "tiny")["slices"][:-1]
    }
