"""Questions of dev and test, to be found again in what is learned.

By the measures of factory.overlap. A short follow-up ("And how long?") rightly stands in many conversations:
where something was asked before an item's question, and that question has fewer than 8 words, it is repeated
only where what was asked before it is repeated too, taken as one text or turn by turn, in order; of the two
conversations the longer may say more. A longer question is one wherever it stands. Answers are not compared
here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from factory.overlap import GRAM, Hit, Texts, Words, overlap
from factory.types import GoldItem
from factory.words import words


def asked(item: GoldItem) -> list[str]:
    """All that the user asks in an item's conversation, its question last."""
    return [*(message.content for message in item.before if message.role == "user"), item.question]


class HeldOut:
    """Items by their questions, and short follow-ups by what was asked before them too."""

    def __init__(self, items: Sequence[GoldItem]) -> None:
        follow_ups: dict[Words, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            question = tuple(words(item.question))
            if len(question) < GRAM and len(asked(item)) > 1:
                follow_ups[question].append(index)
        self._follow_ups = list(follow_ups.values())
        before = {i: asked(items[i])[:-1] for group in self._follow_ups for i in group}
        self._turns = {index: _turns(questions) for index, questions in before.items()}
        self._holders = [index for index, questions in before.items() for _ in questions]
        self._each_before = Texts(chain.from_iterable(before.values()))
        self._alone = Texts("" if index in self._turns else item.question for index, item in enumerate(items))
        self._short = Texts(items[group[0]].question for group in self._follow_ups)
        self._before = [Texts("\n".join(before[i]) for i in group) for group in self._follow_ups]

    def find(self, question: str, before: Sequence[str] = ()) -> tuple[int, Hit] | None:
        """One of the items that `question` repeats, asked after the questions `before`, and how; or None."""
        if found := self._alone.find(question):
            return found
        if not before:
            return None
        for group, hit in self._short.find_all(question):
            if (index := self._find_opening(group, before)) is not None:
                return index, hit
        return None

    def _find_opening(self, group: int, before: Sequence[str]) -> int | None:
        """The item of a group whose conversation `before` repeats."""
        if opening := self._before[group].find("\n".join(before)):
            return self._follow_ups[group][opening[0]]
        near = {self._holders[at] for turn in before for at, _ in self._each_before.find_all(turn)}
        near.intersection_update(self._follow_ups[group])
        turns = _turns(before)
        return next((index for index in sorted(near) if _contain(self._turns[index], turns)), None)


def _turns(questions: Sequence[str]) -> list[Words]:
    return [tuple(words(question)) for question in questions]


def _contain(left: Sequence[Words], right: Sequence[Words]) -> bool:
    """Whether the longer conversation repeats all turns of the shorter, in their order."""
    shorter, longer = sorted((left, right), key=len)
    rest = iter(longer)
    return all(any(overlap(turn, other) for other in rest) for turn in shorter)
