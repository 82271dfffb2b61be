"""Drops a sample whose messages were all seen before, but for case, spacing and punctuation.

The index holds a hash of what it has let pass in all rounds, 16 bytes a sample and its id. A rewrite
is not a duplicate of the sample that it replaces; what was derived from a sample must differ from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.ports import Ask
from factory.recipe import Strict
from factory.types import Decision, Parent, Sample
from factory.words import words


class ExactOptions(Strict):
    """None."""


class Exact:
    """The first of equal samples stays."""

    Options: ClassVar[type[BaseModel]] = ExactOptions
    uses_model: ClassVar[bool] = False

    def __init__(self, options: ExactOptions, domain: Domain) -> None:
        self._seen: dict[bytes, str] = {}

    def open(self, accepted: Iterable[Sample]) -> None:
        """Remembers what passed before."""
        for sample in accepted:
            self._seen.setdefault(fingerprint(sample), sample.id)

    async def refine(self, samples: Sequence[Sample], ask: Ask) -> list[Decision]:
        """A decision for each sample, in order; equal ones within the batch count too."""
        return [self._judge(sample) for sample in samples]

    def _judge(self, sample: Sample) -> Decision:
        first = self._seen.setdefault(fingerprint(sample), sample.id)
        if first == sample.id or Parent(first, "rewrite_of") in sample.parents:
            return Decision(sample.id, "exact", "keep", "ok")
        return Decision(sample.id, "exact", "drop", "exact_duplicate", evidence={"of": first})


def fingerprint(sample: Sample) -> bytes:
    """BLAKE2b of role and words of every message; of the text itself where a message has no words."""
    parts = [f"{turn.role} {' '.join(words(turn.content)) or turn.content}" for turn in sample.messages]
    return hashlib.blake2b("\n".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
