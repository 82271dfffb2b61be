"""Drops a sample in which the teacher declined to answer, or spoke of itself as a model.

A refusal begins an answer, or is a sentence of its own further on; words that somebody is quoted with are
none. Where a strategy wants an answer that declines (attribute `answerable`: no), its words are the
recipe's and stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel, Field

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.strict import Pattern
from factory.types import Decision, Sample

CANNOT = (
    r"(?:can ?not|can't|am (?:not able|unable)|'m (?:not able|unable)|won't be able|must decline)(?: to)?"
)
TASK = (
    r"(?:help|assist|answer|comply|fulfill?|provide|do (?:that|this|so)|create|generate|write|continue with"
    r"|engage|discuss|support|complete|process|access|offer|share"
    r"|give (?:you )?(?:legal|medical|financial|any))\b"
)
MODEL = r"(?:an? )?(?:ai|artificial intelligence|(?:large |ai )?language model|virtual assistant|chat ?bot)\b"
REGRET = (
    r"(?:(?:i'm|i am) (?:(?:so|very|really|truly) )?sorry|(?:i )?apologi[sz]e|my apologies"
    r"|sorry|unfortunately)\b"
)
SOME = r"[^.!?\n\"“”]{0,60}?"
# What can only be a refusal, wherever it begins a sentence.
ALWAYS = (
    rf"{REGRET}{SOME}\bi ?{CANNOT} {SOME}\b{TASK}",
    rf"as {MODEL}",
    rf"(?:i'm|i am) (?:just |only )?{MODEL}",
    r"i (?:do not|don't) have personal (?:opinions|experiences|feelings)",
    r"i (?:do not|don't) have real-?time (?:data|access|information)",
    rf"(?:es )?tut mir leid\b{SOME}\bkann\b{SOME}\bnicht\b",
    r"als (?:ki|künstliche intelligenz|sprachmodell)\b",
    rf"(?:je suis )?désolée?\b{SOME}\bje ne (?:peux|puis)\b",
    r"en tant qu(?:'|e )(?:ia|intelligence artificielle|modèle)\b",
    rf"lo siento\b{SOME}\bno puedo\b",
    r"como (?:una? )?(?:ia|inteligencia artificial|modelo de lenguaje)\b",
    rf"mi dispiace\b{SOME}\bnon posso\b",
    rf"(?:desculpe|lamento|sinto muito)\b{SOME}\bnão posso\b",
)
# What is one only where an answer begins so.
FIRST = (
    rf"i ?{CANNOT} {SOME}\b{TASK}",
    rf"(?:i'd|i would) rather not {TASK}",
    r"(?:i'm|i am) not comfortable (?:with|answering|writing|discussing|providing)\b",
    r"i (?:must|have to) (?:respectfully )?(?:decline|refuse)\b",
    r"(?:抱歉|对不起|很抱歉)[^。！？\n]{0,20}?(?:无法|不能)",
    r"(?:申し訳|すみません)[^。！？\n]{0,30}?(?:できません|お答え)",
)
BEGINS_ANSWER = re.compile(rf"[\s*#>_-]*(?:{'|'.join(ALWAYS + FIRST)})", re.IGNORECASE)
BEGINS_SENTENCE = re.compile(rf"(?:(?<=[.!?]\s)|(?<=\n))[*#>_-]*(?:{'|'.join(ALWAYS)})", re.IGNORECASE)
# Most answers have none of these words, and are not searched, which is dear.
SIGN = re.compile(
    r"sorry|apolog|unfortunately|language model|\bAI\b|can ?not|can't"
    r"|unable|not able|be able|rather not|comfortable"
    r"|decline|refuse|assistant|chat ?bot|artificial|do not have|don't have|leid\b|\bKI\b|sprachmodell|désol"
    r"|en tant|siento|como (?:una? )?(?:ia|int|mod)|dispiace|desculpe|lamento|muito"
    r"|抱歉|对不起|申し訳|すみません",
    re.IGNORECASE,
)
STRAIGHT = str.maketrans("’‘ʼ\u00a0", "''' ")
MAX_TOLD = 120


class RefusalOptions(Strict):
    """Which refusals are wanted."""

    allow: list[Pattern] = Field(
        default_factory=list,
        description="Regular expressions; an answer in which one is found is a refusal that is wanted.",
    )


class Refusal:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = RefusalOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: RefusalOptions, domain: Domain) -> None:
        self._allowed = [re.compile(pattern) for pattern in options.allow]

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        if sample.attributes.get("answerable") == "no":
            return Decision(sample.id, "refusal", "keep", "not_applicable")
        for turn, answer in enumerate(sample.texts("assistant"), 1):
            words = find_refusal(answer)
            if words and not any(pattern.search(answer) for pattern in self._allowed):
                evidence = {"words": words, "turn": turn}
                return Decision(sample.id, "refusal", "drop", "refusal", evidence=evidence)
        return Decision(sample.id, "refusal", "keep", "ok")


def find_refusal(answer: str) -> str:
    """The words that decline to answer, cut short, or ''."""
    plain = answer.translate(STRAIGHT)
    if not SIGN.search(plain):
        return ""
    found = BEGINS_ANSWER.match(plain) or BEGINS_SENTENCE.search(plain)
    return found[0].strip()[:MAX_TOLD] if found else ""
