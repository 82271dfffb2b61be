"""How long a dataset's samples are in a base's tokens, counted without refusing the long ones.

Whatever else cannot be learned, judged answers too, is refused here as training would refuse it, so a plan
over a dataset is also its check. The tokens are dropped once they are counted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.errors import TrainingError
from factory.ports import SampleLengths
from training.tokens import IGNORED, Row


def read_lengths(dataset: Path, base: str, options: Mapping[str, Any]) -> SampleLengths:
    """The lengths of a JSONL file's chats, long ones as their parts where the options split them.

    `options` are those of `QLoRAOptions`, `max_length` at least. Raises TrainingRefused for what no
    max_length would save, and for judged answers that cannot be learned.
    """
    from transformers import AutoTokenizer

    from training.chats import read_chats
    from training.judged_answers import check_answers, read_judged
    from training.splitting import fitting
    from training.tokens import stop_ids_of, tokenize, too_long

    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        hint = "without --dataset the plan needs none"
        what = f"the base's tokenizer cannot be read: {str(error).splitlines()[0]}"
        raise TrainingError(what, where=base, hint=hint) from error
    stop_ids, max_length = stop_ids_of(base, tokenizer), options["max_length"]
    if max_length <= tokenizer.model_max_length:  # what is longer than the base's context is refused below
        logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
    chats = list(fitting(read_chats(dataset), tokenizer, options))
    rows = tokenize(chats, tokenizer, stop_ids, sys.maxsize)
    judged = read_judged(dataset, (options.get("preference") or {}).get("method"))
    check_answers(judged, tokenizer, stop_ids, max_length)
    places = [chat["where"] for chat in chats]
    refused = too_long(rows, places, max_length, split=options.get("split_long", False))
    return count_lengths(rows, max_length)._replace(refusal=str(refused or ""))


def count_lengths(rows: Sequence[Row], max_length: int) -> SampleLengths:
    """The lengths of rows, those above `max_length` apart."""
    kept = [row for row in rows if len(row.input_ids) <= max_length]
    refused = [len(row.input_ids) for row in rows if len(row.input_ids) > max_length]
    lengths = [len(row.input_ids) for row in kept]
    learned = [sum(label != IGNORED for label in row.labels) for row in kept]
    return SampleLengths(
        num_samples=len(kept),
        num_tokens=sum(lengths),
        num_learned_tokens=sum(learned),
        mean=sum(lengths) / len(kept) if kept else 0.0,
        longest=max(lengths, default=0),
        longest_learned=max(learned, default=0),
        num_refused=len(refused),
        longest_refused=max(refused, default=0),
    )
