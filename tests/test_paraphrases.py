import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_refine import RUN, Rules, ask, store
from test_refiners import create, make, make_domain, no_model, one

from factory.bench import what_refiners_rest_on
from factory.benchmark_files import read_benchmarks
from factory.embedding.bundled import bundled
from factory.embedding.options import InThread
from factory.errors import RecipeError
from factory.overlap import longest_match
from factory.paraphrases import Paraphrases, coverage
from factory.refine import refine_round
from factory.store.rows import sample_rows
from factory.types import GoldItem, Message, Parent, Sample

__all__ = ["store"]
PRUNE = GoldItem(
    "test-1", "Which month is best for pruning apple trees in a cold climate?", "February.", "garden"
)
BULBS = GoldItem(
    "test-2", "How deep should 20 tulip bulbs be planted in sandy soil?", "15 centimetres deep.", "garden"
)
CALL = GoldItem("test-3", "Please turn the lamp in room 2 off now.", '[{"name": "set_light"}]', "house")


def garden(**options: Any) -> Any:
    return create("contamination", make_domain(test=(PRUNE, BULBS, CALL)), **options)


@pytest.mark.parametrize(
    ("question", "answer", "item"),
    [
        ("In a cold climate, what is the best month to prune an apple tree?", "In February.", "test-1"),
        ("Our winters are cold: in which month does one prune apple trees best?", "february", "test-1"),
        ("In a cold climate, what is the best month to prune an apple tree?", "In April.", None),
        ("Which tool is best for pruning young pear trees?", "February.", None),
        ("In sandy soil, how deep does one plant twenty tulip bulbs?", "15 centimetres deep.", "test-2"),
        ("In sandy soil, how deep does one plant thirty tulip bulbs?", "15 centimetres deep.", None),
        ("In sandy soil, how deep does one plant twenty tulip bulbs?", "18 centimetres deep.", None),
        ("Could you switch off room 2, I mean the lamp?", '[{"name": "set_light"}]', None),  # few such calls
    ],
)
async def test_an_item_in_other_words_is_found_where_its_answer_is_given(question, answer, item):
    decision = await one(garden(), make(question, answer))
    assert decision.evidence.get("item") == item
    if item:
        assert decision.evidence["measure"] == "paraphrase" and 0.66 <= decision.evidence["value"] <= 1
        assert decision.evidence["split"] == "test" and decision.reason == "contaminated"


async def test_the_match_is_evidence():
    text = f"Somebody asks me this: {PRUNE.question} I have no idea at all, to be honest with you."
    decision = await one(garden(), make(text, "April."))
    assert decision.evidence == {
        "item": "test-1",
        "split": "test",
        "measure": "coverage_by_8",
        "value": 1.0,
        "part": "question",
        "longest_match": 12,
        "matched": "which month is best for pruning apple trees in a cold climate",
    }


async def test_a_short_follow_up_is_compared_with_what_was_asked_before_it():
    before = (Message("user", "I want to prune my old apple trees."), Message("assistant", "Good."))
    item = GoldItem("dev-1", "In which month is that best?", "February.", "garden", None, before)
    refiner = create("contamination", make_domain(dev=(item,)))
    said = [
        ("My old apple trees are to be pruned.", "Well."),
        ("Which month suits that best?", "In February."),
    ]
    turns = [
        each
        for question, answer in said
        for each in (Message("user", question), Message("assistant", answer))
    ]
    talk = Sample.create(turns, [Parent("call_1", "call")], "dialogue", {})
    assert (await one(refiner, talk)).evidence["item"] == "dev-1"
    assert (await one(refiner, make("Which month suits that best?", "In February."))).action == "keep"


def test_coverage_lies_between_nothing_and_all():
    assert coverage("apple trees", "the apple trees") == pytest.approx(1)
    assert coverage("apple trees", "") == coverage("", "apple") == 0
    assert 0 < coverage("twenty apples", "some pears") < coverage("twenty apples", "20 pears") < 1


async def test_the_scale_of_another_embedder_does_not_matter():
    class Shifted:
        """The bundled rows with much in common, as some models' are."""

        id = "shifted"

        def embed(self, texts):
            rows = np.hstack([bundled().embed(texts), np.full((len(texts), 1), 2.0, np.float32)])
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    items = [
        replace(PRUNE, key=str(n), question=f"What is the {word} of the trees, and why?")
        for n, word in enumerate(["age", "price", "colour", "number", "owner", "smell"])
    ]
    sample = make("In a cold climate, what is the best month to prune an apple tree?", "February.")
    (own,) = await Paraphrases([PRUNE, *items], InThread(bundled())).find([sample])
    (shifted,) = await Paraphrases([PRUNE, *items], InThread(Shifted())).find([sample])
    assert own and shifted and own[0] == shifted[0] == 0
    assert own[1].value == pytest.approx(shifted[1].value, abs=0.1)
    assert await Paraphrases([PRUNE, *items], InThread(Shifted())).find(
        [make("Who planted all of the trees in this street?", "February.")]
    ) == [None]


def test_the_longest_match_is_a_run_of_words():
    assert longest_match("A b c, d e.", "x B C d y a b") == ("b", "c", "d")
    assert longest_match("a", "b") == longest_match("", "b") == ()


# both outputs


async def test_what_a_rewrite_brings_in_is_found_as_what_the_teacher_wrote(store):
    leak, honest = PRUNE.question, "What do I do about snails in the garden?"
    samples = [
        make(leak, "In February.", 1),
        make(honest, "draft", 2),
        make("Tell me of the draft, please.", "fine", 3),
    ]
    rows, edges = sample_rows(samples, RUN, 1)
    store.append("edges", edges)
    store.append("samples", rows)

    class Restating(Rules):
        """A refiner that copies an item into the answer that it rewrites."""

        def judge(self, sample, *parents):
            decision = super().judge(sample, *parents)
            if decision.rewrite is None:
                return decision
            turns = [Message("user", leak), Message("assistant", "In February.")]
            return replace(
                decision, rewrite=Sample.create(turns, [Parent(sample.id, "rewrite_of")], "rewrite", {})
            )

    steps = [
        ("contamination", garden()),
        ("edit", Restating("edit", lambda answer: answer.replace("draft", "text"))),
    ]
    await refine_round(store, RUN, 1, steps, samples, ask)
    found = store.select(
        "SELECT sample_id, step, action, evidence->>'item' AS item FROM decisions WHERE action <> 'keep'"
    )
    dropped = {row["sample_id"]: row["item"] for row in found if row["action"] == "drop"}
    (rewritten,) = (row["sample_id"] for row in found if row["action"] == "rewrite")
    assert rewritten == samples[1].id and set(dropped.values()) == {"test-1"} and len(dropped) == 2


# benchmark files


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def test_benchmarks_are_kept_apart_and_named(tmp_path):
    rows = [
        {"question": PRUNE.question, "answer": "February.", "subject": "plants"},
        {"id": 7, "question": BULBS.question, "answer": "15"},
    ]
    write(tmp_path / "public.jsonl", *rows)
    refiner = create("contamination", replace(make_domain(), folder=tmp_path), benchmarks=["public.jsonl"])
    first, second = await refiner.refine([make(PRUNE.question, "No."), make(BULBS.question, "No.")], no_model)
    assert [(each.evidence["split"], each.evidence["item"]) for each in (first, second)] == [
        ("public.jsonl", "1"),
        ("public.jsonl", "7"),
    ]


def test_what_a_benchmark_says_names_the_run(tmp_path):
    def rests_on(*refiners: dict[str, Any]) -> Any:
        domain = replace(make_domain(), folder=tmp_path)
        recipe = domain.recipe.model_validate(domain.recipe.model_dump() | {"refiners": list(refiners)})
        return what_refiners_rest_on(replace(domain, recipe=recipe))

    row = {"question": PRUNE.question, "answer": "February."}
    write(tmp_path / "public.jsonl", row)
    assert rests_on({"name": "form"}, {"name": "near"}, {"name": "contamination"}) == []
    before = rests_on({"name": "contamination", "benchmarks": ["public.jsonl"]})
    assert before == rests_on({"name": "contamination", "benchmarks": ["public.jsonl"]}) != []
    write(tmp_path / "public.jsonl", row | {"answer": "March."})
    assert rests_on({"name": "contamination", "benchmarks": ["public.jsonl"]}) != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the benchmark is empty"),
        ('{"question": "Why?"}', ":1 answer"),
        ('{"question": " ", "answer": "x"}', ":1 question: must not be empty"),
        ("{", ":1: not JSON"),
        ("[1]", ":1"),
    ],
)
def test_a_benchmark_that_is_none_is_told_with_its_line(tmp_path, text, said):
    (tmp_path / "b.jsonl").write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_benchmarks(tmp_path, ["b.jsonl"])
    assert said in str(caught.value)
    with pytest.raises(RecipeError, match="there is no file"):
        read_benchmarks(tmp_path, ["gone.jsonl"])
