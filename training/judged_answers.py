"""The answers of a dataset that somebody judged, for preference training: read and checked.

Lines hold `prompt` with `chosen` and `rejected`, or with `completion` and `label` (whether it is a good one).
None is truncated: each answer is checked as a chat of its own. Nothing here loads torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from factory.errors import TrainingRefused
from training.chats import are_turns, check_roles, is_judged, read_lines
from training.tokens import tokenize

Judged = dict[str, Any]  # a pair or a labelled answer, as in the dataset
ANSWERS = ("chosen", "rejected", "completion")


def read_judged(dataset: Path, method: str | None) -> list[Judged]:
    """The pairs of a JSONL file for `dpo`, its labelled answers for `kto`; a pair counts as two of these.

    Raises TrainingRefused for a malformed one, for what the method cannot learn, and any without a method.
    """
    lines = list(_read(dataset))
    if lines and method is None:
        hint = "set `preference` in the training's options"
        what = "the dataset holds judged answers and no preference is trained"
        raise TrainingRefused(what, where=str(dataset), hint=hint)
    if method != "kto":
        if any("label" in line for line in lines):
            hint = "set `method: kto` in `preference`"
            raise TrainingRefused("DPO learns pairs, not labelled answers", where=str(dataset), hint=hint)
        return lines
    labelled = [each for line in lines for each in _labelled(line)]
    if len({each["label"] for each in labelled}) == 1:
        which = "good" if labelled[0]["label"] else "bad"
        hint = "people must have judged some of both, or leave `preference` out"
        raise TrainingRefused(
            f"KTO needs good and bad answers, all are {which}", where=str(dataset), hint=hint
        )
    return labelled


def check_answers(judged: Sequence[Judged], tokenizer: Any, stop_ids: set[int], max_length: int) -> None:
    """Raises TrainingRefused where an answer cannot be learned as it is."""
    for side in ANSWERS:
        chats = [{"messages": [*line["prompt"], *line[side]]} for line in judged if side in line]
        try:
            if chats:
                tokenize(chats, tokenizer, stop_ids, max_length)
        except TrainingRefused as error:
            what, where = f"of the judged answers ({side}), {error.what}", error.where
            hint = error.hint if where else "raise max_length, or drop them; split_long does not cut these"
            where = where.replace("the dataset", "them")
            raise TrainingRefused(what, where=where, hint=hint) from error


def _read(dataset: Path) -> Iterator[Judged]:
    for _, where, line in read_lines(dataset):
        found = json.loads(line)
        if not is_judged(found):
            continue
        keys = ("chosen", "rejected") if "chosen" in found else ("completion",)
        judged = {key: found.get(key) for key in ("prompt", *keys)}
        is_labelled = "chosen" in found or isinstance(found["label"], bool)
        if not is_labelled or not all(map(are_turns, judged.values())):
            what = 'a judged answer is a line like {"prompt": […], "chosen": […], "rejected": […]} or '
            what += '{"prompt": […], "completion": […], "label": true}, with turns in the lists'
            raise TrainingRefused(what, where=where)
        for turns in judged.values():
            check_roles(turns, where)
        yield judged if "chosen" in found else {**judged, "label": found["label"]}


def _labelled(line: Judged) -> Iterator[Judged]:
    """A line as labelled answers: itself, or the two sides of a pair."""
    if "label" in line:
        yield line
        return
    for side, label in (("chosen", True), ("rejected", False)):
        yield {"prompt": line["prompt"], "completion": line[side], "label": label}
