"""The beekeeping club: its files, its recipe, and drafts that have the faults they are said to have."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from factory.check import check_recipe
from factory.edits import apply, diff
from factory.load import load
from tiny import build_beekeeping as bees

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "beekeeping"
sys.path.insert(0, str(ROOT))

from benchmarks.refiner import split  # noqa: E402


def test_the_files_are_what_beekeeping_yaml_says():
    slices, sections = bees.read()
    assert bees.faults(sections) == []
    for name, text in bees.build(slices, sections).items():
        assert (RECIPE / name).read_text("utf-8") == text, name


@pytest.mark.parametrize("profile", ["tiny", "one_gpu"])
def test_the_recipe_checks(profile):
    totals = check_recipe(RECIPE, profile)["slices"][-1]
    assert (totals["sources"], totals["drafts"], totals["dev"], totals["test"]) == (42, 840, 42, 42)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"held_out": "Tell me, which wood is the brood box of?"}, "shares 'which wood is the'"),
        ({"marked": "The brood box is made of [{n|cedar|floor}]."}, "'floor' stands in the text"),
    ],
)
def test_what_would_spoil_the_measure_is_told(change, fault):
    _, sections = bees.read()
    fact = replace(sections[0].facts[0], **change)
    changed = replace(sections[0], facts=(fact, *sections[0].facts[1:]))
    assert any(fault in line for line in bees.faults([changed, *sections[1:]]))


def test_half_of_the_drafts_are_clean_and_the_others_have_every_kind_of_fault():
    domain = load(RECIPE, "tiny")
    kinds = Counter(draft.reason for draft in domain.drafts)
    assert kinds["ok"] == len(domain.drafts) / 2
    assert set(kinds) == {*bees.KINDS.values(), "ok", "wrong_citation", "malformed_citation"} | {
        "truncated",
        "off_source",
    }
    assert min(kinds.values()) >= 15


def test_a_draft_is_right_just_where_its_section_says_it_with_its_citation():
    domain = load(RECIPE, "tiny")
    for draft in domain.drafts:
        source = domain.source_by_key[draft.source_key]
        if draft.corrected is None:
            assert draft.reason == "off_source"
            continue
        body, _, cite = draft.corrected.removesuffix(".").rpartition(" (")
        assert body in source.text and cite == f"{source.citation})", draft
        assert (draft.reason == "ok") == (draft.answer == draft.corrected), draft
        assert apply(diff(draft.answer, draft.corrected), draft.answer) == draft.corrected


def test_held_out_drafts_cite_other_sections_and_smaller_trainings_stand_in_larger_ones():
    domain = load(ROOT / "recipes" / "georgia_workers_comp", "tiny")
    trained, tested = split(domain, 1)
    cited = [
        {domain.source_by_key[draft.source_key].citation for draft in part} for part in (trained, tested)
    ]
    assert not cited[0] & cited[1] and len(trained) + len(tested) == len(domain.drafts)
    assert split(domain, 1) == (trained, tested) != split(domain, 2)
