"""When failing is no longer the fault of single tasks: the rule that stops a stage.

One failed task is data. Many say that the endpoint, the key or the recipe is wrong, and then going
on only costs time and money.
"""

from __future__ import annotations

from collections import Counter

from factory.errors import FactoryError

MIN_FINISHED = 20
# The endpoint is well, but asking the same again would change nothing: one item is lost, not the stage.
REQUEST_FAULTS = frozenset({"refused", "malformed"})
# With these there is nothing to wait for when no task has succeeded yet: each was retried already.
HOPELESS_AT_FIRST = frozenset({"unreachable", "timeout"})


class FailureRule:
    """Counts finished tasks; raises once failures pass `max_failure_share` of at least 20 of them.

    Stops earlier where 20 in a row fail, where a key is refused, and where the first task to finish found
    the endpoint unreachable or hanging after all its retries; and in the end, where every task failed.
    """

    def __init__(self, max_failure_share: float) -> None:
        self.max_failure_share = max_failure_share
        self.num_finished = 0
        self.num_in_a_row = 0
        self.kinds: Counter[str] = Counter()
        self._first: FactoryError | None = None

    def observe(self, error: FactoryError | None) -> None:
        """Takes in one finished task, with its error if it failed; raises FactoryError to stop the stage."""
        self.num_finished += 1
        if error is None:
            self.num_in_a_row = 0
            return
        self.num_in_a_row += 1
        kind = getattr(error, "kind", type(error).__name__)
        self.kinds[kind] += 1
        self._first = self._first or error
        num_failed = self.kinds.total()
        too_many = (
            self.num_finished >= MIN_FINISHED and num_failed > self.max_failure_share * self.num_finished
        )
        hopeless = kind in HOPELESS_AT_FIRST and num_failed == self.num_finished
        if too_many or hopeless or self.num_in_a_row >= MIN_FINISHED or kind == "unauthorized":
            raise self._stopped(error)

    def finish(self) -> None:
        """Raises FactoryError where tasks finished and none succeeded."""
        if self._first is not None and self.kinds.total() == self.num_finished:
            raise self._stopped(self._first)

    def _stopped(self, error: FactoryError) -> FactoryError:
        kinds = ", ".join(f"{kind} {n}" for kind, n in self.kinds.most_common())
        what = f"{self.kinds.total()} of {self.num_finished} tasks failed: {kinds}; the last: {error.what}"
        return FactoryError(what, where=error.where, hint=error.hint)
