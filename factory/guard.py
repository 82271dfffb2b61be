"""Guards before training: too little data, or data that collapses in on itself, stop the round.

Diversity of a round's own samples is measured against as many of the first round of the same run:
distinct-2 (Li et al., arXiv 1510.03055) and the gzip compression ratio (Shaib et al., arXiv 2403.00553).
Half of the fall that stops is told. Nothing here decides about single samples.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, pairwise

from factory.errors import GuardTripped
from factory.recipe import GuardSpec

SAMPLE_SIZE = 500


def distinct2(texts: Sequence[str]) -> float:
    """Share of word bigrams that are distinct, in [0, 1]."""
    bigrams = [pair for text in texts for pair in pairwise(re.findall(r"\w+", text.casefold()))]
    return len(set(bigrams)) / len(bigrams) if bigrams else 0.0


def gzip_ratio(texts: Sequence[str]) -> float:
    """Bytes of the texts over bytes compressed; higher is more repetitive."""
    raw = "\n".join(texts).encode("utf-8", "replace")
    return len(raw) / len(gzip.compress(raw, 6)) if raw else 0.0


def measure(texts: Iterable[str], size: int = SAMPLE_SIZE) -> dict[str, float]:
    """The measures of the first `size` texts; give them in an order that does not favour any."""
    chosen = list(islice(texts, size))
    return {
        "size": len(chosen),
        "distinct2": round(distinct2(chosen), 4),
        "gzip": round(gzip_ratio(chosen), 4),
    }


def check(spec: GuardSpec, num_samples: int, now: Mapping[str, float], first: Mapping[str, float]) -> None:
    """Raises GuardTripped with its evidence where a limit is passed.

    `num_samples` is the size of the dataset, `now` the measure of a round's own samples, and `first` that
    of as many of round 1.
    """
    if num_samples < spec.min_samples:
        raise GuardTripped(
            f"only {num_samples} accepted samples, {spec.min_samples} are the least",
            where="guard.min_samples",
            hint="see `factory sql 'FROM funnel'` for what dropped them",
        )
    fall = fall_of_distinct2(now, first)
    if fall > spec.max_distinct2_drop:
        raise GuardTripped(
            f"distinct-2 fell by {fall:.1%}: {first['distinct2']:.3f} in round 1, now {now['distinct2']:.3f}",
            where="guard.max_distinct2_drop",
            hint="add seeds or sources, or raise the temperature",
        )
    ratio = now["gzip"] / first["gzip"] if first["gzip"] else 0.0
    if ratio > spec.max_gzip_ratio:
        raise GuardTripped(
            f"texts compress {ratio:.2f} times as well as round 1's", where="guard.max_gzip_ratio"
        )


def warning(spec: GuardSpec, now: Mapping[str, float], before: Mapping[str, float], what: str) -> str:
    """What to tell where distinct-2 is below that of `what` by half of the fall that stops; else nothing."""
    fall = fall_of_distinct2(now, before)
    if fall <= spec.max_distinct2_drop / 2:
        return ""
    values = f"{now['distinct2']:.3f} against {before['distinct2']:.3f}"
    return f"guard: distinct-2 of the accepted questions is {fall:.1%} below that of {what}: {values}"


def fall_of_distinct2(now: Mapping[str, float], before: Mapping[str, float]) -> float:
    """The share of `before` that is lost `now`; negative for a gain, 0 where nothing was measured."""
    return 1 - now["distinct2"] / before["distinct2"] if before["distinct2"] else 0.0
