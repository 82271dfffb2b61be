"""How long a dataset's samples are in a base's tokens, counted without refusing the long ones.

A sample that cannot be learned for another reason is refused here as training would refuse it, so a plan
over a dataset is also its check. The tokens are dropped once they are counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from factory.errors import TrainingError
from factory.ports import SampleLengths
from training.tokens import IGNORED, Chat, Row


def read_lengths(dataset: Path, base: str, max_length: int, split: bool = False) -> SampleLengths:
    """The lengths of a JSONL file's chats, long ones as their parts where they are `split`.

    Raises TrainingRefused for one that no max_length would save.
    """
    from transformers import AutoTokenizer

    from training.chats import read_chats
    from training.splitting import split_long
    from training.tokens import stop_ids_of, tokenize

    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        hint = "without --dataset the plan needs none"
        raise TrainingError("the base has no tokenizer", where=base, hint=hint) from error
    chats: Iterator[Chat] = read_chats(dataset)
    if split:
        chats = split_long(chats, tokenizer, max_length)
    rows = tokenize(chats, tokenizer, stop_ids_of(base, tokenizer), sys.maxsize)
    return count_lengths(rows, max_length)


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
