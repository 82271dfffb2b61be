from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.domain import Domain
from factory.errors import RecipeError
from factory.gold import normalise
from factory.init import write_template
from factory.load import load_domain, load_recipe
from factory.nearest import SourceIndex
from factory.recipe import SourcesSpec
from factory.sources import read_sources, slug
from factory.types import Source

HANDBOOK = """\ufeff# Title

A disclaimer that is no section.

## Notice and claims

### § 34-9-80 Notice of injury

Within 30 days.

#### A detail
still the same section

```
### not a heading
```

### § 34-9-200.1 — Suppliers: who pays?

The insurer.

## Fees, etc.

Between sections: not read.

### Without citation
Free.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_template(tmp_path / "domain")
    return tmp_path / "domain"


def load(folder: Path) -> Domain:
    return load_domain(*load_recipe(folder, None))


def cut(tmp_path: Path, text: str, name: str = "hand_book.md", **spec: int) -> tuple[Source, ...]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_sources(SourcesSpec(paths=[name], **spec), tmp_path)


def test_headings_cut_a_handbook_into_sections(tmp_path: Path) -> None:
    first, second, third = cut(tmp_path, HANDBOOK)
    assert (first.key, first.citation, first.title) == (
        "34-9-80-notice-of-injury",
        "§ 34-9-80",
        "Notice of injury",
    )
    assert first.slice == second.slice == "notice_and_claims"
    assert first.text.startswith("Within 30 days.")
    assert "still the same section" in first.text
    assert "### not a heading" in first.text
    assert (second.key, second.title) == ("34-9-200.1-suppliers-who-pays", "Suppliers: who pays?")
    assert (third.key, third.citation, third.slice) == ("without-citation", "", "fees_etc")
    assert "not read" not in "".join(source.text for source in (first, second, third))


def test_a_section_keeps_its_key_and_changes_its_id_with_its_text(tmp_path: Path) -> None:
    old = cut(tmp_path, HANDBOOK)[0]
    new = cut(tmp_path, HANDBOOK.replace("30 days", "45 days"))[0]
    assert (old.key, old.path) == (new.key, "hand_book.md")
    assert old.id != new.id


def test_other_levels_and_line_ends(tmp_path: Path) -> None:
    sources = cut(tmp_path, "# A b\r\n## 1.2 C\r\ntext\r\n", section_heading=2, slice_heading=1)
    assert [(s.key, s.slice, s.text) for s in sources] == [("1.2-c", "a_b", "text")]
    assert cut(tmp_path, "### Alone\nx")[0].slice == "hand_book"


def test_a_text_file_is_one_section_in_the_slice_of_its_folder(tmp_path: Path) -> None:
    for name, text in (("a.txt", "Alpha."), ("b.txt", "Beta.")):
        (tmp_path / "Late fees").mkdir(exist_ok=True)
        (tmp_path / "Late fees" / name).write_text(text)
    sources = read_sources(SourcesSpec(paths=["**/*.txt", "Late fees/a.txt"]), tmp_path)
    assert [(s.key, s.slice, s.text) for s in sources] == [
        ("a", "late_fees", "Alpha."),
        ("b", "late_fees", "Beta."),
    ]
    absolute = read_sources(SourcesSpec(paths=[str(tmp_path / "Late fees" / "*.txt")]), tmp_path)
    assert absolute == sources


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# Only a title\n", ["no section", "'### '", "section_heading"]),
        ("### A\n\n### B\ntext\n### C\n", ["hand_book.md:1", "without text", "lines 1, 5"]),
        ("### A\nx\n## S\n### a.\ny\n", ["hand_book.md:4", "'a' is also at", "hand_book.md:1"]),
        ("a\0b", ["no text", "convert"]),
    ],
)
def test_a_handbook_that_cannot_be_used_is_told(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        cut(tmp_path, text)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_source_that_is_not_there_is_told_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sources.paths\[1\]: there is no file .*nothing\*\.md"):
        cut(tmp_path, HANDBOOK)
        read_sources(SourcesSpec(paths=["hand_book.md", "nothing*.md"]), tmp_path)


@given(st.text())
def test_a_slug_is_stable_and_plain(text: str) -> None:
    made = slug(text)
    assert slug(made) == made
    assert not any(sign.isspace() or sign in "/\\_" for sign in made)


def test_the_template_loads(folder: Path) -> None:
    domain = load(folder)
    assert domain.slices == ("borrowing", "fees")
    assert len(domain.sources) == 5
    assert domain.source_by_key["rule-1.3-renewal"].citation == "Rule 1.3"
    assert domain.seeds[0].source_key == "rule-1.1-loan-period"
    assert [draft.corrected is None for draft in domain.drafts] == [False, False, True]


GOOD = {"id": "x", "question": "Why?", "answer": "So.", "slice": "fees"}
LINES = {
    "no_json": ('{"id": ', ["dev.jsonl:4", "not JSON", "one object a line"]),
    "no_object": ("[1]", ["dev.jsonl:4", "JSON object"]),
    "missing": (json.dumps({"id": "x", "question": "q", "slice": "s"}), ["dev.jsonl:4 answer", "missing"]),
    "wrong_type": (json.dumps(GOOD | {"answer": 3}), ["dev.jsonl:4 answer", "valid string", "found 3"]),
    "unknown_key": (json.dumps(GOOD | {"souce": "s"}), ["dev.jsonl:4 souce", "did you mean 'source'"]),
    "unknown_source": (
        json.dumps(GOOD | {"source": "rule-2.1-late-returns"}),
        ["dev.jsonl:4 source", "no section", "did you mean 'rule-2.1-late-return'"],
    ),
    "wrong_slice": (
        json.dumps(GOOD | {"slice": "fee", "source": "rule-2.1-late-return"}),
        ["dev.jsonl:4 slice", "'fee' is not the slice", "that is 'fees'"],
    ),
    "empty": (json.dumps(GOOD | {"question": " "}), ["dev.jsonl:4 question", "must not be empty"]),
    "id_twice": (json.dumps(GOOD | {"id": "dev-late"}), ["dev.jsonl:4 id", "also at", "dev.jsonl:3"]),
    "surrogate": (json.dumps(GOOD | {"question": "\ud800"}), ["dev.jsonl:4 question", "half a character"]),
    "in_test": (
        json.dumps(GOOD | {"question": "Is there a CEILING on overdue charges, for one item"}),
        ["test.jsonl:2 question", "also at", "dev.jsonl:4", "nowhere else"],
    ),
    "in_drafts": (
        json.dumps(GOOD | {"question": "how often may I renew"}),
        ["dev.jsonl:4 question", "refiner.jsonl:2"],
    ),
    "in_seeds": (
        json.dumps(GOOD | {"question": "What does a late return cost?"}),
        ["dev.jsonl:4 question", "seeds.jsonl:4"],
    ),
    "twice": (
        json.dumps(GOOD | {"question": "A DVD came back ten days after it was due; what do we owe?"}),
        ["dev.jsonl:4 question", "dev.jsonl:3"],
    ),
    "nearly_in_seeds": (
        json.dumps(GOOD | {"question": "please How long may I keep a book?"}),
        ["dev.jsonl:4 question", "nearly", "seeds.jsonl:1", "nowhere else"],
    ),
    "nearly_in_drafts": (
        json.dumps(GOOD | {"question": "And so, how many days is the loan period?"}),
        ["dev.jsonl:4 question", "nearly", "refiner.jsonl:1"],
    ),
    "unknown_slice": (
        json.dumps(GOOD | {"slice": "feees"}),
        ["dev.jsonl:4 slice", "'feees'", "no source or seed", "borrowing, fees"],
    ),
    "deep": ("[" * 100_000, ["dev.jsonl:4", "not JSON"]),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_is_told_with_file_and_line(folder: Path, name: str) -> None:
    text, words = LINES[name]
    with (folder / "gold" / "dev.jsonl").open("a") as file:
        file.write(text + "\n")
    with pytest.raises(RecipeError) as caught:
        load(folder)
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)


def test_a_slice_may_be_a_strategys_own(folder: Path) -> None:
    """A seed, a topic or a row names a slice as well as a section does; magpie takes those that are there."""
    with (folder / "gold" / "test.jsonl").open("a") as file:
        file.write(json.dumps(GOOD | {"slice": "rooms"}) + "\n")
    recipe = folder / "recipe.yaml"
    own = recipe.read_text().replace("{name: seeded, weight: 1}", "{name: taxonomy, topics: [Rooms, Fees]}")
    magpie = own.replace("{name: taxonomy, topics: [Rooms, Fees]}", "{name: magpie}")
    recipe.write_text(own)
    assert load(folder).test[-1].slice == "rooms"
    recipe.write_text(magpie)
    with pytest.raises(RecipeError, match=r"test.jsonl:4 slice: .*'rooms'"):
        load(folder)
    (folder / "seeds.jsonl").write_text(json.dumps({"id": "r", "prompt": "Which room?", "slice": "rooms"}))
    assert load(folder).test[-1].slice == "rooms"


def test_a_domain_of_neither_sources_nor_seeds_has_the_slices_of_its_gold(folder: Path) -> None:
    (folder / "profiles" / "alone.yaml").write_text(
        "{sources: {paths: []}, seeds: null, gold: {refiner: null}, strategies: [{name: magpie}]}"
    )
    for name in ("dev", "test"):
        path = folder / "gold" / f"{name}.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("\n".join(json.dumps({**line, "source": None}) for line in lines))
    assert load_domain(*load_recipe(folder, "alone")).slices == ("borrowing", "fees")


def test_files_that_are_missing_empty_or_not_utf8_are_told(folder: Path) -> None:
    (folder / "seeds.jsonl").write_text("\n\n")
    with pytest.raises(RecipeError, match="no seeds"):
        load(folder)
    (folder / "seeds.jsonl").write_bytes(b'\n{"id": "\xe9"}')
    with pytest.raises(RecipeError, match=r"seeds.jsonl:2: not UTF-8"):
        load(folder)
    (folder / "seeds.jsonl").unlink()
    with pytest.raises(RecipeError, match=r"seeds: there is no file"):
        load(folder)


def test_blank_lines_and_line_separators_inside_texts_do_no_harm(folder: Path) -> None:
    with (folder / "gold" / "dev.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(GOOD | {"answer": "one\u2028two"}, ensure_ascii=False) + "\n\n")
    assert load(folder).dev[-1].answer == "one\u2028two"


def test_questions_are_compared_by_their_words() -> None:
    assert normalise("  Why, THEN?\n") == normalise("why then") != normalise("why now")


def test_the_nearest_section_shares_the_rare_words(folder: Path) -> None:
    domain = load(folder)
    for question, key in (
        ("How many days may I keep a book that I borrowed?", "rule-1.1-loan-period"),
        ("What is owed for items which were lost?", "rule-2.2-lost-items"),
        ("Two renewals of a reserved loan, can I?", "rule-1.3-renewal"),
    ):
        found = domain.nearest_source(question)
        assert found is not None
        assert found.key == key
    assert domain.nearest_source("How fast does an unladen swallow fly?") is None
    assert domain.nearest_source("") is None


def test_a_citation_narrows_the_search(folder: Path) -> None:
    domain = load(folder)
    found = domain.nearest_source("What does a lost item cost? (rule  2.1)")
    assert found is not None
    assert found.key == "rule-2.1-late-return"
    unknown = domain.nearest_source("What does a lost item cost? (Rule 9.9)")
    assert unknown is not None
    assert unknown.key == "rule-2.2-lost-items"
    elsewhere = domain.nearest_source(
        "How often can a loan be renewed, and what does a late one cost?", "fees"
    )
    assert elsewhere is None or elsewhere.slice == "fees"


def test_a_citation_is_not_found_within_a_longer_one() -> None:
    sources = [
        Source.create(c, "p", f"§ 34-9-{c}", "Same", "same words", "s") for c in ("20", "200", "200.1")
    ]
    index = SourceIndex(sources)
    for source in sources:
        assert index.find(f"zzz §{source.citation[2:]}.") == source


def test_every_section_is_nearest_to_itself(folder: Path) -> None:
    domain = load(folder)
    assert [domain.nearest_source(f"{s.title} {s.text}") for s in domain.sources] == list(domain.sources)
