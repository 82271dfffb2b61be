"""What the step `likelihood` refuses: edits whose worth is known, by the student's own likelihood.

Edits are those that the recipe's refiner, where it is trained, makes of the held-out drafts (factory.labels),
and, so that there are enough wrong ones, two of each faulty draft: the correction, and the correction undone.
A recipe without a student lends it the refiner's base.
Each goes through the product's own step, asked of the recipe's student, once with the sections before the
question, as the step has it, and once with the question alone; what it found out is held against the step's
rule and two simpler ones, at several margins.

    python -m benchmarks.likelihood --domain quickstart beekeeping
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from factory.domain import Domain
from factory.labels import Mixture
from factory.ports import Ask
from factory.progress import Progress
from factory.refiner_data import gather, held_out
from factory.refiner_evaluation import edit_step, sample_of
from factory.session import open_bench, open_domain
from factory.types import CheckedDraft, Message, Parent, Sample
from refiners.likelihood import Fit, Likelihood, is_worse

RECIPES = Path(__file__).parents[1] / "recipes"
DOMAINS = {"quickstart": "georgia_workers_comp", "beekeeping": "beekeeping"}
MARGINS = (0.0, 0.1, 0.25, 0.5, 1.0)
BATCH_SIZE = 64


class Edit(NamedTuple):
    """An edit and its original; `group` says whose it is and what it is worth."""

    group: str
    kind: str
    sample: Sample
    original: Sample


def with_text(original: Sample, text: str) -> Sample:
    """The edit of a draft that says `text`, as the step `edit` would make it."""
    parents = [Parent(original.id, "rewrite_of"), *original.parents]
    messages = [original.messages[0], Message("assistant", text)]
    return Sample.create(messages, parents, "edit", original.lasting)


def planted(domain: Domain, drafts: Sequence[CheckedDraft]) -> list[Edit]:
    """The expert's corrections, and each of them undone."""
    found = []
    for draft in drafts:
        if draft.corrected is not None and plain(draft.corrected) != plain(draft.answer):
            faulty = sample_of(domain, draft)
            right = sample_of(domain, replace(draft, answer=draft.corrected))
            found.append(Edit("right, planted", draft.reason, with_text(faulty, draft.corrected), faulty))
            found.append(Edit("wrong, planted", draft.reason, with_text(right, draft.answer), right))
    return found


async def made(domain: Domain, drafts: Sequence[CheckedDraft], ask: Ask) -> list[Edit]:
    """What the recipe's refiner edits, right where it is the expert's text."""
    step, found = edit_step(domain), []
    for batch in parts(drafts):
        samples = [sample_of(domain, draft) for draft in batch]
        decisions = await step.refine(samples, ask)
        for draft, original, decision in zip(batch, samples, decisions, strict=True):
            if decision.rewrite:
                worth = "right" if plain(decision.rewrite.answer) == plain(draft.corrected) else "wrong"
                found.append(Edit(f"{worth}, refiner's", draft.reason, decision.rewrite, original))
    return found


def parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The items in batches."""
    return (items[at : at + BATCH_SIZE] for at in range(0, len(items), BATCH_SIZE))


def plain(text: str | None) -> str | None:
    """A text but for white space."""
    return None if text is None else " ".join(text.split())


async def compared(domain: Domain, edits: Sequence[Edit], ask: Ask) -> list[tuple[Edit, Fit, Fit]]:
    """What the step finds out about each edit and its original, but for those that it cannot compare."""
    step, found = Likelihood(Likelihood.Options(), domain), []
    for batch in parts(edits):
        pairs = [[edit.sample for edit in batch], [edit.original for edit in batch]]
        for edit, decision in zip(batch, await step.compare(*pairs, ask), strict=True):
            if decision.reason == "student_failed":
                raise SystemExit(f"{decision.evidence}")
            if decision.scores:
                ifd = {score.metric: score.value or 0.0 for score in decision.scores}
                seen = decision.evidence["perplexity"], decision.evidence["perplexity_original"]
                fits = [Fit(value, value / each) for value, each in zip(seen, ifd.values(), strict=True)]
                found.append((edit, fits[0], fits[1]))
    return found


def by_ratio(edited: Fit, original: Fit, margin: float) -> bool:
    """The step's rule without a look at the perplexity itself."""
    return edited.ifd > original.ifd * (1 + margin) or original.ifd < 1 <= edited.ifd


def by_perplexity(edited: Fit, original: Fit, margin: float) -> bool:
    """After the prompt, without a look at the answer alone."""
    return edited.prompted > original.prompted * (1 + margin)


RULES = {"the step's": is_worse, "ratio alone": by_ratio, "perplexity alone": by_perplexity}


def with_student(domain: Domain) -> Domain:
    """The domain with a student: the recipe's, or the refiner's base."""
    models = domain.recipe.models
    student = models.get("student") or models["refiner"].model_copy(update={"adapter": None})
    recipe = domain.recipe.model_copy(update={"models": {**models, "student": student}})
    return replace(domain, recipe=recipe)


async def measure(name: str, profile: str, margins: Sequence[float]) -> list[dict[str, Any]]:
    """A row for each prompt, rule and margin of one domain: how many edits of each group are refused."""
    domain = with_student(open_domain(RECIPES / DOMAINS[name], profile))
    drafts = held_out(gather(domain, Mixture())[0])
    rows = []
    with tempfile.TemporaryDirectory(prefix="factory-likelihood-") as folder:
        async with open_bench(domain, Path(folder), Progress()) as bench:
            bench.record_run()
            edits = planted(domain, drafts)
            if domain.recipe.models["refiner"].adapter:
                asked, _ = await bench.ask("refiner", "evaluate", 0)
                edits += await made(domain, drafts, asked)
            student, _ = await bench.ask("student", "evaluate", 0)
            totals = Counter(edit.group for edit in edits)
            prompts = {"sections and question": domain, "question alone": replace(domain, sources=())}
            for prompt, known in prompts.items():
                found = await compared(known, edits, student)
                for rule, margin in product(RULES, margins):
                    refused = [edit for edit, *fits in found if RULES[rule](*fits, margin)]
                    groups = Counter(edit.group for edit in refused)
                    kinds = Counter(edit.kind for edit in refused if edit.group == "wrong, planted")
                    where = {"domain": name, "prompt": prompt, "rule": rule, "margin": margin}
                    counts = {group: [groups[group], totals[group]] for group in sorted(totals)}
                    rows.append({**where, "refused": counts, "wrong_kinds": kinds})
            calls = bench.store.select(
                """SELECT count(*) AS calls, sum(prompt_tokens) AS prompt_tokens,
                          sum(completion_tokens) AS completion_tokens FROM calls WHERE role = 'student'"""
            )
            rows.append({"domain": name, "drafts": len(drafts), **calls[0]})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--domain", nargs="+", choices=list(DOMAINS), default=list(DOMAINS))
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--margins", nargs="+", type=float, default=list(MARGINS))
    options = parser.parse_args()
    rows = [
        row for name in options.domain for row in asyncio.run(measure(name, options.profile, options.margins))
    ]
    print("| domain | prompt | rule | margin | refused of |\n|" + " --- |" * 5)
    for row in rows:
        if "rule" in row:
            shown = ", ".join(f"{name}: {num}/{total}" for name, (num, total) in row["refused"].items())
            print(f"| {row['domain']} | {row['prompt']} | {row['rule']} | {row['margin']} | {shown} |")
    print(json.dumps({"benchmark": "likelihood", "results": rows}))


if __name__ == "__main__":
    main()
