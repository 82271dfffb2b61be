"""Questions of dev and test, to be found again in what is learned.

By the measures of factory.overlap. A short follow-up ("And how long?") rightly stands in many conversations:
where something was asked before an item's question, and that question has fewer than 8 words, it is repeated
only where what was asked before it is repeated too. A longer question is one wherever it stands. Answers are
not compared here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from factory.overlap import GRAM, Hit, Texts
from factory.types import GoldItem
from factory.words import words


def asked(item: GoldItem) -> list[str]:
    """All that the user asks in an item's conversation, its question last."""
    return [*(message.content for message in item.before if message.role == "user"), item.question]


class HeldOut:
    """Items by their questions, and short follow-ups by what was asked before them too."""

    def __init__(self, items: Sequence[GoldItem]) -> None:
        follow_ups: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            question = tuple(words(item.question))
            if len(question) < GRAM and len(asked(item)) > 1:
                follow_ups[question].append(index)
        self._follow_ups = list(follow_ups.values())
        apart = {index for group in self._follow_ups for index in group}
        self._alone = Texts("" if index in apart else item.question for index, item in enumerate(items))
        self._short = Texts(items[group[0]].question for group in self._follow_ups)
        self._before = [Texts(_joined(asked(items[i])[:-1]) for i in group) for group in self._follow_ups]

    def find(self, question: str, before: Sequence[str] = ()) -> tuple[int, Hit] | None:
        """One of the items that `question` repeats, asked after the questions `before`, and how; or None."""
        if found := self._alone.find(question):
            return found
        if not (found := self._short.find(question)):
            return None
        group, hit = found
        opening = self._before[group].find(_joined(before))
        return (self._follow_ups[group][opening[0]], hit) if opening else None


def _joined(questions: Sequence[str]) -> str:
    return "\n".join(questions)
