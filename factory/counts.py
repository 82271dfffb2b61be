"""What an engine has done so far, as numbers and as the text of a progress line.

Counted per process: what earlier processes did stands in the store and is counted by its views.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace

from factory.types import Completion

RATE_WINDOW_SECONDS = 1.0


@dataclass(slots=True)
class Counts:
    """Calls answered by a model, found in the store and given up (`failed`, by `EndpointError.kind`).

    `num_asked_again` of those answered took the place of a call whose answer was not as asked.
    """

    num_answered: int = 0
    num_found: int = 0
    num_asked_again: int = 0
    num_attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def num_tokens(self) -> int:
        """Of prompts and answers together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def num_failed(self) -> int:
        return self.failed.total()

    def add(self, answer: Completion, dollars: float) -> None:
        """Counts one call that a model answered."""
        self.num_answered += 1
        self.prompt_tokens += answer.prompt_tokens
        self.completion_tokens += answer.completion_tokens
        self.dollars += dollars

    def snapshot(self) -> Counts:
        """A copy that does not change any more."""
        return replace(self, failed=Counter(self.failed))


class Rate:
    """Smoothed events per second, from a count that is shown now and then."""

    def __init__(self) -> None:
        self._count, self._at = 0, time.monotonic()
        self._per_second: float | None = None

    def update(self, count: int) -> float:
        """The rate after `count` events in all."""
        now = time.monotonic()
        seconds = now - self._at
        if seconds >= RATE_WINDOW_SECONDS:
            latest = (count - self._count) / seconds
            self._per_second = latest if self._per_second is None else 0.6 * self._per_second + 0.4 * latest
            self._count, self._at = count, now
        if self._per_second is None:  # within the first window: so far
            return (count - self._count) / seconds if seconds else 0.0
        return self._per_second


def describe(counts: Counts, calls_per_second: float, tokens_per_second: float | None = None) -> str:
    """One line such as '212 calls/s · 900 tokens/s · 40 k tokens · $0.31 · 2 failed (timeout 2)'."""
    parts = [f"{calls_per_second:,.0f} calls/s"]
    if tokens_per_second is not None:
        parts.append(f"{tokens_per_second:,.0f} tokens/s")
    parts.append(f"{counts.num_tokens / 1000:,.0f} k tokens")
    if counts.num_found:
        parts.append(f"{counts.num_found:,} stored")
    if counts.num_asked_again:
        parts.append(f"{counts.num_asked_again:,} asked again")
    if counts.dollars:
        parts.append(f"${counts.dollars:,.2f}")
    if counts.failed:
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in counts.failed.most_common())
        parts.append(f"{counts.num_failed:,} failed ({kinds})")
    return " · ".join(parts)


def describe_lost(tokens: int, dollars: float) -> str:
    """What may have been billed without an answer, beside what was reported; empty where that is nothing."""
    amount = f"{tokens:,} tokens" + (f", ${dollars:,.2f}," if dollars else "")
    return f"up to {amount} more may have been billed without an answer" if tokens else ""
