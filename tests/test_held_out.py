"""Gold items within a conversation: read, kept apart from what is learned, asked and stored as asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_conversations import talk
from test_refiners import create, make, make_domain, one

from factory.domain import content_of
from factory.errors import RecipeError
from factory.evaluations import evaluation_id, load_evaluation, record_evaluation
from factory.gold import GoldLine, Placed, check_apart
from factory.held_out import HeldOut
from factory.store.store import Store
from factory.types import Completion, Evaluation, GoldItem, ItemResult, Message
from training.tasks import make_task

OPENING = "How soon must notice of a fall from a ladder be given?"
BEFORE = (Message("user", OPENING), Message("assistant", "Within 30 days (§ 34-9-80)."))
SHORT = "And in writing or not?"
LONG = "And who must then be told about it if the foreman is away on leave?"
ITEMS = (
    GoldItem("test-short", SHORT, "In writing.", "notice", None, BEFORE),
    GoldItem("test-long", LONG, "The office.", "notice", None, BEFORE),
    GoldItem("test-alone", "May it be oral?", "No.", "notice", None, (Message("system", "Be brief."),)),
)
OTHER = ("How long may a widow wait with her claim?", "1 year (§ 34-9-82).")


async def contaminated_by(turns: list[tuple[str, str]]) -> str | None:
    refiner: Any = create("contamination", make_domain(test=ITEMS))
    return (await one(refiner, talk(turns))).evidence.get("item")


@pytest.mark.parametrize(
    ("turns", "item"),
    [
        ([(OPENING, "30 days."), (SHORT, "Yes.")], "test-short"),
        ([(OPENING.upper(), "30 days."), (f"Please: {SHORT}", "Yes.")], "test-short"),
        ([("Hello!", "Hello."), (OPENING, "30 days."), (SHORT, "Yes.")], "test-short"),
        ([OTHER, (SHORT, "Yes.")], None),  # as many a conversation goes on
        ([(SHORT, "Yes.")], None),
        ([(OPENING, "30 days.")], None),
        ([(OPENING, "30 days."), ("To whom?", "The employer.")], None),
        ([(SHORT, "Yes."), (OPENING, "30 days.")], None),  # the other way round it is no follow-up of it
        ([(LONG, "The office.")], "test-long"),  # so long a question says enough by itself
        ([OTHER, (LONG, "The office.")], "test-long"),
        ([OTHER, ("May it be oral?", "No.")], "test-alone"),
    ],
)
async def test_a_short_follow_up_is_compared_with_what_was_asked_before_it(turns, item):
    assert await contaminated_by(turns) == item


async def test_of_items_with_one_follow_up_the_one_with_that_conversation_is_found():
    items = [
        GoldItem(f"test-{n}", SHORT, "Yes.", "notice", None, (Message("user", opening), BEFORE[1]))
        for n, opening in enumerate(
            ["What if the boss saw the fall?", OPENING, "Does a fall at lunch count?"]
        )
    ]
    refiner: Any = create("contamination", make_domain(test=items))
    decision = await one(refiner, talk([(OPENING, "30 days."), (SHORT, "Yes.")]))
    assert (decision.action, decision.evidence["item"]) == ("drop", "test-1")
    assert (await one(refiner, make(SHORT, "Yes."))).action == "keep"


def follow_up(key: str, question: str, *openings: str) -> GoldItem:
    before = tuple(each for text in openings for each in (Message("user", text), BEFORE[1]))
    return GoldItem(key, question, "So.", "notice", None, before)


GROUPS = (
    follow_up("keep-a", "until when may I keep it", "I have borrowed a book about ladders."),
    follow_up("keep-b", "And until when may I keep it?", "May I take a boat out on the lake?"),
    follow_up("keep-c", "And until when may I keep it?", "Boat?"),
    follow_up("keep-d", "Until when may I keep it then?", "Hello!", "Is there a swing?", "Cake?"),
)


@pytest.mark.parametrize(
    ("question", "before", "key"),
    [
        ("And until when may I keep it?", ["I have borrowed a book about ladders."], "keep-a"),
        ("until when may I keep it", ["May I take a boat out on the lake?"], "keep-b"),
        ("Until when may I keep it?", ["Thanks.", "may I take a boat out on the lake", "Fine."], "keep-b"),
        ("Until when may I keep it?", ["Boat?"], "keep-c"),
        ("Until when may I keep it?", ["Hello!", "Boat?"], "keep-c"),
        ("Until when may I keep it?", ["Boat?", "Thanks!"], "keep-c"),
        ("Until when may I keep it?", ["Cake?"], "keep-d"),  # what is left out says less
        ("Until when may I keep it?", ["Cake?", "Hello!"], None),
        ("Until when may I keep it?", ["Hello!", "Do you sell boats?"], None),
        ("Until when may I keep it?", ["Kite?"], None),
        ("Until when may I keep it?", [], None),
        ("Until when?", ["Boat?"], None),
    ],
)
def test_every_follow_up_that_is_nearly_the_same_is_compared_turn_by_turn(question, before, key):
    for items in (GROUPS, GROUPS[::-1]):
        found = HeldOut(items).find(question, before)
        assert (items[found[0]].key if found else None) == key


def placed(number: int, question: str, opening: str = "") -> Placed[GoldLine]:
    before = (
        [{"role": "user", "content": opening}, {"role": "assistant", "content": "So."}] if opening else []
    )
    line = {"id": f"x{number}", "question": question, "answer": "So.", "slice": "notice", "before": before}
    return Placed(f"gold.jsonl:{number}", GoldLine.model_validate(line))


def test_a_follow_up_may_stand_in_several_conversations_and_a_conversation_once():
    dev, test = [placed(1, SHORT, OPENING)], [placed(2, SHORT, OTHER[0])]
    check_apart([("dev", dev), ("test", test)], [("seeds.jsonl:1", SHORT), ("seeds.jsonl:2", OPENING)])
    with pytest.raises(RecipeError, match=r"gold.jsonl:3 question: this question is also at gold.jsonl:1"):
        check_apart([("dev", dev), ("test", [placed(3, SHORT, OPENING.upper())])], [])
    with pytest.raises(RecipeError, match=r"gold.jsonl:4 question: nearly this question .* seeds.jsonl:1"):
        check_apart([("dev", dev), ("test", [placed(4, LONG, OPENING)])], [("seeds.jsonl:1", LONG)])


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ([{"role": "user", "content": "Why?"}], ["gold/dev.jsonl:4 before", "up to an answer", "found user"]),
        ([{"role": "assistant", "content": "So."}], ["gold/dev.jsonl:4 before", "found assistant"]),
        (
            [{"role": "user", "content": "Why?"}, {"role": "system", "content": "Be brief."}],
            ["gold/dev.jsonl:4 before", "found user, system"],
        ),
        ([{"role": "usr", "content": "Why?"}], ["gold/dev.jsonl:4 before[0].role", "'usr'"]),
        ([{"role": "user", "content": " "}], ["gold/dev.jsonl:4 before[0].content", "must not be empty"]),
        ([{"role": "user"}], ["gold/dev.jsonl:4 before[0].content", "missing"]),
        ([{"role": "user", "text": "Why?"}], ["gold/dev.jsonl:4 before[0].text", "unknown key 'text'"]),
        ("Why?", ["gold/dev.jsonl:4 before", "list"]),
    ],
)
def test_a_conversation_that_is_none_is_told_with_file_line_and_key(tmp_path, before, words):
    from factory.init import write_template
    from factory.load import load_domain, load_recipe

    folder = tmp_path / "domain"
    write_template(folder)
    item = {"id": "x", "question": "And then?", "answer": "So.", "slice": "fees", "before": before}
    with (folder / "gold" / "dev.jsonl").open("a") as file:
        file.write(json.dumps(item) + "\n")
    with pytest.raises(RecipeError) as caught:
        load_domain(*load_recipe(folder, None))
    assert [word for word in words if word not in str(caught.value)] == [], str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_conversation_is_read_and_its_item_is_another():
    (short,) = [placed(1, SHORT, OPENING).line.value()]
    assert short.before == (Message("user", OPENING), Message("assistant", "So."))
    alone = GoldItem("x", "Why?", "So.", "notice")
    assert content_of(alone) == ["x", "Why?", "So.", "notice", None]  # as it was when there was no `before`
    assert content_of(short)[-1] == short.before


@pytest.mark.parametrize("metric", ["exact", "facts"])
def test_a_student_is_asked_the_question_in_its_conversation(metric):
    domain: Any = SimpleNamespace(recipe=SimpleNamespace(domain=SimpleNamespace(citation_pattern="")))
    task = make_task(metric, {}, domain).task
    assert list(task.messages(ITEMS[0])) == [*BEFORE, Message("user", SHORT)]
    assert list(task.messages(GoldItem("x", "Why?", "So.", "s"))) == [Message("user", "Why?")]


async def test_the_store_holds_what_was_asked(tmp_path: Path):
    from test_evaluate import make as make_answers

    async def ask(messages, **_):
        return Completion(f"{len(messages)} messages", call_id="call_1")

    made = await make_answers().evaluate("m", "test", ITEMS, ask, lambda *_: None)
    assert [item.answer for item in made.items] == ["3 messages", "3 messages", "2 messages"]
    plain = ItemResult("zz", "notice", "zz", "Why?", "So.", "So \ud800.", 0.0, "call_2", (), "other rows")
    kept = Evaluation("m", "test", "facts", made.mean, made.low, made.high, (*made.items, plain))
    with Store.open(tmp_path) as store:
        bench: Any = SimpleNamespace(store=store, run_id="run_1", control=None)
        record_evaluation(bench, 1, kept, None, None)
        rows = store.select(
            "SELECT item_key, before->>'$[0].content' AS first, json_array_length(before) AS n, detail "
            "FROM evaluation_items WHERE evaluation_id = ? ORDER BY item_key",
            (evaluation_id("run_1", 1, "test"),),
        )
        loaded = load_evaluation(bench, 1, "test")
    assert [tuple(row.values()) for row in rows] == [
        ("test-alone", "Be brief.", 1, None),
        ("test-long", OPENING, 2, None),
        ("test-short", OPENING, 2, None),
        ("zz", None, None, "other rows"),
    ]
    assert loaded is not None
    for name in ("before", "detail"):
        assert [getattr(item, name) for item in loaded.items] == [
            getattr(item, name) for item in sorted(kept.items, key=lambda item: item.key)
        ]
