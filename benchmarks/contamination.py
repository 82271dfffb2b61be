"""How many leaks of held-out items the refiner `contamination` finds, and how many honest samples it drops.

    python -m benchmarks.contamination [--part development|final|both]

The set is made here, the same each time. Items: contamination_items.yaml, and the gold of the recipes.
Verbatim leaks: an item's question as it is, in capitals, without punctuation, within a longer text.
Paraphrased leaks: written by hand, and made by rules (synonyms from a table, clauses in other order, told as
a story, numbers as words) from items. Honest samples: by hand, the same sentence about another fact, another
question about the same thing; and what the recipes' own teachers are taught to ask. `development` and `final`
share no item, no synonym and no frame. Prints a table for each part and one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

import yaml

from factory.types import GoldItem, Message, Parent, Sample
from refiners.contamination import Contamination, ContaminationOptions

ROOT = Path(__file__).parents[1]
RECIPES = ("georgia_workers_comp", "town_park", "smart_home", "bicycle_workshop")
RULES = yaml.safe_load(Path(__file__).with_name("contamination_rules.yaml").read_text("utf-8"))


class Case(NamedTuple):
    """A sample to be judged; `leak` says whether it repeats an item."""

    kind: str
    leak: bool
    question: str
    answer: str
    source_key: str = ""


def gold(recipe: str, part: str) -> list[GoldItem]:
    """The items of a recipe that belong to a part: dev to development, test to final."""
    split = "dev" if part == "development" else "test"
    lines = (ROOT / "recipes" / recipe / "gold" / f"{split}.jsonl").read_text("utf-8").splitlines()
    rows = map(json.loads, lines)
    return [
        GoldItem(
            row["id"],
            row["question"],
            row["answer"],
            row["slice"],
            row.get("source"),
            tuple(Message(**each) for each in row.get("before", [])),
        )
        for row in rows
    ]


def authored(part: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load(Path(__file__).with_name("contamination_items.yaml").read_text("utf-8"))[part])


def verbatim(question: str, part: str) -> Iterator[tuple[str, str]]:
    """(kind, text): the question itself, with the noise that copying makes."""
    before, after = RULES[part]["around"]
    yield "as it is", question
    yield "in capitals", question.upper()
    yield "without punctuation", re.sub(r"[^\w\s.]", "", question).replace(". ", " ").strip(".")
    yield "in a longer text", f"{before} {question} {after}"


def reworded(question: str, part: str) -> Iterator[tuple[str, str]]:
    """(kind, text): what the rules of a part make of a question, where they change more than a little of it.

    A verbatim run of 8 words is left by none of the kinds but 'a story around synonyms'.
    """
    changed = _with_synonyms(question, part)
    first, comma, last = changed.rstrip("?.!").partition(", ")
    turned = (
        RULES[part]["order"].format(last=last[:1].upper() + last[1:], first=first[:1].lower() + first[1:])
        + "?"
    )
    if comma and len(first.split()) > 2 and len(last.split()) > 2:
        yield "clauses in other order", turned
    if changed != question:
        yield "synonyms", changed
        at = sum(map(ord, question)) % len(RULES[part]["stories"])
        yield "a story around synonyms", RULES[part]["stories"][at].format(changed)
    in_words = re.sub(r"\b\d+\b", lambda found: RULES["numbers"].get(found[0], found[0]), changed)
    if in_words != changed:
        yield "numbers as words", in_words


def _with_synonyms(question: str, part: str) -> str:
    def other(found: re.Match[str]) -> str:
        word = RULES[part]["synonyms"].get(found[0].lower(), found[0])
        return word[:1].upper() + word[1:] if found[0][:1].isupper() else word

    return re.sub(r"[A-Za-z]+", other, question)


def taught(recipe: str, rng: Random) -> Iterator[tuple[str, str]]:
    """(question, answer) as the teacher of a recipe is taught to ask; its faults are left out."""
    from tiny import dialogue_teacher, park, rules, smart_home, sql_intents

    if recipe == "georgia_workers_comp":
        for rule in rules.read():
            for ask in rules.MANNERS.values():
                yield from ((ask(rng, rule), rule.answer) for _ in range(8))
    elif recipe == "town_park":
        found = park.read()
        for section in found.sections:
            for fact in section.facts:
                for _ in range(6):
                    yield dialogue_teacher.opening(rng, found, section, fact), section.answer(fact)
    elif recipe == "smart_home":
        for function in smart_home.functions():
            for _ in range(300):
                wish = smart_home.draw_wish(rng, function)
                yield smart_home.put_in_words(rng, wish, "teacher"), json.dumps([wish.call()])
    else:
        questions = sql_intents.read()
        for intent in questions.intents:
            for _ in range(15):
                value = questions.value(rng, intent)
                yield questions.word(rng, intent, value), intent.query(value)


def cases_by_hand(part: str) -> tuple[list[GoldItem], list[Case]]:
    """The items that are made up, and every case about them."""
    rows = authored(part)
    items = [GoldItem(f"{part}-{n}", row["q"], row["a"], "made_up") for n, row in enumerate(rows)]
    cases: list[Case] = []
    for row in rows:
        cases += [Case(f"verbatim: {kind}", True, text, row["a"]) for kind, text in verbatim(row["q"], part)]
        cases += [Case("paraphrased: by hand", True, text, row["a"]) for text in row["leaks"]]
        told = f"In short: {row['a'][:1].lower()}{row['a'][1:]} {RULES[part]['aside']}"
        cases += [Case("paraphrased: by hand, answer told", True, text, told) for text in row["leaks"]]
        cases += [
            Case(f"paraphrased: {kind}", True, text, row["a"]) for kind, text in reworded(row["q"], part)
        ]
        for at, (question, answer) in enumerate(row["clean"]):
            kind = "honest: other fact or question, by hand"
            cases.append(Case(kind, False, question, answer))
            if at == 0:  # the hardest: another fact that happens to have the same answer
                cases.append(Case("honest: other fact, same answer", False, question, row["a"]))
    return items, cases


def cases_of(recipe: str, part: str) -> tuple[list[GoldItem], list[Case]]:
    """A recipe's items, leaks of them, and honest samples."""
    items, key = gold(recipe, part), "schema:workshop" if recipe == "bicycle_workshop" else ""
    formal = recipe in ("smart_home", "bicycle_workshop")
    cases: list[Case] = []
    for item in items:
        if item.before or len(item.question.split()) < 8:
            continue  # so short a text is found with its conversation only, which is not what is made here
        cases += [Case(f"verbatim: {k}", True, t, item.answer, key) for k, t in verbatim(item.question, part)]
        if not formal:  # calls and queries are compared word by word only
            cases += [
                Case(f"paraphrased: {k}", True, t, item.answer) for k, t in reworded(item.question, part)
            ]
    rng = Random(f"{recipe} {part}")
    cases += [
        Case(f"honest: taught in {recipe}", False, q, a, key) for q, a in dict(taught(recipe, rng)).items()
    ]
    return items, cases


async def judge(items: list[GoldItem], cases: list[Case], options: ContaminationOptions) -> list[str]:
    """The measure by which each case was found, empty where it was kept."""
    domain: Any = SimpleNamespace(dev=(), test=tuple(items), folder=ROOT, recipe=None)
    refiner = Contamination(options, domain)
    samples = [
        Sample.create(
            [Message("user", case.question), Message("assistant", case.answer)],
            [Parent(f"call_{n}", "call")],
            "grounded",
            {"source_key": case.source_key},
        )
        for n, case in enumerate(cases)
    ]

    async def ask(*_: Any, **__: Any) -> Any:
        raise AssertionError

    decisions = await refiner.refine(samples, ask)
    return [str(decision.evidence.get("measure", "")) for decision in decisions]


def measure(part: str, options: ContaminationOptions, show: bool) -> dict[str, Any]:
    """Counts by kind, printed as a table; returns the rates."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for items, cases in [cases_by_hand(part), *(cases_of(recipe, part) for recipe in RECIPES)]:
        for case, measured in zip(cases, asyncio.run(judge(items, cases, options)), strict=True):
            counts[case.kind][measured or "kept"] += 1
            if show and case.leak == (not measured):
                print(f"  {case.kind} | {measured or 'kept'} | {case.question} | {case.answer}")
    print(f"\n{part:44} cases  found    rate  by")
    for kind, found in sorted(counts.items()):
        num_found = found.total() - found["kept"]
        by = ", ".join(f"{name} {n}" for name, n in found.most_common() if name != "kept")
        print(f"{kind:44} {found.total():5} {num_found:6} {num_found / found.total():7.2%}  {by}")
    rates = {"part": part, "embedder": str(options.embedder)}
    for name in ("verbatim", "paraphrased: by hand", "paraphrased", "honest: other", "honest"):
        chosen = [found for kind, found in counts.items() if kind.startswith(name)]
        total, kept = sum(f.total() for f in chosen), sum(f["kept"] for f in chosen)
        rates |= {name: [total - kept, total, round((total - kept) / total, 4)]}
    # What the measures over words leave for the embeddings.
    left = [
        (f["paraphrase"], f["paraphrase"] + f["kept"])
        for k, f in counts.items()
        if k.startswith("paraphrased")
    ]
    found, total = map(sum, zip(*left, strict=True))
    return rates | {"paraphrased, not found by words": [found, total, round(found / total, 4)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--part", choices=["development", "final", "both"], default="both")
    parser.add_argument("--folder", help="of a sentence-transformers model, in place of the bundled embedder")
    parser.add_argument("--show", action="store_true", help="print each case that is judged wrongly")
    given = parser.parse_args()
    embedder: Any = {"folder": str(Path(given.folder).resolve())} if given.folder else "bundled"
    options = ContaminationOptions.model_validate({"embedder": embedder})
    parts = ["development", "final"] if given.part == "both" else [given.part]
    results = [measure(part, options, given.show) for part in parts]
    print(json.dumps({"benchmark": "contamination", "results": results}))


if __name__ == "__main__":
    main()
