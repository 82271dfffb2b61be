"""Builds the demonstration domain: one authored file in, the recipe's files out.

Mental model: `rules.yaml` is the only thing a person edits. A rule is one quantity in one section, with
the questions that ask for it, kept apart by who may see them (teacher, seeds, refiner, dev, test). `check`
proves what the experiment rests on; `build` is a pure function from rules to texts; `--check` compares.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tiny.generated import write_or_check

Rule = dict[str, Any]
Draft = tuple[
    str, str, str | None, str
]  # question, careless draft, the expert's text or None to drop, reason
HERE = Path(__file__).parent
RECIPE = HERE.parent / "recipes" / "georgia_workers_comp"
NOTE = """> A demonstration in our own words of O.C.G.A. Title 34, Chapter 9. It may be out of date or wrong.
> It is no legal advice."""
FRAMES = ["", "In Georgia, ", "Quick question, ", "For a new case, ", "Under the handbook, "]
COUNTS = {"teacher": 8, "seeds": 2, "dev": 1, "test": 2}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9$/§.-]*[a-z0-9]", text.lower().replace("'", ""))


def grams(text: str, n: int) -> set[tuple[str, ...]]:
    w = words(text)
    return {tuple(w[i : i + n]) for i in range(len(w) - n + 1)}


def source_of(rule: Rule) -> str:
    return f"{rule['section']}-{re.sub(r'[^a-z0-9]+', '-', rule['title'].lower()).strip('-')}"


def answer_of(rule: Rule, quantity: str | None = None, section: str | None = None) -> str:
    return f"{quantity or rule['quantity']} (§ {section or rule['section']})"


def asked(rule: Rule, split: str) -> list[str]:
    value = rule.get(split, [])
    return [value] if isinstance(value, str) else value


def check(slices: dict[str, str], rules: list[Rule]) -> list[str]:
    """Every way in which the authored file breaks its own rules; empty when it keeps them."""
    bad: list[str] = []

    def need(holds: bool, message: str) -> None:
        if not holds:
            bad.append(message)

    need(len(slices) == 8 and len(rules) == 64, "there must be 8 slices and 64 rules")
    need(sum("refiner" in r for r in rules) == 44, "44 rules must have refiner questions")
    need(len({source_of(r) for r in rules}) == 64, "sources must be unique")
    need(len({r["id"] for r in rules}) == 64, "ids must be unique")
    for name in slices:
        group = [r for r in rules if r["slice"] == name]
        old = sum("outdated" in r for r in group)
        need(len(group) == 8 and old == 2, f"{name}: 8 rules, 2 of them outdated")
    questions = [(r, s, q) for r in rules for s in (*COUNTS, "refiner") for q in asked(r, s)]
    need(len({q for *_, q in questions}) == len(questions), "questions must be unique")
    for r in rules:
        keys, text, name = set(r["keywords"]), r["text"], r["id"]
        need(2 <= len(keys) <= 3 and keys <= set(words(text)), f"{name}: 2-3 keywords, all in the text")
        twins = [o["id"] for o in rules if o is not r and keys <= set(words(f"{o['title']} {o['text']}"))]
        need(not twins, f"{name}: its keywords also fit {twins}")
        need(12 <= len(words(text)) <= 28, f"{name}: the text has {len(words(text))} words, not 12-28")
        numbers = re.findall(r"\$?\d[\d/]*", text)
        need(
            r["quantity"] in text and len(numbers) == 1,
            f"{name}: text must hold its quantity, no other number",
        )
        need(r.get("outdated") != r["quantity"], f"{name}: outdated equals quantity")
        for split, count in {**COUNTS, **({"refiner": 2} if "refiner" in r else {})}.items():
            need(len(asked(r, split)) == count, f"{name}: {split} needs {count} questions")
    for r, split, q in questions:
        need(set(r["keywords"]) <= set(words(q)), f"{r['id']} {split}: a keyword is missing in {q!r}")
        need(
            split != "teacher" or 6 <= len(words(q)) <= 14,
            f"{r['id']}: teacher question not 6-14 words: {q!r}",
        )
        need((q + r["text"] + r["title"]).isascii(), f"{r['id']}: not ASCII: {q!r}")
    framed = [
        (f, t)
        for _, s, t in questions
        if s not in ("dev", "test")
        for f in (FRAMES if s == "refiner" else [""])
    ]
    seen = {g: t for f, t in framed for g in grams(f + t, 4)}
    seen |= {g: t for r in rules for t in (f"{r['section']} {r['title']}", r["text"]) for g in grams(t, 4)}
    dev = {g: q for _, s, q in questions if s == "dev" for g in grams(q, 8)}
    for r, split, q in questions:
        if split in ("dev", "test"):
            shared = grams(q, 4) & seen.keys()
            bad += [f"{r['id']} {split}: {q!r} shares {' '.join(g)!r} with {seen[g]!r}" for g in shared]
        if split == "test":
            bad += [
                f"{r['id']}: test {q!r} shares 8 words with dev {dev[g]!r}" for g in grams(q, 8) & dev.keys()
            ]
    return bad


def drafts(rule: Rule, question: str, rules: list[Rule], rng: random.Random) -> Iterator[Draft]:
    """Four clean and four careless drafts for one question, in frames that tell nothing."""
    right, quantity, section = answer_of(rule), rule["quantity"], rule["section"]
    number, _, unit = quantity.partition(" ")
    value = 0 if "/" in number else int(number.lstrip("$"))
    others = [
        n for n in (value * 2, value * 3, value + 5 * (1 + value // 20), value // 2) if n > 1 and n != value
    ]
    wrong = [f"${n}" if "$" in number else f"{n} {'years' if unit == 'year' else unit}" for n in others]
    wrong = wrong if value else [f"{n} {unit}" for n in ("1/2", "3/4", "1/3")]
    units = [
        u
        for u in ("days", "weeks", "months", "years", "percent", "hours")
        if u.rstrip("s") != unit.rstrip("s")
    ]
    elsewhere = [r for r in rules if r["slice"] != rule["slice"] and r["section"] != section]
    far = rng.choice([r for r in elsewhere if "refiner" in r])
    cites = [f"({section})", f"§ {section}", f"(Sec. {section})", f"(§ {section.replace('-', ' ')})"]
    stubs = [number, quantity, f"{quantity} (", f"{quantity} (§", "-"]
    faults: list[Draft] = [
        (
            question,
            answer_of(rule, rng.choice([w for w in wrong if w != rule.get("outdated")])),
            right,
            "wrong_quantity",
        ),
        (question, answer_of(rule, f"{number.lstrip('$')} {rng.choice(units)}"), right, "wrong_quantity"),
        (question, answer_of(rule, section=rng.choice(elsewhere)["section"]), right, "wrong_citation"),
        (question, f"{quantity} {rng.choice(cites)}", right, "malformed_citation"),
        (question, rng.choice(stubs), right, "truncated"),
        (rng.choice(far["refiner"]), rng.choice([answer_of(far), right]), None, "off_source"),
    ]
    clean: list[Draft] = [(question, right, right, "ok")] * 4
    for part in (clean, rng.sample(faults, 4)):
        for frame, (q, draft, corrected, reason) in zip(rng.sample(FRAMES, 4), part, strict=True):
            yield frame + (q[0].lower() + q[1:] if frame else q), draft, corrected, reason


def build(slices: dict[str, str], rules: list[Rule]) -> dict[str, str]:
    """Path under the recipe -> text, the same for the same rules."""
    lines = ["# Georgia workers' compensation: a short handbook", "", NOTE]
    for slug, title in slices.items():
        lines += ["", f"## {title}"]
        for r in (r for r in rules if r["slice"] == slug):
            lines += ["", f"### § {r['section']} {r['title']}", "", r["text"]]
    rows: dict[str, list[dict[str, Any]]] = {"seeds": [], "gold/refiner": [], "gold/dev": [], "gold/test": []}
    for r in rules:
        tail = {"slice": r["slice"], "source": source_of(r)}
        for i, q in enumerate(asked(r, "seeds"), 1):
            rows["seeds"].append({"id": f"{r['id']}-{i}", "prompt": q, **tail})
        for split in ("dev", "test"):
            for i, q in enumerate(asked(r, split), 1):
                row: dict[str, Any] = {"id": f"{split}-{r['id']}-{i}", "question": q, "answer": answer_of(r)}
                rows[f"gold/{split}"].append({**row, **tail})
        rng = random.Random(r["id"])
        made = [d for q in asked(r, "refiner") for d in drafts(r, q, rules, rng)]
        for i, (q, draft, corrected, reason) in enumerate(made, 1):
            row = {"id": f"refiner-{r['id']}-{i}", "question": q, "answer": draft, "corrected": corrected}
            rows["gold/refiner"].append({**row, "reason": reason, **tail})
    text = {k: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in v) for k, v in rows.items()}
    return {"sources/handbook.md": "\n".join(lines) + "\n", **{f"{k}.jsonl": v for k, v in text.items()}}


def main() -> int:
    data = yaml.safe_load((HERE / "rules.yaml").read_text(encoding="utf-8"))
    slices, rules = data["slices"], data["rules"]
    if bad := check(slices, rules):
        print("tiny/rules.yaml:", *bad, sep="\n  ", file=sys.stderr)
        return 1
    files = build(slices, rules)
    if not write_or_check(files, RECIPE, "tiny.build_domain"):
        return 1
    counts = ", ".join(f"{name} {text.count(chr(10))}" for name, text in files.items() if name.endswith("l"))
    print(f"{len(rules)} rules, {len(slices)} slices; {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
