"""Which sections of the sources a sample is about, where that is known.

The sections it was made from say so, or the keys among its attributes; a key finds the present
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
        """The section of `sample`, the first where it has several, or None."""
        return next(iter(self.all_of(sample)), None)

    def all_of(self, sample: Sample) -> tuple[Source, ...]:
        """Every section of `sample`, in the order of its keys; none where none is known."""
        if keys := sample.attributes.get("source_keys", "").split():
            return tuple(self._by_key[key] for key in keys if key in self._by_key)
        parents = [parent.id for parent in sample.parents if parent.relation == "source"]
        if found := [self._by_id[id] for id in parents if id in self._by_id]:
            return tuple(found)
        named = self._by_key.get(sample.attributes.get("source_key", ""))
        return (named,) if named else ()
