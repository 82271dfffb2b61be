"""Models that somebody wants to see side by side: all asked the same items in one session of their server.

Their answers are stored item by item, as evaluations of no round. The first model is what the others are
compared with, by the gate's own rule, which decides nothing here. That each is what it is called is shown by
`factory.contender`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.contender import Contender, Proven, ask_split, check_files, proven
from factory.errors import InputError
from factory.evaluations import judge_answers, record_by_hand
from factory.loop import promoted_adapter, student_folder, trained_model
from factory.promotion import promoted_round
from factory.significance import wilson
from factory.types import Comparison, Evaluation, Split

if TYPE_CHECKING:
    from factory.bench import Bench
    from factory.ports import Evaluator


@dataclass(frozen=True, slots=True)
class Difference:
    """A model's mean score less that of the first, on the same items.

    `low` and `high` are one-sided 95 % bounds, so that 90 % lie between them; `p_value` is two-sided.
    """

    against: str
    gain: float
    low: float
    high: float
    p_value: float
    num_better: int
    num_worse: int


def find_contender(bench: Bench, word: str) -> Contender:
    """Who is meant by `base`, `promoted`, a student's name or id, or an adapter's folder.

    Raises InputError where nothing is.
    """
    if word == "base":
        return Contender(word)
    if word == "promoted":
        folder = promoted_adapter(bench)
        return Contender(word, folder, trained_model(bench, promoted_round(bench.store, bench.run_id)))
    folder = Path(word).expanduser().resolve()
    if folder.is_dir():
        return Contender(word, folder)
    rows = bench.store.select(
        """SELECT id, adapter, run_id, round FROM models
           WHERE role = 'student' AND adapter IS NOT NULL AND (id = $1 OR name = $1)""",
        (word,),
    )
    if len(rows) != 1:
        found = "no student and no folder" if not rows else f"{len(rows)} students"
        hint = "base, promoted, a student's name or id (in `models`), or an adapter's folder"
        raise InputError(f"there is {found} '{word}'", where="--model", hint=hint)
    row = rows[0]
    own = student_folder(bench, row["round"]) if row["run_id"] == bench.run_id else Path(row["adapter"])
    return Contender(word, own, row["id"])


def find_contenders(bench: Bench, words: Sequence[str]) -> list[Contender]:
    """All of them; raises InputError where two are one model, FactoryError where files are not as trained."""
    found = [find_contender(bench, word) for word in words]
    known: dict[str, str] = {}
    for each in found:
        model_id = bench.pool.model_id("student", each.folder)
        if model_id in known:
            what = f"'{known[model_id]}' and '{each.name}' are the same model, {model_id}"
            raise InputError(what, where="--model", hint="name each model once")
        known[model_id] = each.name
        check_files(bench, each)  # before a server is started
    return found


async def evaluate_by_hand(bench: Bench, words: Sequence[str], split: Split) -> dict[str, Any]:
    """What `factory evaluate --model` prints: every model's result on the split, and how it differs."""
    answered: list[tuple[Proven, Evaluation]] = []
    for contender in find_contenders(bench, words):
        async with proven(bench, contender) as served:
            answered.append((served, await ask_split(bench, served, split)))
    found: list[tuple[Proven, Evaluation]] = []
    for served, evaluation in answered:
        (scored,) = await judge_answers(bench, 0, [evaluation], served.name)
        found.append((served, scored))
    for served, evaluation in found:
        record_contender(bench, served)
        record_by_hand(bench, evaluation)
    first = found[0][1]
    models = [describe(served, evaluation) for served, evaluation in found]
    for model, (_, evaluation) in zip(models[1:], found[1:], strict=True):
        model["difference"] = asdict(differ(bench.evaluator, words[0], first, evaluation))
        told = bench.evaluator.compare(first, evaluation)
        for row in model["slices"]:
            change = next(each for each in told.slices if each.name == row["slice"])
            row |= {"difference": change.gain, "p_fell": change.p_fell}
    return {"run": bench.run_id, "split": split, "metric": first.metric, "models": models}


def record_contender(bench: Bench, served: Proven) -> None:
    """Its row in `models`, where it has none."""
    if served.folder is not None:
        digest = served.proof.digest if served.proof else None
        bench.record_model("student", served.model_id, str(served.folder), digest)


def describe_contender(served: Proven) -> dict[str, Any]:
    """Who was asked, and what was found out about its adapter, as data that can be printed."""
    return {
        "model": served.name,
        "model_id": served.model_id,
        "adapter": str(served.folder) if served.folder else None,
        "digest": served.proof.digest if served.proof else None,
        "served": asdict(served.proof) if served.proof else None,
    }


def describe(served: Proven, evaluation: Evaluation) -> dict[str, Any]:
    """A model's result with what was found out about it, as data that can be printed."""
    slices: dict[str, list[float]] = {}
    for item in evaluation.items:
        slices.setdefault(item.slice, []).append(item.score)
    return {
        **describe_contender(served),
        "num_items": len(evaluation.items),
        "mean": evaluation.mean,
        "low": evaluation.low,
        "high": evaluation.high,
        "slices": [_slice(name, scores) for name, scores in sorted(slices.items())],
    }


def _slice(name: str, scores: Sequence[float]) -> dict[str, Any]:
    mean = sum(scores) / len(scores)
    low, high = wilson(mean, len(scores))
    return {"slice": name, "num_items": len(scores), "mean": mean, "low": low, "high": high}


def differ(evaluator: Evaluator, against: str, first: Evaluation, other: Evaluation) -> Difference:
    """`other` less `first`, by the evaluator's comparison in both directions."""
    up, down = evaluator.compare(first, other), evaluator.compare(other, first)
    p_value = min(1.0, 2 * min(_p(up), _p(down)))
    return Difference(
        against, up.gain, up.gain_low, 0.0 - down.gain_low, p_value, up.num_better, up.num_worse
    )


def _p(found: Comparison) -> float:
    """One-sided; half the two-sided where an evaluator of somebody's own tells no other."""
    return found.p_value / 2 if found.p_gain is None else found.p_gain
