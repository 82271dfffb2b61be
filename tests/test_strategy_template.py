"""Templates of the user's own: columns, samplers, rows; and a sandbox that nothing leaves."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from strategy_kit import (
    SEEDS,
    SOURCES,
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
from factory.types import Completion
from generators.rows import read_rows
from generators.sandbox import compile_template

PAIR = {
    "columns": [{"name": "pair", "prompt": "Ask about {{ slice }}.", "fields": ["question", "answer"]}],
    "question": "{{ pair.question }}",
    "answer": "{{ pair.answer }}",
}
TONE = {"tone": {"kind": "category", "values": ["formal", "casual"]}}
LEVEL = {"level": {"kind": "category", "values": ["easy", "hard", "odd"]}}


def column(prompt: str, **more):
    return {"columns": [{"name": "question", "prompt": prompt}], "answer": "A.", **more}


async def test_columns_are_written_one_after_the_other(tmp_path):
    def reply(prompt: str) -> str:
        return answer(text="Due?", topic="notice") if prompt.startswith("Write") else f" Re: {prompt} "

    strategy = build(
        "template",
        columns=[
            {
                "name": "mail",
                "prompt": "Write a {{ tone }} mail aged {{ age + 1 }}.",
                "fields": ["text", "topic"],
            },
            {"name": "reply", "prompt": "Reply to {{ mail.text }} on {{ mail['topic'] | upper }}"},
        ],
        question="{{ mail.text }}",
        answer="{{ reply }}",
        system="Be {{ tone }}.",
        samplers={**TONE, "age": {"kind": "integer", "low": 8, "high": 8}},
    )
    teacher = Teacher(reply)
    made = await generate(tmp_path, strategy, teacher, {"claims": 2, "benefits": 2})
    assert strategy.cost.num_calls == 2 and len(teacher.requests) == 8
    for task, (sample,) in made:
        tone = sample.attributes["tone"]
        assert [m.content for m in sample.messages] == [f"Be {tone}.", "Due?", "Re: Reply to Due? on NOTICE"]
        assert task.attributes == {"tone": tone, "age": "8"} and sample.attributes["age"] == "8"
        assert relations(sample) == ["seed", "call", "call"]
        assert sample.parents[0].id in {seed.id for seed in strategy.material}
    first = [request for request in teacher.requests if request.schema]
    assert first[0].schema["required"] == ["text", "topic"] and "aged 9." in teacher.prompts[0]


async def test_running_again_asks_nothing(tmp_path):
    strategy = build("template", **PAIR, samplers={**TONE, **LEVEL}, cover=["tone"])
    teacher = Teacher(lambda prompt: answer(question=prompt, answer="A."))
    await check_repeats(tmp_path, strategy, teacher, {"claims": 9, "benefits": 4})


async def test_rows_sections_and_seed_prompts_take_turns(tmp_path):
    (tmp_path / "r.jsonl").write_text(
        '{"item": "a saw", "slice": "tools"}\n{"item": "tea", "slice": "food"}\n'
    )
    (tmp_path / "r.csv").write_text('item,note\n"a ""big"" saw",x\ntea,"two\nlines"\n')
    domain, teacher = domain_of(tmp_path), Teacher(lambda prompt: prompt)
    strategy = build("template", domain, **column("Buy {{ row.item }}"), rows="r.jsonl")
    assert set(strategy.slices) == {"tools", "food"}
    made = await generate(tmp_path / "1", strategy, teacher, {"tools": 2, "food": 1})
    assert Counter(s.question for _, (s,) in made) == {"Buy a saw": 2, "Buy tea": 1}
    assert json.loads(strategy.material[0].prompt) == {"item": "a saw", "slice": "tools"}
    strategy = build("template", domain, **column("{{ row['item'] }}"), rows="r.csv", slices=["shop"])
    made = await generate(tmp_path / "2", strategy, teacher, {"shop": 2})
    assert {s.question for _, (s,) in made} == {'a "big" saw', "tea"}
    strategy = build("template", domain, **column("{{ source.citation }}: {{ source.text }}"), each="source")
    made = await generate(tmp_path / "3", strategy, teacher, {"benefits": 1})
    assert made[0][1][0].question == f"§ 3: {SOURCES[3].text}"
    assert relations(made[0][1][0]) == ["source", "call"] and strategy.material == ()
    strategy = build("template", domain, **column("Like {{ seed.prompt }}"), each="seed")
    made = await generate(tmp_path / "4", strategy, teacher, {"claims": 2})
    assert {s.question for _, (s,) in made} == {f"Like {seed.prompt}" for seed in SEEDS[:2]}
    assert relations(made[0][1][0]) == ["seed", "source", "call"]


def test_combinations_are_covered_evenly_with_every_row(tmp_path):
    (tmp_path / "r.csv").write_text("n\n" + "\n".join(f"r{n}" for n in range(4)))
    options = column("{{ row.n }} {{ tone }} {{ level }}", rows="r.csv", slices=["s"])
    strategy = build(
        "template", domain_of(tmp_path), **options, samplers={**TONE, **LEVEL}, cover=["tone", "level"]
    )
    for round_number in (1, 2):
        tasks = list(strategy.plan({"s": 24}, round_number))
        met = Counter((task.seeds[0].key, *task.attributes.values()) for task in tasks)
        assert len(met) == 24
        six = Counter(tuple(task.attributes.values()) for task in tasks[:6])
        assert len(six) == 6


async def test_what_a_model_wrote_is_never_a_template(tmp_path):
    evil = "{{ 7 * 7 }}{% for x in y %}"
    strategy = build(
        "template",
        columns=[{"name": "question", "prompt": "Say."}, {"name": "answer", "prompt": "To {{ question }}"}],
    )
    teacher = Teacher(lambda prompt: evil)
    ((_, (sample,)),) = await generate(tmp_path, strategy, teacher, {"claims": 1})
    assert (sample.question, sample.answer) == (evil, evil) and teacher.prompts[1] == f"To {evil}"


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        ("hm", "not_json"),
        (answer(question="Q?"), "missing_key"),
        (Completion('{"question', "length"), "truncated"),
    ],
)
async def test_a_malformed_column_ends_the_chain(tmp_path, reply, fault):
    columns = [*PAIR["columns"], {"name": "more", "prompt": "{{ pair.answer }}"}]
    teacher = Teacher(lambda prompt: reply)
    strategy = build("template", **{**PAIR, "columns": columns})
    ((_, (sample,)),) = await generate(tmp_path, strategy, teacher, {"claims": 1})
    text = reply.text if isinstance(reply, Completion) else reply
    assert sample.answer == text and await fate(sample) == fault and len(teacher.requests) == 1


@pytest.mark.parametrize(
    ("reply", "fault"),
    [(Completion("cut o", "length"), "truncated"), (" \n", "empty"), ("no colon", "template_failed")],
)
async def test_a_text_that_cannot_be_used_is_malformed(tmp_path, reply, fault):
    strategy = build("template", **column("Say.", answer="{{ question.split(':')[1].strip() }}"))
    ((_, (sample,)),) = await generate(tmp_path, strategy, Teacher(lambda _: reply), {"claims": 1})
    assert sample.attributes["malformed"] == await fate(sample) == fault
    good = Teacher(lambda _: "Q: A")
    ((_, (sample,)),) = await generate(tmp_path / "good", strategy, good, {"claims": 1})
    assert sample.answer == "A" and "malformed" not in sample.attributes


ESCAPES = [
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}",
    "{{ slice|attr('__class__') }}",
    "{{ slice|attr('__cl' ~ 'ass__') }}",
    "{{ slice['_' ~ '_class_' ~ '_'] }}",
    "{{ [slice]|map(attribute='__class__')|list }}",
    "{{ '{0.__class__}'.format(slice) }}",
    "{{ ('{0._' ~ '_class_' ~ '_}').format(slice) }}",
    "{{ [('{0._' ~ '_class_' ~ '_}')]|map('format', slice)|list }}",
    "{{ range.__self__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ dict.mro() }}",
    "{{ lipsum.__globals__['os'].popen('id').read() }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}",
    "{% from 'os' import path %}",
    "{% extends 'x' %}",
    "{{ range(10**9)|list }}",
    "{{ slice.__add__ }}",
]


@pytest.mark.parametrize("place", ["prompt", "question", "system"])
@pytest.mark.parametrize("escape", ESCAPES)
async def test_nothing_leaves_the_sandbox(tmp_path, escape, place):
    options = column("Say.") if place != "prompt" else column(escape)
    if place != "prompt":
        options[place] = escape
    teacher = Teacher(lambda prompt: "text")
    with pytest.raises(RecipeError) as caught:
        strategy = build("template", **options)
        assert place == "question"  # what is rendered without a model is tried before the run
        await generate(tmp_path, strategy, teacher, {"claims": 1})
    assert "\n" not in str(caught.value)


async def test_an_escape_by_way_of_what_a_model_wrote_stops_the_run(tmp_path):
    options = column("Say.", answer="{{ slice[question] }}")
    with pytest.raises(RecipeError, match="unsafe"):
        await generate(tmp_path, build("template", **options), Teacher(lambda _: "__class__"), {"claims": 1})


async def test_values_cannot_be_changed(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"tags": ["a"]}\n')
    for change in ("{{ row.update(x=1) }}", "{{ row.tags.append('b') }}", "{% set _ = row.clear() %}"):
        with pytest.raises(RecipeError, match="unsafe"):
            build("template", domain_of(tmp_path), **column(change), rows="r.jsonl", slices=["s"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (column("{{ tone"), r"columns\[0\]\.prompt: line 1"),
        (column("a\n{% if %}"), r"columns\[0\]\.prompt: line 2"),
        (column("{{ ton }}", samplers=TONE), "nothing is called 'ton'; known: slice, tone"),
        (column("{{ question }}"), "nothing is called 'question'"),
        (column("x", answer="{{ reply }}"), "answer: nothing is called 'reply'"),
        ({**PAIR, "answer": "{{ pair.reply }}"}, "'pair' has no 'reply'; it has: answer, question"),
        ({**PAIR, "answer": "{{ pair['reply'] }}"}, "has no 'reply'"),
        (column("{{ source.body }}", each="source"), "'source' has no 'body'"),
        (column("{{ row.x }}"), "nothing is called 'row'"),
        (column("{{ [1]|random }}"), "random"),
        (column("{{ lipsum() }}"), "lipsum"),
        (column("{{ [1]|map('string') }}"), "add |list"),
        (column("{{ age + 'x' }}", samplers={"age": {"kind": "integer", "low": 1, "high": 2}}), "TypeError"),
        (column("{{ 1 // 0 }}"), "ZeroDivisionError"),
        (column("{{ tone.upper ~ '!' }}", samplers=TONE), "pair of brackets"),
        (column("{{ [tone.upper]|string }}", samplers=TONE), "pair of brackets"),
        ({"columns": [{"name": "reply", "prompt": "x", "fields": ["items"]}]}, "'items' cannot be a key"),
        (column("x", samplers={"original": TONE["tone"]}), "'original' is taken"),
        (column("{{" + "(" * 5000 + "}}"), "line 1|deeply"),
        (column("x", samplers={"row": TONE["tone"]}), "'row' is taken"),
        (column("x", samplers={"tools": TONE["tone"]}), "'tools' is taken"),
        (column("x", samplers={"error": TONE["tone"]}), "'error' is taken"),
        (column("x", samplers={"question": TONE["tone"]}), "'question' is taken"),
        (column("x", samplers={"range": TONE["tone"]}), "'range' is taken"),
        (column("x", samplers={"Tone": TONE["tone"]}), "samplers.Tone"),
        (column("x", samplers={"tone": {"kind": "categories"}}), "samplers.tone.kind"),
        (column("x", samplers={"tone": {"kind": "category"}}), "samplers.tone.values"),
        (column("x", cover=["tone"]), "cover: 'tone'"),
        (column("x", each="source", slices=["a"]), "goes with neither"),
        (column("x", each="seed", rows="r.csv"), "goes with neither"),
        ({"columns": []}, "columns"),
        ({"columns": [{"name": "a b", "prompt": "x"}]}, r"columns\[0\]\.name"),
        ({"columns": [{"name": "question", "promt": "x"}]}, r"columns\[0\]\.promt"),
    ],
)
def test_what_cannot_work_is_told_when_the_recipe_is_read(options, words):
    with pytest.raises(RecipeError, match=words) as caught:
        build("template", **options)
    assert "\n" not in str(caught.value)


def test_it_needs_what_it_is_made_from(tmp_path):
    with pytest.raises(RecipeError, match="no sources"):
        build("template", domain_of(sources=()), **column("x"), each="source")
    with pytest.raises(RecipeError, match="no seeds"):
        build("template", domain_of(seeds=()), **column("x"), each="seed")
    (tmp_path / "r.jsonl").write_text('{"a": 1}\n')
    domain = domain_of(tmp_path)
    with pytest.raises(RecipeError, match=r"r\.jsonl:1.*slice"):
        build("template", domain, **column("x"), rows="r.jsonl")
    with pytest.raises(RecipeError, match="'row' has no 'b'; it has: a"):
        build("template", domain, **column("{{ row.b }}"), rows="r.jsonl", slices=["s"])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("r.jsonl", '{"a": 1}\n{"a": 1, "b": 2}\n', r"r\.jsonl:2.*: b"),
        ("r.jsonl", '{"a": 1}\n[1]\n', r"r\.jsonl:2.*object"),
        ("r.jsonl", '{"a": 1}\n{"a"\n', r"r\.jsonl:2.*not JSON"),
        ("r.jsonl", "\n", "no rows"),
        ("r.csv", "a,b\n1,2\n3\n", r"r\.csv:3.*1 values for 2"),
        ("r.csv", "a,a\n1,2\n", r"r\.csv:1.*once"),
        ("r.csv", 'a\n"b" c\n', r"r\.csv:2.*not CSV"),
        ("r.csv", "a\n", "no rows"),
        ("r.xlsx", "", r"\.jsonl and \.csv"),
    ],
)
def test_a_wrong_file_of_rows_is_told_with_its_line(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=words):
        read_rows(tmp_path / name)
    with pytest.raises(RecipeError, match="no such file"):
        read_rows(tmp_path / "gone.csv")


def test_an_undefined_value_is_never_silent():
    with pytest.raises(ValueError, match="p: nothing is called 'x'"):
        compile_template("p", "{{ x|default('') }}", {})


def test_its_page_is_true(tmp_path):
    check_page("template", tmp_path)
