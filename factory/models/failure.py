"""What an HTTP status means to the engine: which kind of EndpointError, retryable or not, and when.

No connection and no client here, so that everything that speaks to an endpoint fails in the same words.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from factory.backoff import MAX_RETRY_AFTER_SECONDS
from factory.errors import EndpointError

MAX_MESSAGE: Final = 300
WORKED_ON: Final = {408, 504, 524}  # somebody on the way waited no longer; the model may have been at work
HINTS: Final = {
    "unauthorized": "check the environment variable that the recipe names in `api_key_env`",
    "rate_limited": "lower `concurrency`, or wait",
}


def failure_from_status(status: int, headers: Mapping[str, str], message: str, where: str) -> EndpointError:
    """The error for an HTTP status above 299; `message` is the server's own text."""
    kind, retryable = kind_of_status(status)
    retry_after = parse_retry_after(headers.get("retry-after"))
    hint = HINTS.get(kind, "")
    if retry_after is not None and retry_after > MAX_RETRY_AFTER_SECONDS:
        longest = f"the longest that is made takes {MAX_RETRY_AFTER_SECONDS:.0f} s"
        hint = f"it asks for a pause of {retry_after:,.0f} s; {longest}"
    return EndpointError(
        f"answered {status}: {one_line(message) or 'without a word'}",
        kind=kind,
        retryable=retryable,
        retry_after_seconds=retry_after,
        status=status,
        worked_on=status in WORKED_ON,
        where=where,
        hint=hint,
    )


def kind_of_status(status: int) -> tuple[str, bool]:
    """(kind, whether trying again can help)."""
    if status in {401, 403}:
        return "unauthorized", False
    if status == 429:
        return "rate_limited", True
    if status == 408:
        return "timeout", True
    if status >= 500:
        return "server_error", True
    return "refused", False


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds to wait, from a number of seconds or an HTTP date (RFC 9110, 10.2.3); None if neither."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None


def one_line(text: str) -> str:
    """The text on one line, cut at 300 characters."""
    line = " ".join(text[: 4 * MAX_MESSAGE].split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"
