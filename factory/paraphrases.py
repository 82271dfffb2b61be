"""Finds a held-out item again where a sample asks it in other words.

An embedder names the items that are nearest to a question; then the words decide. An item is repeated where
its answer is given and its question is close: the mean of the cosine of both and of how much of the item's
question is covered by the sample's words, each with its nearest by vectors (as the recall of BERTScore, Zhang
et al. 2020, arXiv 1904.09675; a word counts as much as its vector is long). Samples of one template about
another fact differ in the answer; independent questions about the same fact, which a training set must
have, are less close. Measured on benchmarks/contamination.py. Answers that are calls or queries are not
compared: a domain has few of them, and each must be learned.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from factory.embedding.bundled import BundledEmbedder, bundled
from factory.held_out import asked
from factory.overlap import GRAM, Hit
from factory.particulars import Particulars, particulars, with_digits
from factory.words import words

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from factory.embedding.options import Embedder
    from factory.types import GoldItem, Sample

# Chosen on the development set, and so that what the recipes' teachers are taught to ask passes. A follow-up
# is compared with what was asked before it, whose words bring it nearer to an item than it is.
MIN_CLOSENESS = 0.70
MIN_CLOSENESS_OF_FOLLOW_UP = 0.74
MIN_ANSWER = 0.6  # of the words of the shorter answer, covered by the other's
NUM_NEIGHBOURS = 5
SHORTEST = 4  # words of a question that says enough
BUNDLED_BACKGROUND = (
    0.1  # median cosine of the bundled embedder between questions of one domain (0.06 to 0.2)
)


@dataclass(frozen=True, slots=True)
class _Item:
    """What is compared of an item."""

    index: int
    question: str
    given: Particulars
    answer: str
    answered: Particulars


class _Turn(NamedTuple):
    """A question with its answer; that of a follow-up holds what was asked before it."""

    question: str
    answer: str
    is_follow_up: bool


class Paraphrases:
    """The items of held-out sets; embedded when the first sample comes."""

    def __init__(self, items: Sequence[GoldItem], embedder: Embedder) -> None:
        self._embedder = embedder
        self._items = [_item(index, item) for index, item in enumerate(items) if _says_enough(item)]
        self._rows: NDArray[np.float32] | None = None
        self._background = 0.0

    async def find(self, samples: Sequence[Sample]) -> list[tuple[int, Hit, str] | None]:
        """For each sample an item that it repeats, how, and which question does."""
        turns = [(at, turn) for at, sample in enumerate(samples) for turn in _turns(sample)]
        if not turns or not self._items:
            return [None] * len(samples)
        if self._rows is None:
            self._rows = await self._embedder.vectors([item.question for item in self._items])
            self._background = self._common(self._rows)
        rows = await self._embedder.vectors([turn.question for _, turn in turns])
        return await asyncio.to_thread(self._judge_all, len(samples), turns, self._scaled(rows, self._rows))

    def _judge_all(
        self, num_samples: int, turns: Sequence[tuple[int, _Turn]], cosines: NDArray[np.float32]
    ) -> list[tuple[int, Hit, str] | None]:
        found: list[tuple[int, Hit, str] | None] = [None] * num_samples
        for row, (at, turn) in zip(cosines, turns, strict=True):
            if found[at] is None and (hit := self._judge(row, turn)):
                found[at] = (hit[0], hit[1], turn.question)
        return found

    def _judge(self, cosines: NDArray[np.float32], turn: _Turn) -> tuple[int, Hit] | None:
        """The closest of the neighbours that a question with its answer repeats."""
        best: tuple[int, Hit] | None = None
        given, answered = particulars(turn.question), particulars(turn.answer)
        least = MIN_CLOSENESS_OF_FOLLOW_UP if turn.is_follow_up else MIN_CLOSENESS
        for at in np.argsort(-cosines, kind="stable")[:NUM_NEIGHBOURS]:
            item, cosine = self._items[at], float(cosines[at])
            if 1 + cosine < 2 * least or not _may_be(item, given, answered):
                continue
            closeness = (cosine + coverage(item.question, turn.question)) / 2
            if closeness < least or not _same_answer(item.answer, turn.answer):
                continue
            if best is None or closeness > best[1].value:
                best = (item.index, Hit("paraphrase", closeness))
        return best

    def _common(self, rows: NDArray[np.float32]) -> float:
        """What any two questions of the domain have in common on the embedder's own scale: a cosine."""
        between = (rows @ rows.T)[~np.eye(len(rows), dtype=bool)]
        is_bundled = isinstance(getattr(self._embedder, "model", None), BundledEmbedder)
        known = len(rows) > NUM_NEIGHBOURS and not is_bundled
        return min(0.95, float(np.median(between))) if known else BUNDLED_BACKGROUND

    def _scaled(self, rows: NDArray[np.float32], items: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosines with all items, on the bundled embedder's scale.

        On another model's, 1 is the same text too, but what any two questions of a domain have in common is
        its own: the median of cosines between items, which is put where the bundled embedder has it.
        """
        share = (rows @ items.T - self._background) / (1 - self._background)
        scaled: NDArray[np.float32] = BUNDLED_BACKGROUND + share * (1 - BUNDLED_BACKGROUND)
        return scaled


def coverage(text: str, other: str) -> float:
    """How much of `text` the words of `other` say, each by its nearest; from 0 to 1 for all of it."""
    ours, theirs = (list(dict.fromkeys(with_digits(words(each)))) for each in (text, other))
    if not ours or not theirs:
        return 0.0
    rows, weights = bundled().words(ours)
    columns, _ = bundled().words(theirs)
    nearest = np.maximum((rows @ columns.T).max(axis=1), 0)
    return float((nearest * weights).sum() / max(float(weights.sum()), 1e-9))


def _may_be(item: _Item, given: Particulars, answered: Particulars) -> bool:
    """Whether what the item is particular about is there; a story around it may say more."""
    numbers = {value for value in item.given.values if value[-1:].isdigit()}
    said = given.values | given.words
    if not numbers <= said or not item.given.names <= given.words | answered.words:
        return False
    ours, theirs = item.answered.values, answered.values
    return ours <= theirs or (bool(theirs) and theirs <= ours)


def _same_answer(left: str, right: str) -> bool:
    return max(coverage(left, right), coverage(right, left)) >= MIN_ANSWER


def _item(index: int, item: GoldItem) -> _Item:
    question = "\n".join(asked(item)) if len(words(item.question)) < GRAM else item.question
    return _Item(index, question, particulars(question), item.answer, particulars(item.answer))


def _says_enough(item: GoldItem) -> bool:
    """Whether an item can be told in other words: a question of some length, an answer in plain language."""
    return sum(map(len, map(words, asked(item)))) >= SHORTEST and not _is_formal(item.answer)


def _is_formal(answer: str) -> bool:
    """Whether an answer is JSON, as calls of tools are."""
    try:
        return isinstance(json.loads(answer), list | dict)
    except (ValueError, RecursionError):
        return False


def _turns(sample: Sample) -> list[_Turn]:
    """Each question of a sample with its answer; a short follow-up together with what was asked before it."""
    found: list[_Turn] = []
    before: list[str] = []
    messages = [message for message in sample.messages if message.role != "system"]
    for at, message in enumerate(messages):
        if message.role != "user":
            continue
        before.append(message.content)
        answer = messages[at + 1].content if at + 1 < len(messages) else ""
        is_follow_up = len(before) > 1 and len(words(message.content)) < GRAM
        text = "\n".join(before) if is_follow_up else message.content
        found.append(_Turn(text, answer, is_follow_up))
    return found
