"""Which samples were derived from one another on purpose, such as the wordings of one question.

They share an answer and a meaning by intent. A rewrite stays in the family of what it replaces.
"""

from __future__ import annotations

from factory.types import Sample


class Families:
    """Families of the samples seen so far; samples come with their ancestors before them."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}  # of those that were derived, or rewritten from another

    def of(self, sample: Sample) -> str:
        """The sample that all of a family descend from: its own id where it was derived from none."""
        family = sample.attributes.get("original", "")
        for parent in sample.parents:
            if not family and parent.relation == "rewrite_of":
                family = self._of.get(parent.id, parent.id)
        if family:
            self._of[sample.id] = family
        return family or sample.id
