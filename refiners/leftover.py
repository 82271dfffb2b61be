"""Drops a sample that holds what belongs to the making of it: of the prompt, or of the teacher's thinking.

Labels and announcements ("Question:", "Here is the JSON"), templates that nobody filled in, and the beginning
of a chain of thought. Tags of chat templates and of reasoning are `form`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Message, Sample

PROMPT = re.compile(
    r"^\W*(?:question|answer|instruction|response|output|q|a)\s*\d*\s*:"
    r"|^\W*(?:sure|certainly|of course|absolutely)[,!.]*\s+(?:here|i can|i'll|let me)\b"
    r"|^\W*here(?:'s| is| are)\s+(?:\w+\s+){0,6}?"
    r"(?:json|questions?|answers?|response|rewritten|revised|version)\b"
    r"|\{\{\s*[\w.]+\s*\}\}|\{%\s*\w+"
    r"|\[(?:insert|your|add|enter|fill in)\s[^\]\n]{1,60}\]"
    r"|<(?:insert|your)\s[^>\n]{1,60}>"
    r"|^\W*(?:note|reminder)\s*:\s*(?:the|this|i)\s+(?:answer|question|json|response)\b",
    re.IGNORECASE,
)
REASONING = re.compile(
    r"^\W*(?:okay|ok|alright|hmm+|wait|so)[,.]?\s+(?:so,?\s+)?"
    r"(?:let me|let's|the user|i need to|i should|i have to|first,? i)\b"
    r"|^\W*(?:the user|the question) (?:is asking|asks|wants|is about)\b"
    r"|^\W*(?:let me|let's) (?:think|see|analy[sz]e|break (?:this|it) down|work through)\b"
    r"|^\W*(?:first,? )?i need to (?:figure out|determine|find|write|come up with|generate)\b"
    r"|^\W*(?:thinking|reasoning|chain of thought|scratchpad)\s*:",
    re.IGNORECASE,
)


class LeftoverOptions(Strict):
    """None."""


class Leftover:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = LeftoverOptions
    uses_model: ClassVar[bool] = False
    works_alone: ClassVar[bool] = True

    def __init__(self, options: LeftoverOptions, domain: Domain) -> None:
        """Nothing of the domain is looked at."""

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        for number, message in enumerate(sample.messages):
            reason, words = _fault(message)
            if reason:
                evidence = {"words": words, "message": number}
                return Decision(sample.id, "leftover", "drop", reason, evidence=evidence)
        return Decision(sample.id, "leftover", "keep", "ok")


def _fault(message: Message) -> tuple[str, str]:
    if message.role == "system":
        return "", ""
    text = message.content
    if message.role == "assistant" and (found := REASONING.match(text)):
        return "leftover_reasoning", found[0].strip()[:80]
    if found := PROMPT.search(text):
        return "leftover_prompt", found[0].strip()[:80]
    return "", ""
