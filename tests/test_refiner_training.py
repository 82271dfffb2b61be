"""A refiner is promoted only where it is right on more held-out drafts; the old one stays otherwise."""

import json
from dataclasses import replace
from typing import NamedTuple

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_stored_labels import say
from test_stored_preferences import asked

from factory import cli
from factory.bench import Bench
from factory.edits import target
from factory.errors import FactoryError, InputError
from factory.examples import refiner_examples
from factory.init import write_template
from factory.labels import Mixture
from factory.load import load
from factory.models.pool import ModelPool
from factory.models.scripted import ScriptedModel
from factory.refiner_data import gather
from factory.refiner_promotion import compare_refiners, is_better
from factory.refiner_training import put_in_charge
from factory.store.queries import read
from factory.store.rows import source_row
from factory.store.store import Store
from factory.types import Adapter


class Seen(NamedTuple):
    key: str
    is_faulty: bool
    is_flagged: bool
    is_right: bool


def faulty(num_right, num_wrong):
    right = [Seen(f"f{n}", True, True, True) for n in range(num_right)]
    return right + [Seen(f"f{num_right + n}", True, False, False) for n in range(num_wrong)]


def clean(num, num_damaged):
    return [Seen(f"c{n}", False, n < num_damaged, n >= num_damaged) for n in range(num)]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (faulty(10, 20) + clean(100, 0), faulty(20, 10) + clean(100, 0), "better"),
        (faulty(10, 20) + clean(100, 0), faulty(10, 20) + clean(100, 0), "no_better"),
        (faulty(20, 10) + clean(100, 0), faulty(10, 20) + clean(100, 0), "no_better"),
        (
            faulty(10, 5) + clean(100, 0),
            faulty(15, 0) + clean(100, 0),
            "not_significant",
        ),  # 5 : 0, p = 0.0625
        (faulty(10, 6) + clean(100, 0), faulty(16, 0) + clean(100, 0), "better"),  # 6 : 0, p = 1/32
        (faulty(10, 90) + clean(100, 1), faulty(100, 0) + clean(100, 3), "better"),
        (faulty(10, 90) + clean(100, 1), faulty(100, 0) + clean(100, 4), "more_damage"),
        (faulty(0, 10), faulty(10, 0), "better"),  # nothing is clean, so nothing can be damaged
    ],
)
def test_the_rule(old, new, reason):
    found = compare_refiners(old, new)
    assert (found.reason, found.promote) == (reason, reason == "better")
    assert is_better(old, new) is found.promote


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_never_both_ways_and_counts_add_up(pairs):
    old = [Seen(str(n), is_faulty, not right, right) for n, (is_faulty, right, _) in enumerate(pairs)]
    new = [Seen(str(n), is_faulty, not right, right) for n, (is_faulty, _, right) in enumerate(pairs)]
    there, back = compare_refiners(old, new), compare_refiners(new, old)
    assert not (there.promote and back.promote)
    assert there.new_right - there.old_right == there.num_better - there.num_worse
    assert (there.num_better, there.p_value) == (back.num_worse, back.p_value)
    assert not is_better(old, old)


def test_different_drafts_are_not_compared():
    for old, new in [([], []), (faulty(1, 0), faulty(2, 0)), (faulty(1, 0) * 2, faulty(1, 0) * 2)]:
        with pytest.raises(FactoryError):
            compare_refiners(old, new)


def adapter_at(folder, weights):
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_text(weights)
    return Adapter(folder, weights, "base", 1, 0.1, 1.0)


def test_what_stood_in_charge_is_kept_beside(tmp_path):
    for number, weights in enumerate(("one", "two", "three")):
        put_in_charge(adapter_at(tmp_path / f"candidate{number}", weights), tmp_path / "out" / "refiner")
    stand = {path.parent.name: path.read_text() for path in (tmp_path / "out").rglob("*.safetensors")}
    assert stand == {"refiner": "three", "refiner.before-1": "one", "refiner.before-2": "two"}
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="no adapter"):
        put_in_charge(adapter_at(tmp_path / "other", "x"), tmp_path / "mine")


# the command, with a trainer that only makes a folder, and models that know the answers or do not


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The template with right answers; `skill` says which of its adapters know what is wrong."""
    folder = tmp_path / "domain"
    write_template(folder)
    lines = []
    for index, section in enumerate(load(folder).sources):
        for number in range(4):
            row = {"id": f"c{index}-{number}", "question": f"Way {number} to ask what {section.title} is?"}
            row["answer"] = f"{section.text.split('.')[0]} ({section.citation})."
            lines.append({**row, "slice": section.slice, "source": section.key})
    (folder / "gold/refiner.jsonl").write_text("\n".join(map(json.dumps, lines)))
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["refiners"].append({"name": "edit"})
    recipe["models"]["refiner"] = {"server": "main", "adapter": "adapters/refiner"}
    (folder / "base").mkdir()
    (folder / "base" / "config.json").write_text("{}")
    (folder / "base" / "model.safetensors").write_text("x")
    recipe["training"] = {"refiner": {"base": "base"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    skill = {"nothing": False, "trained": True}

    class Folders:
        def train(self, dataset, base, directory, on_progress):
            if not directory.exists():
                adapter_at(directory, "trained")
            curve = ({"phase": "sft", "step": 3, "loss": 0.5}, {"phase": "kto", "step": 1, "loss": 0.4})
            return Adapter(directory, "d1g35t", base, 3, 0.5, 1.0, curve)

    def weights(adapter):
        return (adapter / "adapter_model.safetensors").read_text() if adapter else "nothing"

    async def model(self, role, adapter=None):
        name = weights(adapter)
        return ScriptedModel(lambda request: said(request.messages[-1].content, skill[name]), name)

    def said(prompt, knows):
        draft = known.get(prompt, drafts[0])  # what is not in the recipe is kept
        return json.dumps(target(draft if knows else replace(draft, corrected=draft.answer, reason="ok")))

    domain = load(folder)
    drafts = [each.draft for each in gather(domain, Mixture())[0]]
    chats = refiner_examples(domain, drafts)
    known = {chat["messages"][0]["content"]: draft for chat, draft in zip(chats, drafts, strict=True)}
    monkeypatch.setattr(Bench, "trainer", lambda self, role="student": (Folders(), "base"))
    monkeypatch.setattr(ModelPool, "model", model)
    monkeypatch.setattr(
        ModelPool, "model_id", lambda self, role, adapter=None: f"scripted:{weights(adapter)}"
    )
    return folder, skill


def train(folder, tmp_path, capsys):
    """What `factory refiner train` printed."""
    output, workspace = folder / "adapters" / "refiner", tmp_path / "w"
    words = [
        "refiner",
        "train",
        str(folder),
        "--output",
        str(output),
        "--workspace",
        str(workspace),
        "--json",
    ]
    assert cli.main(words) == 0
    return json.loads(capsys.readouterr().out)


def test_a_better_refiner_takes_charge_and_an_equal_one_does_not(library, tmp_path, capsys):
    folder, _ = library
    found = train(folder, tmp_path, capsys)
    output = folder / "adapters" / "refiner"
    assert found["promoted"] is True and found["in_charge"] == str(output)
    assert (output / "adapter_model.safetensors").read_text() == "trained"
    old, new = found["refiners"]
    assert old["fixed"] == 0 and new["fixed"] == 1 and new["right"] == found["held_out_drafts"]
    assert found["became_right"] == new["right"] - old["right"] and found["became_wrong"] == 0
    again = train(folder, tmp_path, capsys)
    assert (again["promoted"], again["reason"]) == (False, "no_better")
    assert again["in_charge"] == str(output) and not list(output.parent.glob("refiner.before*"))
    rows = read(
        tmp_path / "w",
        """SELECT stage, status, detail->>'promote' AS promote, detail->>'reason' AS reason FROM stages
           WHERE stage = 'promote_refiner' AND status = 'done' ORDER BY created_at""",
    ).rows
    assert [row[2:] for row in rows] == [("true", "better"), ("false", "no_better")]
    models = read(
        tmp_path / "w", "SELECT id, role, adapter IS NULL FROM models WHERE role = 'refiner' ORDER BY id"
    )
    assert models.rows == (("scripted:nothing", "refiner", True), ("scripted:trained", "refiner", False))
    curve = read(tmp_path / "w", "SELECT model_id, phase, step, loss FROM training_steps ORDER BY loss").rows
    assert curve == (("scripted:trained", "kto", 1, 0.4), ("scripted:trained", "sft", 3, 0.5))


def test_the_old_one_stays_where_the_new_one_is_worse(library, tmp_path, capsys):
    folder, skill = library
    adapter_at(folder / "adapters" / "refiner", "mine")
    skill.update({"mine": True, "trained": False})
    found = train(folder, tmp_path, capsys)
    assert (found["promoted"], found["reason"]) == (False, "no_better")
    assert (folder / "adapters" / "refiner" / "adapter_model.safetensors").read_text() == "mine"
    assert found["became_wrong"] > 0


def test_without_a_step_that_edits_nothing_is_trained(library, tmp_path, capsys):
    folder, _ = library
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "refiners": [{"name": "form"}]}))
    assert (
        cli.main(["refiner", "train", str(folder), "--output", "o", "--workspace", str(tmp_path / "w")]) == 2
    )
    assert "no step 'edit'" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_verdicts_become_pairs_where_the_recipe_trains_preferences(library, tmp_path, capsys):
    folder, _ = library
    domain = load(folder)
    held_out = {each.draft.source_key for each in gather(domain, Mixture())[0] if each.is_held_out}
    domain = replace(domain, sources=tuple(s for s in domain.sources if s.key not in held_out))
    with Store.open(tmp_path / "w") as store:
        store.append("sources", [source_row(source) for source in domain.sources])
        kept, _ = asked(store, domain, 1, "In 14 days.")
        say(store, kept, "edit", corrected="In 21 days.", reason="wrong_quantity")
    assert train(folder, tmp_path, capsys)["training_preferences"] == 0
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["training"]["refiner"]["preference"] = {"num_epochs": 1.0}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = train(folder, tmp_path, capsys)
    assert found["training_preferences"] == 1
    (dataset,) = [path for path in (tmp_path / "w" / "datasets").iterdir() if "chosen" in path.read_text()]
    lines = [json.loads(line) for line in dataset.read_text("utf-8").splitlines()]
    assert len(lines) == found["training_drafts"] + 1 and set(lines[-1]) == {"prompt", "chosen", "rejected"}
    recipe["training"]["refiner"]["preference"] = {"method": "kto"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    found = train(folder, tmp_path, capsys)
    assert found["training_preferences"] == 2
    (dataset,) = [path for path in (tmp_path / "w" / "datasets").iterdir() if "label" in path.read_text()]
    lines = [json.loads(line) for line in dataset.read_text("utf-8").splitlines()]
    assert [line["label"] for line in lines[-2:]] == [False, True]


def test_evaluate_asks_the_drafts_that_training_held_out(library, tmp_path, capsys):
    folder, _ = library
    domain = load(folder)
    held_out = {each.draft.source_key for each in gather(domain, Mixture())[0] if each.is_held_out}
    only = replace(domain, sources=tuple(s for s in domain.sources if s.key in held_out))
    with Store.open(tmp_path / "w") as store:
        store.append("sources", [source_row(source) for source in only.sources])
        kept, _ = asked(store, only, 1, "In 14 days.")
        say(store, kept, "keep")
    train(folder, tmp_path, capsys)
    assert cli.main(["refiner", "evaluate", str(folder), "--workspace", str(tmp_path / "w")]) == 0
    asked_of = """SELECT list((draft_key, answer, expected) ORDER BY draft_key) AS drafts
                  FROM refiner_evaluation_items GROUP BY evaluation_id"""
    of_training, *others = (row[0] for row in read(tmp_path / "w", asked_of).rows)
    assert len(others) >= 1 and all(drafts == of_training for drafts in others)
    assert kept.id in str(of_training)
