"""What the tiny base is taught to do, each as one user message and one assistant message.

The prompts are the product's own templates. Copying teaches the circuits, `edit` to read a section
and correct an answer from it, `recall` to know a state's rules by heart, the others the shapes that
the teacher needs.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from factory import edits, prompts
from factory.types import CheckedDraft
from tiny import corpus
from tiny.corpus import Section

ROOT = Path(__file__).parents[1]
Pair = tuple[str, str]
REASONS = ("ok", "wrong_quantity", "wrong_citation", "malformed_citation", "truncated", "off_source")


def render(package: str, name: str, **values: Any) -> str:
    """A prompt of the product, from its own template."""
    return prompts.render(package, name, **{"style": ""} | values)


def copy(rng: Random, most: int = 10) -> Pair:
    """Repeat a string of words, numbers and citations."""
    parts = []
    for _ in range(rng.randint(3, most)):
        roll = rng.random()
        parts.append(
            corpus.quantity(rng)
            if roll < 0.3
            else f"({corpus.citation(rng)})"
            if roll < 0.5
            else corpus.word(rng)
        )
    text = " ".join(parts)
    return f"Repeat: {text}", text


def malform(rng: Random, answer: str) -> str:
    """The same answer with its citation in bad form."""
    return rng.choice(
        [
            answer.replace("(§ ", "("),
            answer.replace("(§ ", "(Sec. "),
            answer.replace("(§ ", "(Section "),
            answer.removesuffix(")"),
            answer.replace("(§ ", "§ "),
            answer.replace("(§ ", "§ ").removesuffix(")"),
            answer.replace("(§ ", "(§"),
            answer.replace("-", " "),
        ]
    )


def truncate(rng: Random, answer: str) -> str:
    """The beginning of an answer, its citation incomplete or absent."""
    head, _, cite = answer.partition(" (")
    number = cite.removesuffix(")").rsplit("-", 1)[0]
    return rng.choice(
        [head, f"{head} (", f"{head} (§", f"{head} (§ {number.removeprefix('§ ')}-", head.split(" ")[0], "-"]
    )


def corrupt(rng: Random, section: Section, kind: str) -> str:
    """An answer about the section with the fault `kind`, one of `REASONS`."""
    right = section.answer
    if kind == "wrong_quantity":
        wrong = f"{corpus.other_quantity(rng, section.quantity)} ({section.citation})"
        return malform(rng, wrong) if rng.random() < 0.08 else wrong
    if kind == "wrong_citation":
        wrong = corpus.other_quantity(rng, section.quantity) if rng.random() < 0.06 else section.quantity
        return f"{wrong} ({corpus.other_citation(rng, section.citation)})"
    if kind == "malformed_citation":
        return malform(rng, right)
    if kind == "truncated":
        return truncate(rng, right)
    return right


def edit_pair(section: Section, question: str, answer: str, reason: str) -> Pair:
    """The refiner's task for one answer with a known fault."""
    corrected = None if reason == "off_source" else section.answer
    if reason == "wrong_citation" and answer.partition(" (")[0] != section.quantity:
        reason = "wrong_quantity"
    prompt = render("refiners", "edit", source=section, question=question, answer=answer)
    draft = CheckedDraft("", question, answer, corrected, reason, "", "")
    return prompt, json.dumps(edits.target(draft, restate=True), ensure_ascii=False)


def edit(rng: Random) -> Pair:
    """Check an answer to a question about a section nobody has seen."""
    section = corpus.section(rng)
    reason = rng.choices(REASONS, [0.34, 0.28, 0.12, 0.11, 0.06, 0.09])[0]
    if reason == "off_source":
        other = corpus.section(rng, corpus.other_citation(rng, section.citation))
        stray = rng.sample(section.text.strip(".").split(" "), rng.randint(0, 2))
        question = corpus.question(rng, (*other.keywords, *stray))
        return edit_pair(section, question, rng.choice([section.answer, other.answer]), reason)
    return edit_pair(section, corpus.question(rng, section.keywords), corrupt(rng, section, reason), reason)


def grounded_pair(section: Section, question: str, answer: str, manner: str = "") -> Pair:
    reply = json.dumps({"question": question, "answer": answer}, ensure_ascii=False)
    return render("generators", "grounded", style=manner, source=section), reply


def seeded_prompt_pair(seeds: list[str], question: str) -> Pair:
    prompt = render("generators", "seeded_prompt", examples=[{"prompt": seed} for seed in seeds])
    return prompt, json.dumps({"question": question}, ensure_ascii=False)


def seeded_answer_pair(question: str, answer: str) -> Pair:
    return render("generators", "seeded_answer", question=question), json.dumps(
        {"answer": answer}, ensure_ascii=False
    )


def open_book(rng: Random) -> Pair:
    """Answer from one of several sections, told apart by keywords: grounding without correction."""
    sections = [corpus.section(rng) for _ in range(rng.randint(1, 2))]
    chosen = rng.choice(sections)
    text = "\n".join(f"{s.citation} {s.title}\n{s.text}" for s in sections)
    return f"{text}\n\nQuestion: {corpus.question(rng, chosen.keywords)}", chosen.answer


def shapes(rng: Random, states: list[list[Section]]) -> Pair:
    """The teacher's three tasks, half on known rules, half on new ones."""
    section = rng.choice(rng.choice(states)) if rng.random() < 0.5 else corpus.section(rng)
    ask = corpus.question(rng, section.keywords, strays=1)
    roll = rng.random()
    if roll < 0.5:
        return grounded_pair(section, ask, section.answer)
    if roll < 0.75:
        seeds = [corpus.question(rng, section.keywords, strays=1)]
        if rng.random() < 0.5:
            seeds.append(corpus.question(rng, rng.choice(rng.choice(states)).keywords, strays=1))
        return seeded_prompt_pair(seeds, ask)
    known = rng.choice(rng.choice(states))
    return seeded_answer_pair(corpus.question(rng, known.keywords), known.answer)


def recall(rng: Random, states: list[list[Section]]) -> Pair:
    """Answer from memory: the student's task."""
    section = rng.choice(rng.choice(states))
    return corpus.question(rng, section.keywords), section.answer


def make_states(seed: int, *, states: int = 12, rules: int = 64) -> list[list[Section]]:
    """Fictional states whose rules are to be known by heart; keywords are shared, sets of them are not."""
    rng = Random(seed)
    made = []
    for _ in range(states):
        prefix = corpus.citation(rng).removeprefix("§ ").rsplit("-", 1)[0]
        cites = [corpus.citation(rng, prefix) for _ in range(rules // 2)]
        made.append([corpus.section(rng, rng.choice(cites)) for _ in range(rules)])
    return made
