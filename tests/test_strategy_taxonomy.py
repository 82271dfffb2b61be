"""Topics as tree, graph, qna.yaml or grown by the teacher: each end in its turn, growth paid for once."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategy_kit import (
    Teacher,
    answer,
    build,
    check_page,
    check_repeats,
    domain_of,
    fate,
    generate,
    relations,
)

from factory.errors import RecipeError
from factory.layers import read_layer
from factory.types import Seed, Source
from generators.topics import read_topics

TREE = """
tree:
  Claims:
    notice: [oral notice, notice to a foreman]
    filing:
  Benefits:
    - wage
    - {care: [doctor, travel]}
    - other: rent
"""
GRAPH = """
graph:
  Claims: [notice, deadlines]
  Appeals: [hearing]
  hearing: [deadlines]
  notice:
"""
SKILL = """
version: 2
task_description: Write limericks.
created_by: someone
seed_examples:
  - question: Write a limerick about a cat.
    answer: There once was a cat.
    attribution: [{source: self, license: Apache-2.0}]
  - question: Write a limerick about a dog.
    answer: There once was a dog.
  - question: Write a limerick about the person in the text.
    context: Ann is a roofer.
    answer: There once was a roofer named Ann.
"""
KNOWLEDGE = """
version: 3
created_by: someone
domain: Astronomy
document_outline: The stars of Phoenix
seed_examples:
  - context: Phoenix is a minor constellation in the southern sky.
    questions_and_answers:
      - {question: 'What is Phoenix?', answer: A minor constellation.}
      - {question: 'Where is it?', answer: In the southern sky.}
  - context: It was named by Plancius.
    questions_and_answers:
      - {question: 'Who named it?', answer: Plancius.}
document: {repo: 'https://example.org/x.git', commit: abc, patterns: ['*.md']}
"""


def file_of(folder: Path, text: str, name: str = "topics.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def good(prompt: str) -> str:
    topic = re.search(r"Topic: (.*)", prompt)[1]
    if prompt.startswith("List "):
        return answer(topics=[f"{topic[-1]}{letter}" for letter in "abc"] + ["", "dropped"])
    return answer(question=f"What about {topic}?", answer="This.")


def test_the_ends_of_a_tree_are_its_topics(tmp_path):
    assert read_topics(read_layer(file_of(tmp_path, TREE))) == [
        ("Claims", "notice", "oral notice"),
        ("Claims", "notice", "notice to a foreman"),
        ("Claims", "filing"),
        ("Benefits", "wage"),
        ("Benefits", "care", "doctor"),
        ("Benefits", "care", "travel"),
        ("Benefits", "other", "rent"),
    ]


def test_a_graph_is_covered_from_each_root_by_shortest_paths(tmp_path):
    assert read_topics(read_layer(file_of(tmp_path, GRAPH))) == [
        ("Claims", "notice"),
        ("Claims", "deadlines"),
        ("Appeals", "hearing", "deadlines"),
    ]


@given(st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4), min_size=1))
def test_every_end_of_a_graph_is_reached_from_each_root_above_it(links):
    """Links to smaller numbers only, so that there is no circle."""
    import tempfile

    import yaml

    graph = {f"t{n}": sorted({f"t{m}" for m in below if m < n}) for n, below in links.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = file_of(Path(folder), yaml.safe_dump({"graph": graph}))
        paths = read_topics(read_layer(path))

    def ends(topic: str) -> set[str]:
        below = graph.get(topic) or []
        return set().union(*map(ends, below)) if below else {topic}

    inner = {name for below in graph.values() for name in below}
    expected = {(root, end) for root in graph if root not in inner for end in ends(root)}
    assert {(path[0], path[-1]) for path in paths} == expected and len(paths) == len(expected)
    assert all(b in graph[a] for path in paths for a, b in pairwise(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("graph:\n  a: [b]\n  b: [c]\n  c: [a]\n", r"topics.yaml:\d.*circle: "),
        ("graph: [a]", "mapping of topics"),
        ("graph:\n  a: b\n", r"topics.yaml:2.*must be a list"),
        ("tree:\n  a:\n    - 7\n", r"topics.yaml:3.*quotes"),
        ("tree:\n  a: 7\n", r"topics.yaml:2.*quotes"),
        ("tree:\n  7: a\n", r"topics.yaml:1.*text"),
        ("tree:\n  a: [b, b]\n", r"topics.yaml:2.*twice"),
        ("tree:\n  a: ['??']\n", r"topics.yaml:2.*no name"),
        ("tree:\n", "no topics"),
        ("graph: {}\n", "no topics"),
        ("tree: [a]\nroot: b\n", "unknown key 'root'"),
        ("topics: [a]\n", "`tree`, `graph` or"),
        ("- a\n", "mapping"),
    ],
)
def test_what_is_no_taxonomy_is_told_with_its_line(tmp_path, text, words):
    file_of(tmp_path, text)
    with pytest.raises(RecipeError, match=words) as caught:
        build("taxonomy", domain_of(tmp_path), file="topics.yaml")
    assert "topics.yaml" in str(caught.value) and "\n" not in str(caught.value)


async def test_each_topic_gets_its_turn_and_stands_in_the_sample(tmp_path):
    file_of(tmp_path, TREE)
    strategy = build("taxonomy", domain_of(tmp_path), file="topics.yaml")
    assert set(strategy.slices) == {"claims", "benefits"}
    teacher = Teacher(good)
    made = await generate(tmp_path / "w", strategy, teacher, {"claims": 6, "benefits": 4})
    topics = Counter(sample.attributes["topic"] for _, (sample,) in made)
    assert len(teacher.requests) == 10 and strategy.num_shared_calls == 0
    assert topics["Claims > notice > oral notice"] == topics["Claims > filing"] == 2
    assert topics["Benefits > care > travel"] == 1
    for task, (sample,) in made:
        assert sample.question == f"What about {sample.attributes['topic']}?"
        assert sample.parents[0].id == task.seeds[0].id in {seed.id for seed in strategy.material}
    assert "Cite the rule." in teacher.prompts[0] and "Field: Small law" in teacher.prompts[0]


async def test_a_question_is_tied_to_the_section_that_it_is_about(tmp_path):
    file_of(tmp_path, "tree: {Claims: [appeal], Elsewhere: [wage]}")
    strategy = build("taxonomy", domain_of(tmp_path), file="topics.yaml")
    reply = Teacher(lambda p: answer(question=f"What {p.split('> ')[1].split()[0]} limit?", answer="2 days"))
    made = await generate(tmp_path / "w", strategy, reply, {"claims": 1, "elsewhere": 1})
    keys = {task.slice: sample.attributes["source_key"] for task, (sample,) in made}
    assert keys == {"claims": "rule-2", "elsewhere": "rule-3"}


def test_slices_lie_at_the_level_that_is_asked_for(tmp_path):
    file_of(tmp_path, TREE)
    strategy = build("taxonomy", domain_of(tmp_path), file="topics.yaml", slice_level=2)
    assert set(strategy.slices) == {"notice", "filing", "wage", "care", "other"}
    file_of(tmp_path, GRAPH)
    with pytest.raises(RecipeError, match="level 1"):
        build("taxonomy", domain_of(tmp_path), file="topics.yaml", slice_level=2)


async def test_topics_are_grown_once_and_covered_evenly(tmp_path):
    strategy = build("taxonomy", topics=["Claims", "Wage loss"], grow_levels=2, num_subtopics=3)
    assert set(strategy.slices) == {"claims", "wage_loss"}
    teacher = Teacher(good)
    made = await generate(tmp_path, strategy, teacher, {"claims": 18, "wage_loss": 9})
    growing = [prompt for prompt in teacher.prompts if prompt.startswith("List ")]
    assert len(growing) == len(set(growing)) == strategy.num_shared_calls == 2 * (1 + 3)
    topics = Counter(sample.attributes["topic"] for _, (sample,) in made)
    assert set(Counter(t for t in topics.elements() if t.startswith("Claims")).values()) == {2}
    assert len(topics) == 18 and topics["Claims > sa > ac"] == 2
    assert not any("dropped" in topic for topic in topics)
    assert all(relations(sample).count("call") == 3 for _, (sample,) in made)


async def test_the_slices_of_the_domain_are_the_topics_where_none_are_given(tmp_path):
    strategy = build("taxonomy", grow_levels=1)
    assert set(strategy.slices) == {"claims", "benefits"}
    made = await generate(tmp_path, strategy, Teacher(good), {"claims": 2})
    assert all(sample.slice == "claims" for _, (sample,) in made)


@pytest.mark.parametrize("text", ["none", '{"topics": []}', '{"topics": ["Claims", "?"]}', '{"topics": 3}'])
async def test_a_topic_that_could_not_be_divided_stays_whole(tmp_path, text):
    teacher = Teacher(lambda prompt: text if prompt.startswith("List") else good(prompt))
    made = await generate(
        tmp_path, build("taxonomy", topics=["Claims"], grow_levels=3), teacher, {"claims": 3}
    )
    assert [sample.attributes["topic"] for _, (sample,) in made] == ["Claims"] * 3
    assert len(teacher.requests) == 1 + 3


async def test_running_again_asks_nothing(tmp_path):
    strategy = build("taxonomy", topics=["Claims", "Wage"], grow_levels=2)
    await check_repeats(tmp_path, strategy, Teacher(good), {"claims": 20, "wage": 7})


@pytest.mark.parametrize(("text", "fault"), [("hm", "not_json"), ('{"question": "Q?"}', "missing_key")])
async def test_a_malformed_answer_is_kept_whole(tmp_path, text, fault):
    strategy = build("taxonomy", topics=["Claims"])
    ((_, (sample,)),) = await generate(tmp_path, strategy, Teacher(lambda _: text), {"claims": 1})
    assert sample.answer == text and await fate(sample) == fault


async def test_a_folder_of_instructlab_files_is_read_as_it_is(tmp_path):
    file_of(tmp_path, SKILL, "tax/compositional_skills/writing/limerick/qna.yaml")
    file_of(tmp_path, KNOWLEDGE, "tax/knowledge/science/astronomy/qna.yaml")
    strategy = build("taxonomy", domain_of(tmp_path), file="tax", slice_level=3, num_examples=1)
    assert set(strategy.slices) == {"limerick", "astronomy"}
    teacher = Teacher(good)
    made = await generate(tmp_path / "w", strategy, teacher, {"limerick": 4, "astronomy": 4})
    skills = [sample for _, (sample,) in made if sample.slice == "limerick"]
    facts = [(task, sample) for task, (sample,) in made if sample.slice == "astronomy"]
    topic = "compositional_skills > writing > limerick"
    # The context of a skill belongs to the question; a skill without one has none.
    assert Counter(sample.question for sample in skills) == {
        f"What about {topic}?": 2,
        f"Ann is a roofer.\n\nWhat about {topic}?": 2,
    }
    contexts = {item.id: item for item in strategy.material if isinstance(item, Source)}
    seeds = {item.id for item in strategy.material if isinstance(item, Seed)}
    for task, sample in facts:
        assert relations(sample) == ["seed", "seed", "source", "call"]
        assert {sample.parents[0].id, sample.parents[1].id} <= seeds
        assert contexts[sample.parents[2].id].text == task.source.text not in sample.question
    shown = [prompt for prompt in teacher.prompts if "Who named it?" in prompt]
    assert len(shown) == 2 and all("It was named by Plancius." in prompt for prompt in shown)
    assert all("Answer: Plancius." in prompt and "Astronomy" in prompt for prompt in shown)


def test_a_single_qna_file_takes_its_folder_for_its_topic(tmp_path):
    file_of(tmp_path, SKILL, "limericks/qna.yaml")
    strategy = build("taxonomy", domain_of(tmp_path), file="limericks/qna.yaml")
    assert set(strategy.slices) == {"limericks"}
    shown = Counter(seed.key for task in strategy.plan({"limericks": 40}, 1) for seed in task.seeds[1:])
    assert set(shown) == {"limericks#0.0", "limericks#1.0", "limericks#1.1"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("answer: There once was a dog.", "answer: 42", r"qna.yaml:\d+ seed_examples\[1\].answer.*quotes"),
        ("answer: There once was a dog.", "reply: x", r"qna.yaml:\d+ seed_examples\[1\].*'answer'"),
        ("context: Ann is a roofer.", "context: [Ann]", r"seed_examples\[2\].context"),
        (SKILL[SKILL.index("seed_examples") :], "seed_examples: []", r"qna.yaml:\d+ seed_examples.*list"),
    ],
)
def test_a_wrong_qna_file_is_told_with_its_line(tmp_path, old, new, words):
    assert old in SKILL
    file_of(tmp_path, SKILL.replace(old, new), "tax/a/qna.yaml")
    with pytest.raises(RecipeError, match=words):
        build("taxonomy", domain_of(tmp_path), file="tax")


def test_files_that_are_not_there_are_told(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(RecipeError, match=r"no qna[.]yaml"):
        build("taxonomy", domain_of(tmp_path), file="none")
    with pytest.raises(RecipeError, match="no such file"):
        build("taxonomy", domain_of(tmp_path), file="gone.yaml")
    with pytest.raises(RecipeError, match="not both"):
        build("taxonomy", file="x.yaml", topics=["a"])


def test_its_page_is_true(tmp_path):
    check_page("taxonomy", tmp_path)
