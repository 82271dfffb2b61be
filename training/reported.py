"""Errors that leave a process that trains or merges: told as an event, raised again as what they were.

What the command line ends with depends on the class alone, so that is told too. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from factory import errors
from factory.errors import FactoryError, TrainingError


def told(error: FactoryError) -> dict[str, str]:
    """What the event of an error holds: its class by name, and its parts."""
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "hint": error.hint}


def heard(event: Mapping[str, str]) -> FactoryError:
    """The error of an event; what needs more than its parts to be made becomes a TrainingError."""
    kind = getattr(errors, event["kind"], TrainingError)
    plain = issubclass(kind, FactoryError) and kind.__init__ is FactoryError.__init__
    made: FactoryError = (kind if plain else TrainingError)(
        event["what"], where=event["where"], hint=event["hint"]
    )
    return made
