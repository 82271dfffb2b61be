"""The error vocabulary: one class for each boundary that can fail.

`FactoryError` carries what a person needs: what went wrong, where (file and key), what to do.
The command line prints it as one line and exits with `exit_code`: 2 where the input is wrong,
1 where the work failed. Anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class FactoryError(Exception):
    """Base of all errors that we raise on purpose; its text is one line."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.hint:
            parts.append(self.hint)
        return " — ".join(" ".join(part.split()) for part in parts)


class InputError(FactoryError):
    """What the user gave is wrong: recipe, file, option, argument."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe, profile or a file that it names cannot be used."""


class WorkspaceError(InputError):
    """The workspace cannot be used: held by another run, newer version, full or read-only disk."""


class EndpointError(FactoryError):
    """An endpoint did not answer usefully after all retries.

    `kind` is one of: unreachable, timeout, unauthorized, refused, rate_limited, server_error,
    malformed, batch_failed (a whole batch, by no request's own fault). It is what `calls.error` holds and
    what reports count by. `status` is that of HTTP, where there was one. `worked_on`: the call may have been
    worked on all the same, and be billed.
    """

    def __init__(
        self,
        what: str,
        *,
        kind: str,
        retry_after_seconds: float | None = None,
        retryable: bool = True,
        status: int | None = None,
        worked_on: bool = False,
        where: str = "",
        hint: str = "",
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.kind = kind
        self.worked_on = worked_on
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.retryable = retryable


class ServerError(FactoryError):
    """A server that we started did not come up or went away; `log_tail` is the end of its log, in lines."""

    def __init__(self, what: str, *, where: str = "", hint: str = "", log_tail: Sequence[str] = ()) -> None:
        super().__init__(what, where=where, hint=hint)
        self.log_tail = tuple(log_tail)


class BudgetExceeded(FactoryError):
    """The next call could pass a limit of the budget, so it was not made."""


class TargetMissed(FactoryError):
    """A round has `num_accepted` accepted samples, `num_missing` fewer than it must have."""

    def __init__(
        self, what: str, num_accepted: int, num_missing: int, *, where: str = "", hint: str = ""
    ) -> None:
        super().__init__(what, where=where, hint=hint)
        self.num_accepted = num_accepted
        self.num_missing = num_missing


class GuardTripped(FactoryError):
    """A guard stopped the round; the text carries its evidence."""


class TrainingError(FactoryError):
    """Training could not start or did not finish."""


class TrainingRefused(TrainingError, InputError):
    """What a training was given is wrong: its dataset, an option, the base, the adapter's folder."""


class DivergedError(TrainingError):
    """The loss of a training became no number."""
