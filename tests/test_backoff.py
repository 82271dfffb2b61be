"""How long a failed call waits: spread, growing, bounded whatever the server or the recipe says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.backoff import MAX_BACKOFF_SECONDS, MAX_RETRY_AFTER_SECONDS, delay_seconds
from factory.errors import EndpointError
from factory.models.failure import failure_from_status


def failing(kind: str = "server_error", after: float | None = None) -> EndpointError:
    return EndpointError("no luck", kind=kind, retry_after_seconds=after)


@given(
    st.sampled_from(["rate_limited", "timeout", "server_error", "unreachable"]),
    st.integers(1, 10**9),
    st.booleans(),
    st.floats(0, 1),
)
def test_a_wait_is_bounded_however_often_was_tried(kind, num_attempts, is_up, spread):
    wait = delay_seconds(failing(kind), num_attempts, 0.5, is_up=is_up, spread=spread)
    assert 0 < wait <= MAX_BACKOFF_SECONDS


def test_the_servers_own_wait_is_kept_up_to_a_limit():
    def wait(after: float, spread: float = 0.0) -> float:
        return delay_seconds(failing("rate_limited", after), 1, 0.5, is_up=True, spread=spread)

    assert wait(7.0) == 7.0 and 7.0 < wait(7.0, 1.0) < 7.71
    assert wait(1e9) == MAX_RETRY_AFTER_SECONDS
    assert wait(1e9, 1.0) < 1.11 * MAX_RETRY_AFTER_SECONDS


def test_a_wait_beyond_the_limit_is_told():
    error = failure_from_status(429, {"retry-after": "86400"}, "daily quota", "http://h/v1")
    assert error.retry_after_seconds == 86400
    assert "86,400 s" in str(error) and f"{MAX_RETRY_AFTER_SECONDS:.0f} s" in str(error)
    assert "86,400" not in str(failure_from_status(429, {"retry-after": "8"}, "", "http://h/v1"))


@pytest.mark.parametrize("kind", ["server_error", "rate_limited"])
def test_a_server_that_is_down_gets_more_time_with_each_attempt(kind):
    waits = [delay_seconds(failing(kind), n, 0.5, is_up=False, spread=0.0) for n in range(1, 12)]
    assert waits == sorted(waits) and waits[-1] == MAX_BACKOFF_SECONDS / 2
