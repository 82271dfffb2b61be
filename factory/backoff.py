"""How long a call that failed waits before its next attempt. Pure arithmetic: who waits is the engine.

Exponential, spread so that calls refused together do not return together, and bounded: by half a minute of
our own, by two where the server names the time. Where the server answers nearly everybody else a fault is
bad luck and over at once, so that waits are short: they must not become the end of a whole run.
"""

from __future__ import annotations

from typing import Final

from factory.errors import EndpointError

MAX_BACKOFF_SECONDS: Final = 30.0
MAX_RETRY_AFTER_SECONDS: Final = 120.0  # longer ones are daily quotas, for which a run does not sit and wait
USUAL_GROWTH: Final = 2.0  # with each attempt
OVERLOAD_GROWTH: Final = 3.0
MAX_DOUBLINGS: Final = 64  # far beyond the longest backoff, far below the largest float
UP_SHARE: Final = 0.1  # of the usual first wait, where the server is up
OVERLOAD_KINDS: Final = frozenset({"rate_limited", "timeout"})


def is_overload(error: EndpointError) -> bool:
    """Whether the server refused because it has too much to do; 503 with Retry-After says so too."""
    return error.kind in OVERLOAD_KINDS or error.retry_after_seconds is not None


def delay_seconds(
    error: EndpointError,
    num_attempts: int,
    first_seconds: float,
    *,
    is_up: bool,
    spread: float,
    elsewhere: bool = False,
) -> float:
    """Seconds until the attempt after `num_attempts` of them.

    `first_seconds` is the most after the first, `spread` in [0, 1] where in the range it falls: half of the
    most and above, or the server's own Retry-After and a tenth more. A server that refuses for load gets
    more time with each attempt, unless it `is_up`. The next attempt may go
    `elsewhere`, to another replica, for which the Retry-After of this one does not count.
    """
    growth = OVERLOAD_GROWTH if is_overload(error) and not is_up else USUAL_GROWTH
    backoff = first_seconds * (UP_SHARE if is_up else 1.0) * growth ** min(num_attempts - 1, MAX_DOUBLINGS)
    asked = 0.0 if elsewhere else min(error.retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS)
    return max(min(MAX_BACKOFF_SECONDS, backoff) * (0.5 + spread / 2), asked * (1 + spread / 10))
