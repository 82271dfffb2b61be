"""The line that a person watches while samples are made: made, accepted, rates, tokens, cost, failures.

What the engine and the refiners counted, as text for the eye and as values for a JSON log. It counts
this process's work; drawing is in factory.progress.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from factory.counts import Rate, describe

if TYPE_CHECKING:
    from factory.engine import Engine
    from factory.progress import Stage

ACTIONS = {"accepted": "keep", "dropped": "drop", "rewritten": "rewrite"}  # name in a JSON log → action
EVERY_SECONDS = 0.2  # nobody reads faster, and a text for every sample would cost more than the sample


def values_of(actions: Mapping[str, int]) -> dict[str, int]:
    """How many samples are settled, by action, under the names that a JSON log has for them."""
    return {name: actions.get(action, 0) for name, action in ACTIONS.items()}


class Watch:
    """Keeps a stage's text and values up to date; it counts tasks made, or samples accepted."""

    def __init__(self, engine: Engine, stage: Stage, *, by_accepted: bool = False) -> None:
        self.num_made = 0
        self.actions: Counter[str] = Counter()
        self._engine = engine
        self._stage = stage
        self._by_accepted = by_accepted
        self._calls, self._tokens = Rate(), Rate()
        self._shown_at = 0.0

    def made(self, num: int = 1) -> None:
        """So many more tasks are finished."""
        self.num_made += num
        self.show()

    def refined(self, actions: Counter[str]) -> None:
        """So many more samples are settled, by action."""
        self.actions += actions
        self.show(now=True)

    def show(self, *, now: bool = False) -> None:
        """Brings the stage up to date, now and then or at once."""
        at = time.monotonic()
        if not now and at - self._shown_at < EVERY_SECONDS:
            return
        self._shown_at = at
        counts, accepted = self._engine.counts, self.actions["keep"]
        calls, tokens = self._calls.update(counts.num_answered), self._tokens.update(counts.num_tokens)
        num_settled = self.actions.total() - self.actions["rewrite"]
        parts = [f"{self.num_made:,} made" if self._by_accepted else f"{accepted:,} accepted"]
        parts = [*parts, f"{num_settled:,} refined"] if num_settled else []
        text = " · ".join([*parts, describe(counts, calls, tokens)])
        values = {
            "made": self.num_made,
            **values_of(self.actions),
            "calls_per_second": round(calls, 1),
            "tokens_per_second": round(tokens, 1),
            "tokens": counts.num_tokens,
            "dollars": round(counts.dollars, 6),
            "stored": counts.num_found,
            "failed": dict(counts.failed),
        }
        self._stage.update(accepted if self._by_accepted else self.num_made, None, text, values)
