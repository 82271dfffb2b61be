"""Drops a sample that still holds something of how it was made: of a prompt, or of the teacher's thinking.

Found are runs of words of the strategies' own prompts, labels and announcements around the text
("Question:", "Here is the JSON"), places that a template left open ({{name}}, [insert date]), and the
beginning of a chain of thought. What stands in code is part of the answer. Marks of chat templates are
`form`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.prompts import fixed_sentences
from factory.recipe import Strict
from factory.registry import find, names
from factory.types import Decision, Message, Sample
from factory.words import words

NUM_WORDS = 8  # of a prompt that no text has by chance
MAX_TOLD = 80
CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
LABEL = re.compile(
    r"[\s*#>_]*(?:(?:generated |new |rewritten |revised |final |example )?(?:question|answer|instruction"
    r"|response"
    r"|output|prompt)s?|q|a)\s*\d*[*_]{0,2}\s*:[*_]{0,2}(?=\s)",
    re.IGNORECASE,
)
INNER_LABEL = re.compile(
    r"^[ *#>_]*(?:question|instruction)s?\s*\d*[*_]{0,2}\s*:", re.IGNORECASE | re.MULTILINE
)
ANNOUNCED = re.compile(
    r"\W*(?:(?:sure|certainly|of course|absolutely|okay|ok|great)\b[,!. ]*)?"
    r"(?:here(?:'s|’s| is| are)|below (?:is|are)|the following (?:is|are))\s+(?:\w+\s+){0,5}?"
    r"(?:json|questions?|answers?|responses?|prompts?|instructions?|rewritten|revised|rephrased|version"
    r"|output)\b[^.\n]{0,80}:",
    re.IGNORECASE,
)
OPEN_PLACE = re.compile(
    r"(?<![\w\\{}$])\{\{\s*[A-Za-z_][\w .]*\s*\}\}(?!\})|\{%-?\s*\w+"
    r"|\[(?:insert|enter|fill in)\s[^\]\n]{1,60}\]"
    r"|\[your\s[^\]\n]{1,40}\]|<(?:insert|your)[ _][^<>\n]{1,40}>",
    re.IGNORECASE,
)
REASONING = re.compile(
    r"</?(?:think|thinking|reasoning|scratchpad|reflection)>"
    r"|\W*(?:(?:okay|ok|alright|all right|hmm+|right|well|so|wait)\b[,.…]*\s+)+"
    r"(?:the user\b|the question (?:is|asks)\b|(?:i|we) (?:need|should|have) to\b|first,? (?:i|we)\b"
    r"|(?:let me|let's) (?:think|see|tackle|break|figure|analy[sz]e|parse|work|try)\b)"
    r"|\W*hmm+\b|\W*the user (?:is asking|asks|asked|wants|wanted|has asked|needs)\b"
    r"|\W*(?:let me|let's) (?:think|analy[sz]e|break (?:this|it) down|work through|figure)\b"
    r"|\W*(?:first,? )?(?:i|we) need to (?:figure out|determine what|come up with|generate|produce|write a)\b"
    r"|\W*(?:thinking|thoughts?|reasoning|chain of thought|scratchpad|analysis)\s*:\s",
    re.IGNORECASE,
)


class LeftoverOptions(Strict):
    """None."""


class Leftover:
    """Judges each sample by itself; the prompts of the recipe's strategies are read once."""

    Options: ClassVar[type[BaseModel]] = LeftoverOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: LeftoverOptions, domain: Domain) -> None:
        known = set(names("generators"))
        found = {
            find("generators", spec.name).__module__
            for spec in domain.recipe.strategies
            if spec.name in known
        }
        sentences = [domain.recipe.domain.answer_style]
        for package in sorted({module.rpartition(".")[0] for module in found} - {""}):
            sentences += fixed_sentences(package)
        self._runs = {run for sentence in sentences for run in _runs(words(sentence))}

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        for number, message in enumerate(sample.messages):
            reason, found = self._fault(message)
            if reason:
                evidence = {"words": " ".join(found.split())[:MAX_TOLD], "message": number}
                return Decision(sample.id, "leftover", "drop", reason, evidence=evidence)
        return Decision(sample.id, "leftover", "keep", "ok")

    def _fault(self, message: Message) -> tuple[str, str]:
        if message.role == "system":  # is a prompt
            return "", ""
        text = CODE.sub(" ", message.content) if "`" in message.content else message.content
        if message.role == "assistant" and (found := REASONING.match(text)):
            return "leftover_reasoning", found[0]
        if found := LABEL.match(text) or ANNOUNCED.match(text):
            return "leftover_prompt", found[0]
        if message.role == "assistant" and ":" in text and (found := INNER_LABEL.search(text)):
            return "leftover_prompt", found[0]
        if any(sign in text for sign in "{[<") and (found := OPEN_PLACE.search(text)):
            return "leftover_prompt", found[0]
        run = next((run for run in _runs(words(text)) if run in self._runs), None) if self._runs else None
        return ("leftover_prompt", " ".join(run)) if run else ("", "")


def _runs(tokens: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return zip(*(tokens[at:] for at in range(NUM_WORDS)), strict=False)
