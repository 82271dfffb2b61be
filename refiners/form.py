"""Drops what cannot be a training example whatever it says: broken, empty, endless, or with debris.

Debris is what belongs to a chat template or to a model's reasoning and not to an answer. Every message of a
conversation is looked at, and questions and answers must alternate; where a sample offers tools, its answer
must be calls that they take. Whether the content is true, new or well put is for the refiners after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.tool_calls import fault_of_calls
from factory.types import Decision, Json, Message, Sample

LEFTOVERS = re.compile(
    r"</?(?:think|thinking|reasoning|answer|tool_call|start_of_turn|end_of_turn)>"
    r"|<\|[^|<>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|^\s*(?:assistant|user)\s*:",
    re.IGNORECASE,
)
PARTS = {"user": "question", "assistant": "answer", "system": "system"}


class FormOptions(Strict):
    """Lengths are in characters."""

    max_question_chars: int = Field(2000, ge=1, description="Longest question that is kept, in any turn.")
    max_answer_chars: int = Field(4000, ge=1, description="Longest answer that is kept, in any turn.")


class Form:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = FormOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: FormOptions, domain: Domain) -> None:
        self._limits = {"user": options.max_question_chars, "assistant": options.max_answer_chars}

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        fault, evidence = self._fault(sample)
        if fault:
            return Decision(sample.id, "form", "drop", fault, evidence=evidence)
        return Decision(sample.id, "form", "keep", "ok")

    def _fault(self, sample: Sample) -> tuple[str, dict[str, Json]]:
        """The first fault as a slug with its evidence, or the empty string."""
        if malformed := sample.attributes.get("malformed"):
            return malformed, {"error": error} if (error := sample.attributes.get("error")) else {}
        num_turns = len(sample.texts("user"))
        turn = 0
        for message in sample.messages:
            turn += message.role == "user"
            fault, evidence = self._fault_of(message)
            if fault:
                return fault, {**evidence, "turn": turn} if num_turns > 1 else evidence
        roles = [message.role for message in sample.messages]
        if not num_turns or roles[roles[0] == "system" :] != ["user", "assistant"] * num_turns:
            return "turns_out_of_order", {"roles": roles}
        tools = sample.attributes.get("tools")
        found = fault_of_calls(sample.answer, tools) if tools else None
        return (found.reason, {"error": found.error}) if found else ("", {})

    def _fault_of(self, message: Message) -> tuple[str, dict[str, Json]]:
        part, text = PARTS[message.role], message.content
        limit = self._limits.get(message.role, len(text))
        if not text.strip():
            return f"empty_{part}", {}
        if len(text) > limit:
            return f"{part}_too_long", {"chars": len(text), "limit": limit}
        # Each of them has one of these signs: most texts are not searched, which is dear.
        if any(sign in text for sign in "<[:") and (found := LEFTOVERS.search(text)):
            return "leftover_markup", {"part": part, "markup": found[0].strip()}
        return "", {}
