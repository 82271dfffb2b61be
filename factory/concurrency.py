"""How many calls one replica of a server gets at once, found out by asking, and whether it answers at all.

Additive increase, and one multiplicative decrease for each burst of refusals (AIMD, as TCP does it):
every answer adds 1/limit, and once more than a tenth of a window of calls was refused the limit falls to 0.7
of itself, after which refusals of calls sent before the fall do not count again. The tolerated tenth
keeps an endpoint that refuses a steady few percent, whatever the load, from grinding to a halt. What came
of calls also says whether the replica is up. Which call goes where is `factory.slots`'.
"""

from __future__ import annotations

import math
import time

from factory.backoff import MAX_RETRY_AFTER_SECONDS

DECREASE = 0.7
TOLERATED_SHARE = 0.1
# A server is up where it answered anyone in the last second, or since the call in question was sent, and no
# more than a quarter of the latest calls failed: then a failure is that call's bad luck.
UP_SECONDS = 1.0
MAX_FAILING_SHARE = 0.25
NUM_LATEST = 64
# So many failures without an answer between them are no bad luck; then it rests, longer each time.
DOWN_AFTER = 3
FIRST_REST_SECONDS = 1.0
MAX_REST_SECONDS = 30.0


class AdaptiveLimit:
    """The calls in flight at one replica, and how many there may be; constant time for each call."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.num_in_flight = 0
        self.rests_until = -math.inf  # where it is down: when it is tried again
        self._limit = float(maximum)
        self._epoch = 0
        self._answered_at = -math.inf
        self._failing_share = 0.0  # of the latest calls, older ones counting less
        self._num_failed = 0  # since it last answered
        self._rest_seconds = 0.0
        self._window_finished = 0
        self._window_overloaded = 0

    @property
    def limit(self) -> int:
        """Calls that may be in flight now, at least 1."""
        return max(1, int(self._limit))

    @property
    def has_room(self) -> bool:
        return self.num_in_flight < self.limit

    @property
    def is_down(self) -> bool:
        """Whether the latest calls failed, all of them."""
        return self._num_failed >= DOWN_AFTER

    @property
    def is_sound(self) -> bool:
        """Whether few of the latest calls failed, so far as any were made."""
        return not self.is_down and self._failing_share <= MAX_FAILING_SHARE

    def may_be_tried(self, now: float) -> bool:
        """Whether one that is down has rested, and nobody is finding out how it fares."""
        return self.num_in_flight == 0 and now >= self.rests_until

    def is_up(self, sent_at: float) -> bool:
        """Whether it fares well, as far as others tell than a call sent at `sent_at` (monotonic)."""
        answers = self._answered_at > min(sent_at, time.monotonic() - UP_SECONDS)
        return answers and self._failing_share <= MAX_FAILING_SHARE

    def allow(self, maximum: int) -> None:
        """Raises the ceiling to `maximum` for a second role of the same server."""
        if maximum <= self.maximum:
            return
        if self._limit >= self.maximum:  # nothing was refused yet
            self._limit = float(maximum)
        self.maximum = maximum

    def begin(self) -> int:
        """One more call is in flight; returns the epoch that it belongs to."""
        self.num_in_flight += 1
        return self._epoch

    def end(self) -> None:
        """One call fewer is in flight."""
        self.num_in_flight -= 1

    def answered(self) -> None:
        """A call was answered."""
        self._observe(0.0)
        self._num_failed, self._rest_seconds = 0, 0.0
        self._answered_at = time.monotonic()
        self._limit = min(float(self.maximum), self._limit + 1 / self._limit)
        self._end_window()

    def failed(self, epoch: int, *, overloaded: bool, retry_after_seconds: float | None = None) -> None:
        """A call of `epoch` failed that another attempt may save; `overloaded`: it was refused for load."""
        self._observe(1.0)
        self._rest(retry_after_seconds or 0.0)
        if overloaded and epoch == self._epoch:
            self._window_overloaded += 1
            if self._window_overloaded > TOLERATED_SHARE * self._limit:
                self._limit = max(1.0, self._limit * DECREASE)
                self._epoch += 1
                self._window_finished = self._window_overloaded = 0
        self._end_window()

    def given_up(self) -> None:
        """A call ended in a way that says nothing about the replica, such as a request that it refuses."""
        self._window_finished += 1
        self._end_window()

    def _observe(self, failing: float) -> None:
        self._window_finished += 1
        self._failing_share += (failing - self._failing_share) / NUM_LATEST

    def _rest(self, retry_after_seconds: float) -> None:
        """Counts a failure; those of calls that were under way when the rest began do not prolong it."""
        now = time.monotonic()
        self._num_failed += 1
        if self.is_down and now >= self.rests_until:
            self._rest_seconds = min(MAX_REST_SECONDS, max(FIRST_REST_SECONDS, 2 * self._rest_seconds))
            asked = min(retry_after_seconds, MAX_RETRY_AFTER_SECONDS)
            self.rests_until = now + max(self._rest_seconds, asked)

    def _end_window(self) -> None:
        if self._window_finished >= self._limit:
            self._window_finished = self._window_overloaded = 0
