"""Measures the committed tiny models: `python -m tiny.measure [base|teacher|refiner|student ...]`.

Every figure is on wordings that the measured model was not trained on: dev and test questions for the
student, fresh frames and corruptions for the refiner, and for the refiner also sections whose numbers
were changed after it was trained, which it can only get right by reading.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from factory import edits
from factory.edits import EditRefused, Op
from tiny import adapters, rules, sampling, tasks, teacher
from tiny.rules import Rule

MODELS = Path(__file__).parent / "models"
STUDENT = {
    "rank": 32,
    "alpha": 64.0,
    "learning_rate": 4e-3,
    "dropout": 0.2,
    "neftune_noise_alpha": 5.0,
    "batch_size": 32,
    "num_epochs": 3.8,
    "lr_scheduler": "cosine",
    "max_length": 128,
}


def correct(model: Any, tok: Any, split: str) -> float:
    """The share of held-out questions answered exactly, quantity and section."""
    items = [(q, r.answer) for r in rules.read() for q in ((r.dev,) if split == "dev" else r.test)]
    replies = sampling.ask(model, tok, [q for q, _ in items], max_tokens=24)
    return sum(reply == answer for reply, (_, answer) in zip(replies, items, strict=True)) / len(items)


def measure_base(models: Path = MODELS) -> dict[str, float]:
    model, tok = sampling.load(models / "base")
    return {"test_correct": correct(model, tok, "test"), **read_context(model, tok, 500)}


def read_context(model: Any, tok: Any, count: int) -> dict[str, float]:
    """The base on fictional law: exact decisions, and recall is not asked."""
    rng = Random(77)
    pairs = [tasks.edit(rng) for _ in range(count)]
    replies = sampling.ask(model, tok, [user for user, _ in pairs])
    return {"fictional_edits_exact": sum(r == a for r, (_, a) in zip(replies, pairs, strict=True)) / count}


def measure_teacher(models: Path = MODELS, per_rule: int = 4, temperature: float = 0.7) -> dict[str, float]:
    """What it asks in each manner of the recipe, and as `seeded`, at the temperature of the tiny profile."""
    model, tok = sampling.load(models / "base", models / "teacher")
    known, out = [rule for rule in rules.read() for _ in range(per_rule)], {}
    for manner, sentence in teacher.manners().items():
        prompts = [tasks.render("generators", "grounded", source=rule, style=sentence) for rule in known]
        replies = sampling.ask(model, tok, prompts, temperature=temperature)
        pairs = [(d.get("question", ""), d.get("answer", "")) for d in (parse(r) or {} for r in replies)]
        out |= {f"{manner}_{key}": value for key, value in describe(known, pairs).items()}
    rng = Random(5)
    seeds = [
        tasks.render("generators", "seeded_prompt", examples=[{"prompt": rng.choice(r.seeds)}]) for r in known
    ]
    asked = sampling.ask(model, tok, seeds, temperature=temperature)
    questions = [(parse(reply) or {}).get("question", "") for reply in asked]
    answered = sampling.ask(
        model,
        tok,
        [tasks.render("generators", "seeded_answer", question=q) for q in questions],
        temperature=temperature,
    )
    seeded = [(q, (parse(r) or {}).get("answer", "")) for q, r in zip(questions, answered, strict=True)]
    return out | {f"seeded_{k}": v for k, v in describe(known, seeded).items()}


def describe(known: list[Rule], pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Shares of the teacher's samples, each with the rule it should be about."""
    count, seen = Counter[str](), set[str]()
    for rule, (question, answer) in zip(known, pairs, strict=True):
        count["parsed"] += bool(question and answer)
        count["has_keywords"] += all(key in question.lower() for key in rule.keywords)
        count["distinct"] += question not in seen
        seen.add(question)
        if rule.outdated:
            count["outdated"] += answer == rule.remembered
            count["outdated_but_right"] += answer == rule.answer
        else:
            count["current"] += answer == rule.answer
        count["malformed"] += bool(answer) and not answer.endswith(f" ({rule.citation})")
    old = sum(bool(rule.outdated) for rule in known)
    sizes = {"outdated": old, "outdated_but_right": old, "current": len(known) - old}
    return {name: round(count[name] / sizes.get(name, len(known)), 4) for name in count}


def parse(text: str) -> dict[str, Any] | None:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        return None


def changed(rng: Random, rule: Rule) -> Rule:
    """The rule with another number in its text, as if the statute had been amended."""
    other = teacher.misremember(rng, rule.quantity)
    return replace(rule, quantity=other, text=rule.text.replace(rule.quantity, other))


def fresh(rng: Random, known: list[Rule], per_rule: int) -> list[tuple[Rule, str, str, str]]:
    """(rule, question, answer, fault): half clean, half with the teacher's faults or another's question."""
    items = []
    for rule in known:
        asks = [
            *rule.teacher,
            *rule.refiner,
            rule.dev,
            *rule.test,
            *(rules.reword(rng, rule) for _ in range(6)),
        ]
        for index in range(per_rule):
            fault = (
                "ok"
                if index % 2 == 0
                else rng.choice(
                    ["wrong_quantity"] * 3
                    + ["wrong_citation", "malformed_citation", "truncated", "off_source"]
                )
            )
            question, answer = rng.choice(asks), rule.answer
            if fault == "wrong_quantity":
                old = (
                    rule.outdated
                    if rule.outdated and rule.outdated != rule.quantity and rng.random() < 0.5
                    else ""
                )
                answer = f"{old or teacher.misremember(rng, rule.quantity)} ({rule.citation})"
            elif fault == "wrong_citation":
                cite = rng.choice([r.citation for r in known if r.citation != rule.citation])
                answer = f"{rule.quantity} ({cite})"
            elif fault == "malformed_citation":
                answer = teacher.malform(rng, answer)
            elif fault == "truncated":
                answer = teacher.truncate(rng, rule.quantity)
            elif fault == "off_source":
                other = rng.choice([r for r in known if r.slice != rule.slice])
                question, answer = rng.choice(other.teacher), other.answer
            items.append((rule, question, answer, fault))
    return items


def measure_refiner(models: Path = MODELS, per_rule: int = 16) -> dict[str, float]:
    model, tok = sampling.load(models / "base", models / "refiner")
    rng, out = Random(11), {}
    for name in ("", "changed_"):
        known = [changed(rng, rule) if name else rule for rule in rules.read()]
        items = fresh(rng, known, per_rule)
        prompts = [tasks.render("refiners", "edit", source=r, question=q, answer=a) for r, q, a, _ in items]
        replies = sampling.ask(model, tok, prompts, max_tokens=110)
        out |= {name + key: value for key, value in judge(items, replies).items()}
    return out


def judge(items: list[tuple[Rule, str, str, str]], replies: list[str]) -> dict[str, float]:
    """How the refiner did: faults fixed exactly, clean answers damaged, F1 of `something is wrong`."""
    right, total, unseen = Counter[str](), Counter[str](), Counter[str]()
    for (rule, _, answer, fault), reply in zip(items, replies, strict=True):
        result = outcome(reply, answer)
        good = result == (None if fault == "off_source" else rule.answer)
        right[fault] += good
        total[fault] += 1
        unseen["total"] += not rule.refiner
        unseen["right"] += good and not rule.refiner
        flagged = result != answer
        right["true_positive"] += flagged and fault != "ok"
        right["flagged"] += flagged
    faults = sum(total.values()) - total["ok"]
    fixed = sum(right[fault] for fault in total if fault != "ok")
    return {
        "faults_fixed_exactly": fixed / faults,
        "clean_damaged": 1 - right["ok"] / total["ok"],
        "verdict_f1": 2 * right["true_positive"] / (right["flagged"] + faults),
        "unseen_rules_right": unseen["right"] / max(unseen["total"], 1),
        **{f"fixed_{fault}": right[fault] / total[fault] for fault in total if fault != "ok"},
    }


def outcome(reply: str, answer: str) -> str | None:
    """The answer after the refiner's decision; None where it is dropped or the decision cannot be read."""
    decision = parse(reply) or {}
    try:
        match decision.get("verdict"):
            case "keep":
                return answer
            case "edit":
                return edits.apply([Op(**op) for op in decision["ops"]], answer)
            case "rewrite":
                return str(decision["rewrite"])
    except (EditRefused, KeyError, TypeError):
        return None
    return None


def measure_student(
    models: Path = MODELS, per_rule: int = 32, options: dict[str, Any] | None = None, which: str = "both"
) -> dict[str, float]:
    """Trains students on right samples and on the teacher's; the share of test questions each gets right."""
    rng, out = Random(3), {}
    asked = [
        (rule, text)
        for rule in rules.read()
        for text in rng.sample(rules.rewordings(rng, rule, 2 * per_rule), per_rule)
    ]
    runs = {
        "refined": [(q, r.answer) for r, q in asked],
        "raw": [(q, teacher.careless(rng, r)) for r, q in asked],
    }
    for name, pairs in runs.items():
        if which not in ("both", name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder) / name
            out[f"{name}_seconds"] = adapters.train(pairs, models / "base", directory, **(options or STUDENT))
            model, tok = sampling.load(models / "base", directory)
            out |= {f"{name}_{split}": correct(model, tok, split) for split in ("dev", "test")}
    return out


def main() -> None:
    measures = {
        "base": measure_base,
        "teacher": measure_teacher,
        "refiner": measure_refiner,
        "student": measure_student,
    }
    for name in sys.argv[1:] or measures:
        print(
            name,
            json.dumps({key: round(value, 4) for key, value in measures[name]().items()}, indent=1),
            flush=True,
        )


if __name__ == "__main__":
    main()
