"""Strategies that bring material of their own, in whole runs: lineage ends, books balance, files count."""

from __future__ import annotations

import hashlib
import json

import pytest
import yaml
from test_accounting import WRONG, ask

from factory import session
from factory.check import check_recipe
from factory.init import write_template
from factory.models.scripted import SCRIPTS
from factory.progress import Progress
from factory.types import Completion, Request

QUIET = Progress(bars=False)
STRATEGIES = [
    {"name": "evolved", "num_steps": 2},
    {"name": "persona", "file": "personas.txt"},
    {"name": "critique", "of": {"name": "taxonomy", "file": "topics.yaml", "grow_levels": 1}},
    {
        "name": "template",
        "rows": "rows.csv",
        "columns": [{"name": "question", "prompt": "Ask {{ row.who }}, {{ tone }}."}],
        "answer": "In {{ row.days }} days.",
        "samplers": {"tone": {"kind": "category", "values": ["calm", "loud"]}},
    },
]
FILES = {
    "personas.txt": "A roofer.\nA clerk.\n",
    "topics.yaml": "tree: {Notice: [oral, written], Filing: }\n",
    "rows.csv": "who,days,slice\nAnn,3,notice\nBob,4,filing\n",
}


def play(request: Request) -> str | Completion:
    """A teacher that answers the same request always the same, and one of nine badly."""
    number = int(hashlib.blake2b(request.id.encode()).hexdigest()[:8], 16)
    if number % 9 == 0:
        return Completion("no JSON and not to the e", "length")
    said = f"The {number % 997} foremen of mill {number % 89} waited for letter {number % 71}?"
    if request.schema is None:
        return said
    parts = request.schema["properties"]
    several = [f"{said} {n}" for n in range(3)]
    values = {key: several if part["type"] == "array" else said for key, part in parts.items()}
    return json.dumps({**values, **({"verdict": "good"} if "verdict" in parts else {})})


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    folder = tmp_path / "domain"
    write_template(folder)
    for name, text in FILES.items():
        (folder / name).write_text(text)
    profile = {
        "servers": {"main": {"kind": "scripted", "script": "play"}},
        "models": {"refiner": {"server": "main"}},
        "strategies": STRATEGIES,
        "refiners": [{"name": "form"}, {"name": "exact"}],
        "loop": {"rounds": 2, "samples_per_round": 40, "controls": {}},
        "guard": {"max_distinct2_drop": 1.0, "max_gzip_ratio": 10.0},
    }
    (folder / "profiles" / "own.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setitem(SCRIPTS, "play", play)
    return folder


def test_lineage_ends_at_what_strategies_brought(recipe, tmp_path):
    workspace = tmp_path / "w"
    report = session.run(recipe, "own", workspace, QUIET)
    assert ask(workspace, WRONG) == {what: [] for what in WRONG}
    sql = """SELECT s.strategy, k.key, count(*) AS n FROM samples s JOIN edges e ON e.child = s.id
        JOIN seeds k ON k.id = e.parent WHERE e.relation = 'seed' GROUP BY ALL"""
    keys = {(row["strategy"], row["key"]) for row in ask(workspace, {"": sql})[""]}
    assert keys >= {
        ("persona", "personas.txt:1"),
        ("persona", "personas.txt:2"),
        ("critique", "Notice/oral"),
        ("template", "rows.csv:2"),
        ("template", "rows.csv:3"),
    }
    sql = """SELECT strategy, bool_or(action = 'keep') AS kept, bool_or(reason = 'not_evolved') AS eliminated
        FROM decisions d JOIN samples s ON s.id = d.sample_id WHERE final GROUP BY ALL"""
    fates = {row["strategy"]: row for row in ask(workspace, {"": sql})[""]}
    assert all(fates[each["name"]]["kept"] for each in STRATEGIES)
    (tones,) = ask(workspace, {"": "SELECT count(DISTINCT attributes ->> 'tone') AS n FROM samples"})[""]
    assert tones["n"] == 2
    plan = {row["stage"]: row for row in check_recipe(recipe, "own")["plan"]}
    for row in report["spend"]:
        assert row["num_calls"] <= plan[row["stage"]]["calls"]


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("personas.txt", "clerk", "cook"), ("topics.yaml", "oral", "spoken"), ("rows.csv", "Bob", "Rob")],
)
def test_a_changed_file_of_a_strategy_makes_another_run(recipe, tmp_path, file, old, new):
    from factory.models.pool import ModelPool

    def name() -> str:
        domain = session.open_domain(recipe, "own")
        return session.name_run(domain, ModelPool(domain.recipe, domain.folder, tmp_path, QUIET.note, None))

    before = name()
    assert name() == before
    (recipe / file).write_text((recipe / file).read_text().replace(old, new))
    assert name() != before
