"""Strategies of several calls in whole runs: the books balance, also after a run was cut off anywhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml
from test_accounting import STATE, VERDICTS, WRONG, ask

from factory import session
from factory.check import check_recipe
from factory.cli import main
from factory.errors import RecipeError
from factory.init import write_template
from factory.models.scripted import SCRIPTS
from factory.progress import Progress
from factory.store.store import Store
from factory.types import Completion, Request

QUIET = Progress(bars=False)
STRATEGIES = [
    {"name": "grounded"},
    {"name": "paraphrase", "of": {"name": "grounded"}},
    {"name": "back_translation", "of": {"name": "seeded", "num_examples": 1}},
    {"name": "critique", "of": {"name": "seeded"}, "max_revisions": 2},
    {"name": "dialogue", "min_turns": 1, "max_turns": 3, "system": "Be brief."},
]
REFINERS = ["form", "exact", "near", "contamination", "edit", "citation"]


def play(request: Request) -> str | Completion:
    """Teacher and refiner; the same request is always answered the same, and one of eleven badly."""
    number = int(hashlib.blake2b(request.id.encode()).hexdigest()[:8], 16)
    if number % 11 == 0:
        return Completion("no JSON and not to the e", "length")
    prompt = "\n".join(message.content for message in request.messages)
    rule = re.findall(r"^Rule \d\.\d", prompt, re.MULTILINE) or ["Rule 1.1"]
    said = f"{number % 997} days and {number % 89} more ({rule[0]})."
    if request.schema is None:
        return f"Reply: {said}"
    keys = list(request.schema["properties"])
    if "ops" in keys:
        return json.dumps(VERDICTS[number % len(VERDICTS)] if number % 2 else {"verdict": "keep"}).replace(
            "RULE", rule[0]
        )
    values = {key: f"{key} {said}" for key in keys}
    last = prompt.splitlines()[-1]
    if "in other words" in prompt or "ranslate" in prompt:
        words = "Dites-moi tout sur" if "into French" in prompt else "Pray tell a reader what stands behind"
        values = dict.fromkeys(keys, f"{words} {' & '.join(re.findall(r'[0-9.]*[0-9]', last))}")
    if "verdict" in keys:
        values["verdict"] = ("good", "revise", "good", "perhaps")[number % 4]
    return json.dumps(values)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("books") / "domain"
    write_template(folder)
    main_server = {"kind": "scripted", "script": "play"}
    profile = {
        "servers": {"main": main_server},
        "models": {"refiner": {"server": "main"}},
        "strategies": STRATEGIES,
        "refiners": [{"name": name} for name in REFINERS],
        "loop": {"rounds": 2, "samples_per_round": 40, "controls": {}},
        "budget": {"calls": 100_000},
        "guard": {"max_distinct2_drop": 1.0, "max_gzip_ratio": 10.0},
    }
    (folder / "profiles" / "books.yaml").write_text(yaml.safe_dump(profile))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCRIPTS, "play", play)
        yield folder


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A run that nothing disturbed, and how many times it wrote to its store."""
    workspace = tmp_path_factory.mktemp("whole")
    num_appends, append = 0, Store.append

    def count(self, table, rows):
        nonlocal num_appends
        num_appends += 1
        append(self, table, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "append", count)
        report = session.run(recipe, "books", workspace, QUIET)
    return workspace, num_appends, report


@pytest.mark.parametrize("what", WRONG)
def test_the_books_balance(whole, what):
    assert ask(whole[0], {what: WRONG[what]})[what] == []


def test_every_strategy_had_samples_kept_and_dropped(whole):
    rows = ask(whole[0], {"": "SELECT DISTINCT strategy, action FROM decisions d JOIN samples s "
        "ON s.id = d.sample_id WHERE final"})[""]  # fmt: skip
    found = {(row["strategy"], row["action"]) for row in rows}
    assert found >= {(each["name"], action) for each in STRATEGIES for action in ("keep", "drop")}
    (row,) = ask(whole[0], {"": "SELECT count(*) AS n FROM decisions WHERE evidence ->> '$.calls' <> '[]' "
        "AND action = 'rewrite'"})[""]  # fmt: skip
    assert row["n"] > 0
    assert all(spend["num_unused"] == 0 for spend in whole[2]["spend"])


def test_what_was_derived_is_kept_beside_its_original(whole):
    rows = ask(whole[0], {"": """SELECT a.sample_id, e.parent, b.sample_id AS original FROM accepted a
        JOIN edges e ON e.child = a.sample_id AND e.relation = 'derived_from'
        LEFT JOIN accepted b ON b.sample_id = e.parent"""})[""]  # fmt: skip
    assert rows and any(row["original"] for row in rows)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_a_run_that_is_cut_off_ends_as_one_that_was_not(recipe, whole, tmp_path, share):
    left, append = int(share * whole[1]), Store.append

    def append_until(self, table, rows):
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("cut off")
        append(self, table, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "append", append_until)
        with pytest.raises(RuntimeError, match="cut off"):
            session.run(recipe, "books", tmp_path, QUIET)
    session.run(recipe, "books", tmp_path, QUIET)
    assert ask(tmp_path, STATE) == ask(whole[0], STATE)
    assert ask(tmp_path, WRONG) == {what: [] for what in WRONG}


def test_check_counts_no_less_than_a_run_asks_for(recipe, whole):
    plan = {row["stage"]: row for row in check_recipe(recipe, "books")["plan"]}
    for row in whole[2]["spend"]:
        assert row["num_calls"] <= plan[row["stage"]]["calls"] + row["num_found"]
        assert row["prompt_tokens"] + row["completion_tokens"] <= plan[row["stage"]]["tokens"]


def over(folder: Path, strategies: list[object]) -> str:
    (folder / "profiles" / "wrong.yaml").write_text(yaml.safe_dump({"strategies": strategies}))
    with pytest.raises(RecipeError) as caught:
        check_recipe(folder, "wrong")
    return str(caught.value)


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ({"name": "paraphrase"}, ["strategies[0].of", "'of' is missing", "add it"]),
        ({"name": "paraphrase", "of": "grounded"}, ["strategies[0].of", "mapping"]),
        ({"name": "paraphrase", "of": {"num_examples": 2}}, ["strategies[0].of.name", "'name' is missing"]),
        ({"name": "critique", "of": {"name": "seedet"}}, ["strategies[0].of.name", "did you mean 'seeded'"]),
        (
            {"name": "critique", "of": {"name": "paraphrase", "of": {"name": "seeded", "examples": 2}}},
            ["wrong.yaml", "strategies[0].of.of.examples", "unknown key", "num_examples"],
        ),
        ({"name": "dialogue", "min_turns": 5}, ["strategies[0]", "min_turns must not be more"]),
        ({"name": "dialogue", "about": "topics"}, ["strategies[0].about", "'sources' or 'seeds'"]),
    ],
)
def test_a_wrong_option_is_told_where_it_stands(recipe, strategy, words):
    line = over(recipe, [strategy])
    assert [word for word in words if word not in line] == [], line


def test_a_wrapped_strategy_needs_its_material(tmp_path):
    write_template(tmp_path / "domain")
    file = tmp_path / "domain" / "recipe.yaml"
    file.write_text(file.read_text().replace("seeds: seeds.jsonl", "# no seeds"))
    for inner in ({"name": "seeded"}, {"name": "dialogue", "about": "seeds"}):
        line = over(tmp_path / "domain", [{"name": "paraphrase", "of": inner}])
        assert "strategies[0].of.name" in line and "no seeds" in line, line


def test_a_preview_shows_every_turn(recipe, capsys):
    profile = {
        **yaml.safe_load((recipe / "profiles" / "books.yaml").read_text()),
        "strategies": STRATEGIES[-1:],
    }
    profile["strategies"] = [{**STRATEGIES[-1], "min_turns": 3}]
    (recipe / "profiles" / "talk.yaml").write_text(yaml.safe_dump(profile))
    assert main(["preview", str(recipe), "--profile", "talk", "--count", "6"]) == 0
    shown = capsys.readouterr().out
    assert "\n> Reply" in shown and "Be brief." in shown
