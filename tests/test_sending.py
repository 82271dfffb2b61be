"""The order of sending: a permutation within windows that lets a server's prefix cache be of use."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from strategy_kit import build, domain_of

from factory.prompts import render
from factory.sending import MAX_WINDOW, by_material, in_windows, window_of
from factory.types import Seed, Source, Task

SECTIONS = tuple(
    Source.create(
        f"s{n}", "a.md", f"§ {n}", f"Rule {n}", f"Rule {n} says: " + "word " * 150, f"slice {n % 3}"
    )
    for n in range(48)
)
SEEDS = tuple(Seed.create(f"p{n}", f"Question {n}?", "a") for n in range(3))
MATERIAL = st.sampled_from(["", "s1", "s2", "p1", "p2"])


def task_about(material: str, ordinal: int, kind: str) -> Task:
    source = SECTIONS[int(material[1])] if material.startswith("s") else None
    seeds = (SEEDS[int(material[1])],) if material.startswith("p") else ()
    return Task("g", 1, ordinal, "a", source, seeds, {"kind": kind, "lap": str(ordinal)})


@given(st.lists(st.tuples(MATERIAL, st.sampled_from("xy")), max_size=40))
def test_every_task_is_sent_once_and_like_ones_follow_each_other(drawn):
    tasks = [task_about(material, ordinal, kind) for ordinal, (material, kind) in enumerate(drawn)]
    sent = by_material(tasks)
    assert sorted(task.ordinal for task in sent) == list(range(len(tasks)))
    alike = [(task.source, task.seeds, task.attributes["kind"]) for task in sent]
    changes = sum(one != other for one, other in pairwise(alike))
    assert changes == max(0, len(set(alike)) - 1), "each group stands in one piece"
    assert sent == by_material(tasks)


def test_windows_are_small_enough_for_refining_to_begin_early_and_bounded():
    assert [window_of(num) for num in (0, 1, 80, 10**6)] == [1, 1, 10, MAX_WINDOW]
    assert list(in_windows(range(5), 2)) == [[0, 1], [2, 3], [4]]


def hit_rate(prompts: Iterable[str], capacity: int, block: int = 16) -> float:
    """Share of words that a cache of so many words holds, in whole blocks from the prompt's beginning.

    As vLLM does it: a block is known by its words and all before it, and the least recently used goes.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    num_words = num_hit = 0
    for prompt in prompts:
        words = re.findall(r"\S+", prompt)
        num_words += len(words)
        ends = range(block, len(words) + 1, block)
        known = [hash(tuple(words[:end])) for end in ends]
        for count, key in enumerate(known):
            if key not in cache:
                break
            num_hit += block if count < len(known) else 0
        for key in reversed(known):  # the beginning is used last, so that it goes last
            cache[key] = None
            cache.move_to_end(key)
        while len(cache) > capacity // block:
            cache.popitem(last=False)
    return num_hit / num_words


def test_a_cache_too_small_for_all_sections_is_hit_by_most_prompts():
    domain = domain_of(sources=SECTIONS)
    plan = list(build("grounded", domain).plan({f"slice {n}": 768 for n in range(3)}, 1))

    def prompts(tasks):
        return [render("generators", "grounded", style="", source=task.source) for task in tasks]

    sent = [task for window in in_windows(plan, window_of(len(plan))) for task in by_material(window)]
    capacity = 24 * 170  # half of the sections
    assert hit_rate(prompts(plan), capacity) < 0.15
    assert hit_rate(prompts(sent), capacity) > 0.7


def test_what_varies_stands_after_the_section_in_our_prompts():
    section = SECTIONS[0]
    about = {
        "grounded_fact": [{"style": "", "source": section, "fact": fact} for fact in ("one", "two")],
        "persona_grounded": [
            {"style": "", "source": section, "persona": who} for who in ("A nurse", "A cook")
        ],
        "text_to_sql": [{"schema": section.text, "level": level} for level in ("Simple.", "Nested.")],
        "taxonomy": [
            {
                "title": "t",
                "style": "",
                "path": [path],
                "description": "",
                "context": section.text,
                "examples": [],
            }
            for path in ("one", "two")
        ],
    }
    for name, values in about.items():
        first, second = (render("generators", name, **each) for each in values)
        same = next(index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        assert section.text.strip() in first[:same], name
