"""datasketch: the MinHash of each text is looked up in a MinHashLSH, and put in where nothing is found."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from datasketch import MinHash, MinHashLSH

from benchmarks.measure import measured

WORD = re.compile(r"\w+")


def shingles(text: str) -> list[bytes]:
    """The runs of three words, case aside."""
    words = WORD.findall(text.lower())
    return [" ".join(words[at : at + 3]).encode() for at in range(len(words) - 2)]


def main() -> None:
    data, out, threshold = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    with data.open() as file:
        texts = [row["text"] for row in map(json.loads, file)]
    dropped = []
    with measured() as found:
        index = MinHashLSH(threshold=threshold, num_perm=128)
        for number, minhash in enumerate(MinHash.generator(map(shingles, texts), num_perm=128)):
            if index.query(minhash):
                dropped.append(number)
            else:
                index.insert(number, minhash, check_duplication=False)
        found["samples"] = len(texts)
    out.write_text(json.dumps(dropped))


if __name__ == "__main__":
    main()
