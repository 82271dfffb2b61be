"""Preferences: another strategy's questions with the best and the worst of several answers to each.

Answers of different kinds to one prompt, rated by a model, are UltraFeedback's (arXiv 2310.01377, section 2):
there many models and principles, here one teacher in different roles and at different temperatures. Two
answers are judged in both orders, and where the judgements disagree it is a tie, since judges favour a place
(arXiv 2306.05685, section 3.4). The best answer is the sample's own, the worst its attribute `rejected`. What
an answer is worth beyond that order is not measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import ClassVar, NamedTuple, Self

from pydantic import BaseModel, Field, model_validator

from factory.domain import Domain
from factory.ports import Ask, TaskCost
from factory.prompts import render
from factory.recipe import StepSpec, Strict
from factory.types import Completion, Json, Message, Sample, Task
from generators.exchange import usual_sampling
from generators.fields import read_fields, schema_of
from generators.reanswered import Reanswer, Reanswering

BETTER = ("first", "second", "tie")
# The reason comes first: the judgement is to follow from it.
SCHEMA: Json = {
    **schema_of(["reason", "better"]),
    "properties": {"reason": {"type": "string"}, "better": {"type": "string", "enum": list(BETTER)}},
}


class Rival(Strict):
    """Another way to answer."""

    role: str = Field("", description="Who answers, or how, as a system message; empty: none.")
    temperature: float = Field(1.0, ge=0, le=2, description="Of the answer.")


class PreferenceOptions(Strict):
    """What is answered several times, and how."""

    of: StepSpec = Field(description="Another strategy by name, with its options; its answer is the first.")
    rivals: list[Rival] = Field(
        [Rival(role="", temperature=1.0)],
        min_length=1,
        description="Further answers, each with `role` (a system message) and `temperature`.",
    )

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if any(rival in self.rivals[:at] for at, rival in enumerate(self.rivals)):
            raise ValueError("two rivals are alike, and would give the same answer")
        return self


class Answer(NamedTuple):
    """An answer and who gave it: `inner`, or `rival_1` and so on."""

    by: str
    text: str


class Preference(Reanswering):
    """The inner strategy's samples, each with its best answer and the worst one beside it."""

    Options: ClassVar[type[BaseModel]] = PreferenceOptions
    name = "preference"

    def __init__(self, options: PreferenceOptions, domain: Domain) -> None:
        super().__init__(options.of, domain)
        self.options = options
        self._style = domain.recipe.domain.answer_style
        self._usual = usual_sampling(domain)

    @property
    def cost(self) -> TaskCost:
        """For each inner sample a call a rival, and two for each pair of answers."""
        inner, num_rivals = self._inner.cost, len(self.options.rivals)
        num_calls = num_rivals + (num_rivals + 1) * num_rivals
        return inner._replace(num_calls=inner.num_calls + inner.num_samples * num_calls)

    async def _reanswer(self, sample: Sample, task: Task, ask: Ask) -> Reanswer:
        """The best answer with the worst one as `rejected`; without such a pair the sample is malformed."""
        calls: list[Completion] = []
        answers = await self._answers(sample, task, ask, calls)
        known = {"num_answers": str(len(answers))}
        if len(answers) == 1:
            return Reanswer(sample.answer, calls, known, "same_answers")
        beats: set[tuple[Answer, Answer]] = set()
        for pair in combinations(answers, 2):
            winner, malformed = await self._compare(sample, pair, task, ask, calls)
            if malformed:
                return Reanswer(calls[-1].text, calls, known, malformed)
            beats |= {(winner, other) for other in pair if winner and other != winner}
        best, worst = rank(answers, beats)
        if (best, worst) not in beats:
            return Reanswer(sample.answer, calls, known, "tie")
        known |= {"rejected": worst.text, "chosen_by": best.by, "rejected_by": worst.by}
        return Reanswer(best.text, calls, known)

    async def _answers(self, sample: Sample, task: Task, ask: Ask, calls: list[Completion]) -> list[Answer]:
        """The inner answer and those of rivals that say something else; one that was cut off is none."""
        answers, seen = [Answer("inner", sample.answer)], {_plain(sample.answer)}
        for number, rival in enumerate(self.options.rivals, 1):
            told = [rival.role, *sample.texts("system"), self._style]
            system = "\n\n".join(text for text in told if text)
            asked = [message for message in sample.messages[:-1] if message.role != "system"]
            messages = [Message("system", system), *asked] if system else asked
            sampling = replace(self._usual, temperature=rival.temperature)
            calls.append(await ask(messages, sampling=sampling, ordinal=task.ordinal))
            text = calls[-1].text.strip()
            if calls[-1].finish_reason != "length" and text and _plain(text) not in seen:
                seen.add(_plain(text))
                answers.append(Answer(f"rival_{number}", text))
        return answers

    async def _compare(
        self, sample: Sample, pair: tuple[Answer, Answer], task: Task, ask: Ask, calls: list[Completion]
    ) -> tuple[Answer | None, str]:
        """The one that is better in both orders, or None; and how a judgement is malformed, or ''."""
        winners: list[Answer | None] = []
        for first, second in (pair, pair[::-1]):
            calls.append(await self._judge(sample, first, second, task, ask))
            values, malformed = read_fields(calls[-1], ["better"])
            better = values.get("better", "").casefold()
            if malformed or better not in BETTER:
                return None, malformed or "unknown_verdict"
            winners.append({"first": first, "second": second}.get(better))
        return (winners[0] if winners[0] == winners[1] else None), ""

    async def _judge(self, sample: Sample, first: Answer, second: Answer, task: Task, ask: Ask) -> Completion:
        *earlier, question, _ = [message for message in sample.messages if message.role != "system"]
        prompt = render(
            "generators",
            "preference_judge",
            style=self._style,
            source=task.source,
            earlier=earlier,
            question=question.content,
            first=first.text,
            second=second.text,
        )
        sampling = replace(self._usual, temperature=0.0)
        return await ask([Message("user", prompt)], schema=SCHEMA, sampling=sampling, ordinal=task.ordinal)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def rank(answers: Sequence[Answer], beats: set[tuple[Answer, Answer]]) -> tuple[Answer, Answer]:
    """The answers with most and with fewest wins over losses; of equal ones the first."""
    points = Counter(dict.fromkeys(answers, 0))
    for winner, loser in beats:
        points[winner] += 1
        points[loser] -= 1
    by_points = sorted(answers, key=lambda answer: -points[answer])
    return by_points[0], min(answers, key=lambda answer: points[answer])
