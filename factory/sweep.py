"""What a sweep over learning rates is: short trainings on the same samples, compared on samples held out.

A trainer makes it; which rate is best, and what is said of it, is found here. Nothing of it is a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from factory.ports import OnProgress, Trainer
from factory.types import Json


class SweptRate(NamedTuple):
    """One rate: mean loss over the held-out samples before and after it; None where it is no number."""

    learning_rate: float
    loss_before: float | None
    loss: float | None
    num_steps: int
    seconds: float

    @property
    def diverged(self) -> bool:
        """Whether training left it worse than it found it."""
        return self.loss is None or (self.loss_before is not None and self.loss > self.loss_before)


class Sweep(NamedTuple):
    """All rates in the order in which they were given, and how many samples were learned and held out."""

    rates: tuple[SweptRate, ...]
    num_samples: int
    num_held_out: int

    @property
    def best(self) -> SweptRate | None:
        """The rate with the lowest loss on the held-out samples; None where all diverged."""
        good = [each for each in self.rates if not each.diverged]
        return min(good, key=lambda each: each.loss or 0.0, default=None)

    @property
    def advice(self) -> str:
        """What to make of it, in one sentence."""
        if self.best is None:
            return "every rate diverged: try lower ones"
        best, tried = self.best.learning_rate, [each.learning_rate for each in self.rates]
        if best in (min(tried), max(tried)):
            which = "lower" if best == min(tried) else "higher"
            return f"{best:g} is best, at the edge of what was tried: {which} may be better"
        return f"{best:g} is best"


class SweepingTrainer(Trainer, Protocol):
    """A trainer that can try out learning rates."""

    def sweep(
        self, dataset: Path, base: str, rates: Sequence[float], num_steps: int, on_progress: OnProgress
    ) -> Sweep:
        """Trains `num_steps` at each rate, on the same samples in the same order; keeps no adapter.

        A rate at which the loss becomes no number is a result; raises TrainingError for anything else.
        """
        ...


def as_data(found: Sweep) -> dict[str, Json]:
    """A sweep as it is printed and written."""
    return {
        "samples": found.num_samples,
        "held_out": found.num_held_out,
        "best": None if found.best is None else found.best.learning_rate,
        "advice": found.advice,
        "rates": [{**each._asdict(), "diverged": each.diverged} for each in found.rates],
    }
