"""rensa: its deduplicator over keys and tokens, as its page shows it; it compares signatures.

With `words` the tokens are `text.split()`, as on its page; with `shingles` they are runs of three words.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from rensa import RMinHashDeduplicator

from benchmarks.measure import measured

WORD = re.compile(r"\w+")


def shingles(text: str) -> set[str]:
    """The runs of three words, case aside."""
    words = WORD.findall(text.lower())
    return {" ".join(words[at : at + 3]) for at in range(len(words) - 2)}


def main() -> None:
    kind, data, out, threshold = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    tokens = shingles if kind == "shingles" else str.split
    with data.open() as file:
        texts = [row["text"] for row in map(json.loads, file)]
    with measured() as found:
        dedup = RMinHashDeduplicator(threshold=threshold, num_perm=128, use_lsh=True)
        kept = dedup.add_pairs((str(number), tokens(text)) for number, text in enumerate(texts))
        found["samples"] = len(texts)
    out.write_text(json.dumps([number for number, keep in enumerate(kept) if not keep]))


if __name__ == "__main__":
    main()
