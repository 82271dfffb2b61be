"""The refiner's drafts: split by section, mixed as asked, from every origin, the same each time."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from factory import cli
from factory.corruption.case import squeezed
from factory.corruption.kinds import BUILT_IN, OFF_SOURCE
from factory.edits import Op, apply, target
from factory.errors import RecipeError
from factory.gold import DraftLine, read_lines
from factory.init import write_template
from factory.labels import Mixture, held_out_sections, label
from factory.load import load
from factory.refiner_data import for_training, held_out, summary
from factory.types import CheckedDraft

ROOT = Path(__file__).parents[1]
GEORGIA = ROOT / "recipes" / "georgia_workers_comp"


@pytest.fixture(scope="module")
def domain():
    return load(GEORGIA, "tiny")


def counted(labelled):
    return Counter((each.origin, each.draft.reason, each.is_held_out) for each in labelled)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 9),
    num=st.none() | st.integers(1, 80),
    faults=st.integers(0, 5),
    share=st.sampled_from([0.1, 0.2, 0.5]),
)
def test_sides_share_no_section_and_everything_is_there_once(domain, seed, num, faults, share):
    mixture = Mixture(faults_each=faults, num_examples=num, held_out_share=share, seed=seed)
    made = label(domain, mixture)
    assert made == label(domain, mixture)
    learned, measured = for_training(made), held_out(made)
    assert not {draft.source_key for draft in learned} & {draft.source_key for draft in measured}
    ours = [
        each for each in made if each.origin == "corrupted"
    ]  # a given draft may ask about another section
    asked = [
        {squeezed(each.draft.question) for each in ours if each.is_held_out is side} for side in (False, True)
    ]
    assert not asked[0] & asked[1]
    assert len({each.draft.key for each in made}) == len(made) == len(learned) + len(measured)
    shown = summary(made, {})
    assert sum(row["training"] for row in shown["kinds"]) == shown["training"] == len(learned)
    assert sum(row["held_out"] for row in shown["kinds"]) == shown["held_out"] == len(measured)
    clean = sum(draft.corrected == draft.answer for draft in learned)
    assert clean * 2 >= len(learned) - 1
    for draft in learned + measured:
        answer = target(draft)
        if answer["verdict"] == "edit":
            assert apply([Op(**op) for op in answer["ops"]], draft.answer) == draft.corrected


def test_the_held_out_side_does_not_depend_on_how_much_is_learned(domain):
    few, many = (label(domain, Mixture(num_examples=num, faults_each=num)) for num in (5, 20))
    assert held_out(few) == held_out(many)
    assert len(for_training(few)) < len(for_training(many))


def test_no_corruption_for_training_takes_anything_from_the_held_out_side(domain):
    made = label(domain, Mixture())
    sections = {each.draft.source_key for each in made if each.is_held_out}
    theirs = {squeezed(domain.source_by_key[key].citation) for key in sections}
    theirs -= {squeezed(source.citation) for source in domain.sources if source.key not in sections}
    assert theirs
    for draft, origin, is_held_out in made:
        if origin == "corrupted" and not is_held_out:
            assert not any(f"({cited})" in squeezed(draft.answer) for cited in theirs), draft


def test_kinds_are_level(domain):
    made = label(domain, Mixture())
    counts = Counter(each.draft.reason for each in made if not each.is_held_out)
    counts.pop("ok")
    assert max(counts.values()) - min(counts.values()) <= 2
    assert {"wrong_quantity", "wrong_citation", "truncated", OFF_SOURCE} < set(counts)


def test_a_section_stays_on_its_side_when_others_come():
    mixture = Mixture()
    keys = [f"section-{number}" for number in range(200)]
    few, many = held_out_sections(keys[:100], mixture), held_out_sections(keys, mixture)
    assert few == many & set(keys[:100])
    assert 20 <= len(many) <= 60
    assert held_out_sections(["one"], mixture) == set()
    assert len(held_out_sections(["one", "two"], mixture)) == 1


def test_half_is_clean_and_right_answers_are_repeated_for_training_alone(domain):
    made = label(domain, Mixture(num_examples=50))
    learned = for_training(made)
    assert sum(draft.corrected == draft.answer for draft in learned) == len(learned) // 2
    assert not [draft for draft in held_out(made) if "#" in draft.key]
    quarter = for_training(label(domain, Mixture(num_examples=50, clean_share=0.0)))
    assert not [draft for draft in quarter if "#" in draft.key]


def test_a_clean_answer_of_one_draft_is_no_fault_of_another(domain):
    made = label(domain, Mixture())
    right = {
        (draft.source_key, squeezed(draft.question), squeezed(draft.corrected))
        for draft, _, _ in made
        if draft.corrected
    }
    for draft, origin, _ in made:
        if origin == "corrupted" and draft.corrected:
            assert (draft.source_key, squeezed(draft.question), squeezed(draft.answer)) not in right


def test_people_outrank_the_recipe_and_the_recipe_a_teacher(domain):
    given_draft = next(draft for draft in domain.drafts if draft.reason == "ok")
    teacher = replace(given_draft, key="t", corrected="something else", reason="revised")
    made = label(domain, Mixture(), [(teacher, "rewritten")])
    assert "t" not in {each.draft.key for each in made}
    person = replace(given_draft, key="p", corrected=None, reason="useless")
    made = label(domain, Mixture(), [(person, "verdict")])
    found = [each for each in made if each.draft.key in ("p", given_draft.key)]
    assert [(each.origin, each.draft.reason) for each in found] == [("verdict", "useless")]


def test_nothing_to_start_from_is_said(domain):
    with pytest.raises(RecipeError, match="no checked draft"):
        label(replace(domain, drafts=()), Mixture())
    lost = CheckedDraft("d", "q?", "a", "a", "ok", "no-such-section", "s")
    with pytest.raises(RecipeError, match="'no-such-section'"):
        label(replace(domain, drafts=(lost,)), Mixture())


LINE = {"id": "1", "question": "How long?", "answer": "30 days", "slice": "s", "source": "k"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, ("30 days", "ok")),
        ({"corrected": None, "reason": "off_source"}, (None, "off_source")),
        ({"corrected": None}, "reason"),
        ({"reason": "wrong_unit"}, "corrected"),
    ],
)
def test_a_checked_answer_needs_neither_correction_nor_reason(tmp_path, more, told):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({**LINE, **more}))
    if isinstance(told, tuple):
        draft = read_lines(DraftLine, path, {"k": "s"})[0].line.value()
        assert (draft.corrected, draft.reason) == told
    else:
        with pytest.raises(RecipeError, match=told):
            read_lines(DraftLine, path, {"k": "s"})


# the command


@pytest.fixture
def library(tmp_path):
    """The template with checked answers alone, one of them hostile to a terminal."""
    write_template(tmp_path / "domain")
    folder = tmp_path / "domain"
    sections = load(folder).sources
    lines = [
        {
            "id": f"c{index}",
            "question": f"What does section {index} say about this?",
            "answer": f"{section.text.split('.')[0]} ({section.citation}).",
            "slice": section.slice,
            "source": section.key,
        }
        for index, section in enumerate(sections)
    ]
    lines.append(
        {**lines[0], "id": "evil", "question": "Is it safe here now?", "answer": "\x1b[2J[red]30 days"}
    )
    (folder / "gold/refiner.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_data_shows_counts_and_writes_both_sides(library, tmp_path, capsys):
    chats, drafts = tmp_path / "chats.jsonl", tmp_path / "drafts.jsonl"
    files = ["--output", str(chats), "--held-out", str(drafts)]
    assert cli.main(["refiner", "data", str(library), "--json", *files]) == 0
    shown = json.loads(capsys.readouterr().out)
    lines = chats.read_text("utf-8").splitlines()
    assert len(lines) == shown["training"] > 0
    assert {message["role"] for message in json.loads(lines[0])["messages"]} == {"user", "assistant"}
    slices = {source.key: source.slice for source in load(library).sources}
    again = read_lines(DraftLine, drafts, slices)
    assert len(again) == shown["held_out"] > 0
    kinds = {row["kind"] for row in shown["kinds"] if row["origin"] == "corrupted"}
    assert kinds | set(shown["inapplicable"]) == {*BUILT_IN, OFF_SOURCE} and len(kinds) > 4


def test_the_table_is_safe_for_a_terminal(library, capsys):
    assert cli.main(["refiner", "data", str(library)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "drafts" in out and "wrong_quantity" in out


def test_a_recipe_without_drafts_is_told(library, capsys):
    recipe = yaml.safe_load((library / "recipe.yaml").read_text())
    del recipe["gold"]["refiner"]
    (library / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert cli.main(["refiner", "data", str(library)]) == 2
    assert "gold.refiner: there is no checked draft" in capsys.readouterr().err
