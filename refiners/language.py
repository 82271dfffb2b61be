"""Drops a sample that is written in another language than it should be.

Questions and answers are each judged as a whole by py3langid, whose model lies in the package (langid.py:
Lui and Baldwin, "An Off-the-shelf Language Identification Tool", ACL 2012). What is short, is no prose
(JSON, SQL, code, figures), or is not clear to the model is not judged: a sample is dropped for what it is,
not for what it may be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, ClassVar, Literal, NamedTuple

from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pydantic import BaseModel, Field, field_validator

from factory.domain import Domain
from factory.errors import RecipeError
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Sample, Score

MIN_LETTERS = 40  # of an alphabet; of a script whose signs stand for words a quarter
MIN_LETTER_SHARE = 0.8  # of letters and spaces; in prose some 95 %
SIGNS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
NO_PROSE = re.compile(r"[\[{<]|```|(?:select|with|insert|create|update|delete|alter)\s", re.IGNORECASE)
FENCED = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|https?://\S+", re.DOTALL)
MAX_CHARS = 4000  # more tells nothing new
# Tongues that the model cannot hold apart in a few sentences count as one.
ALIKE = (frozenset({"no", "nn", "da"}), frozenset({"hr", "bs", "sr"}), frozenset({"id", "ms"}))


class LanguageOptions(Strict):
    """What is expected, and how sure the model must be that it is something else."""

    languages: list[str] | None = Field(
        None, min_length=1, description="ISO 639 codes, such as en; without them the language of the sources."
    )
    min_confidence: float = Field(
        0.99, gt=0.5, le=1, description="Probability of other languages at which a text is dropped, at least."
    )

    @field_validator("languages")
    @classmethod
    def _known(cls, languages: list[str] | None) -> list[str] | None:
        unknown = sorted(set(languages or ()) - set(identifier().labels))
        if unknown:
            raise ValueError(f"unknown: {', '.join(unknown)}; a language is a code of ISO 639, such as en")
        return languages


class Guess(NamedTuple):
    """The likeliest language of a text, its probability, and that of all that are expected."""

    language: str
    probability: float
    expected: float


class Language:
    """Judges each sample by itself."""

    Options: ClassVar[type[BaseModel]] = LanguageOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: LanguageOptions, domain: Domain) -> None:
        """Raises RecipeError where no language is given and the sources do not tell one."""
        self._languages = options.languages or [_language_of(domain)]
        self._min_confidence = options.min_confidence

    def open(self, accepted: Iterable[Sample]) -> None:
        """Nothing is kept between samples."""

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        roles: tuple[tuple[str, Literal["user", "assistant"]], ...] = (
            ("question", "user"),
            ("answer", "assistant"),
        )
        lowest: float | None = None
        for part, role in roles:
            guess = guess_language(sample.texts(role), self._languages)
            if guess is None:
                continue
            lowest = guess.expected if lowest is None else min(lowest, guess.expected)
            if 1 - guess.expected >= self._min_confidence:
                evidence = {
                    "expected": self._languages,
                    "found": guess.language,
                    "confidence": round(guess.probability, 4),
                    "part": part,
                }
                scores = _score(sample, lowest)
                return Decision(sample.id, "language", "drop", "wrong_language", None, scores, evidence)
        reason = "not_applicable" if lowest is None else "ok"
        return Decision(sample.id, "language", "keep", reason, scores=_score(sample, lowest))


def guess_language(texts: Iterable[str], expected: Sequence[str]) -> Guess | None:
    """The language of texts that belong together; None where they are too short for that, or no prose."""
    prose = "\n".join(filter(None, map(_prose, texts)))[:MAX_CHARS]
    letters = sum(map(str.isalpha, prose)) + 3 * len(SIGNS.findall(prose))
    if letters < MIN_LETTERS:
        return None
    ranked = identifier().rank(prose)
    wanted = set(expected).union(*(group for group in ALIKE if group & set(expected)))
    likely = float(sum(probability for language, probability in ranked if language in wanted))
    return Guess(str(ranked[0][0]), float(ranked[0][1]), likely)


def _prose(text: str) -> str:
    """The text without code and addresses; empty where it is none to be read."""
    text = FENCED.sub(" ", text.strip())
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return "" if NO_PROSE.match(text) or letters < MIN_LETTER_SHARE * len(text) else text


def _score(sample: Sample, lowest: float | None) -> tuple[Score, ...]:
    return () if lowest is None else (Score(sample.id, "language", round(lowest, 6), "language"),)


def _language_of(domain: Domain) -> str:
    guess = guess_language((source.text for source in domain.sources), ())
    if guess is None or guess.probability < 0.9:
        hint = "give the option `languages`, such as [en]"
        raise RecipeError("the sources do not tell which language is expected", where="language", hint=hint)
    return guess.language


@cache
def identifier() -> Any:
    """The model, read from the package in a second or so, once."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
