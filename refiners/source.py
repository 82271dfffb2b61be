"""Which section of the sources a sample is about, where that is known.

The section it was made from says so, or the key among its attributes; a key finds the present
edition of a section whose text has changed since. Nothing is guessed here.
"""

from __future__ import annotations

from factory.domain import Domain
from factory.types import Sample, Source


class KnownSources:
    """The domain's sections, found for samples."""

    def __init__(self, domain: Domain) -> None:
        self._by_id = {source.id: source for source in domain.sources}
        self._by_key = domain.source_by_key

    def of(self, sample: Sample) -> Source | None:
        """The section of `sample`, or None."""
        for parent in sample.parents:
            if parent.relation == "source" and parent.id in self._by_id:
                return self._by_id[parent.id]
        return self._by_key.get(sample.attributes.get("source_key", ""))
