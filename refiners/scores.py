"""What the refiner thinks of an answer, read from the probabilities of its own words where they are there.

`grounded` and `form` are the probability of the digit 1; without probabilities they are the digit that it
wrote. `keep` is the probability that the answer is right as it is: of the verdict `keep`, or of an edit that
puts the whole answer in its own place. It exists only as a probability, and is calibrated where it can be
(`factory.calibration`). What follows from scores is not decided here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from factory.calibration import Calibration
from factory.edits import Op
from factory.probabilities import choice_at, likelihood_of
from factory.tokens import Token
from factory.types import Completion

VERDICTS: Final = ("keep", "edit", "rewrite", "drop")
WRITTEN: Final = "edit"  # scorers: digits that the refiner wrote,
READ: Final = "edit_probability"  # the probabilities of its tokens,
CALIBRATED: Final = "edit_calibrated"  # and what these are worth on drafts with known answers
METRICS: Final = ("grounded", "form")
KEEP: Final = "keep"
TOP_LOGPROBS: Final = 5  # as many as any endpoint gives

Scores = Mapping[tuple[str, str], float | None]  # by metric and scorer


class Reading(NamedTuple):
    """How scores are read: whether the refiner replaces every answer that it does not drop, and the map."""

    restates: bool = False
    calibration: Calibration | None = None


def read_scores(
    reply: Completion, answer: str, ops: Sequence[Op], digits: Mapping[str, float] | None, how: Reading
) -> Scores:
    """The scores in a reply about `answer`, each by its best scorer; `digits` are what it wrote.

    None for a metric that should be there and is not.
    """
    found: dict[tuple[str, str], float | None] = {}
    text, tokens = reply.text, reply.logprobs or ()
    for metric in METRICS:
        digit = _choice(text, tokens, rf'"{metric}"\s*:\s*', ("0", "1"))
        written = digits.get(metric) if digits else None
        found[(metric, READ) if digit else (metric, WRITTEN)] = digit["1"] if digit else written
    if verdict := _choice(text, tokens, r'"verdict"\s*:\s*"', VERDICTS):
        confirmed = _confirmed(text, tokens, answer, ops, restates=how.restates)
        found[KEEP, READ] = raw = verdict["keep"] + verdict["edit"] * confirmed
        if how.calibration:
            found[KEEP, CALIBRATED] = how.calibration.apply(raw)
    return found


NO_SCORES: Final[Scores] = {(metric, WRITTEN): None for metric in METRICS}  # should have been given


def probability_to_keep(scores: Scores) -> float | None:
    """How likely the answer is right as it is: calibrated, else as read; None where nothing tells."""
    return scores.get((KEEP, CALIBRATED), scores.get((KEEP, READ)))


def worst(scores: Sequence[Scores]) -> Scores:
    """Of several answers the lowest of each; None where one of them should have it and has not."""
    names = dict.fromkeys(name for each in scores for name in each)
    return {name: _lowest([each.get(name) for each in scores]) for name in names if _is_told(name, scores)}


def _is_told(name: tuple[str, str], scores: Sequence[Scores]) -> bool:
    return name[1] == WRITTEN or all(name in each for each in scores)


def _lowest(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if len(known) == len(values) else None


def _choice(
    text: str, tokens: Sequence[Token], before: str, choices: Sequence[str]
) -> dict[str, float] | None:
    place = re.search(before, text)
    return choice_at(tokens, place.end(), choices) if place else None


def _confirmed(
    text: str, tokens: Sequence[Token], answer: str, ops: Sequence[Op], *, restates: bool
) -> float:
    """The probability that an edit leaves the answer as it is."""
    place = re.search(r'"new"\s*:\s*"', text)
    if place and len(ops) == 1 and is_whole(ops[0], answer):
        restated = json.dumps(answer, ensure_ascii=False)[1:]  # with the quotation mark that ends it
        return likelihood_of(tokens, place.end(), restated) or 0.0
    return float(restates and not ops)  # dropped: what it would have restated is not known


def is_whole(op: Op, answer: str) -> bool:
    """Whether an operation replaces the whole answer."""
    return op.op == "replace" and op.old == answer
