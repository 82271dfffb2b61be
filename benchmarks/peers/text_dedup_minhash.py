"""text-dedup: its command `text_dedup.minhash` over a JSON file, shingles of three words, by default five.

It saves what stays as a dataset, with the other columns.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import measured

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")


def main() -> None:
    data, out, threshold = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    from datasets import load_from_disk
    from text_dedup.minhash import main as command

    with tempfile.TemporaryDirectory(prefix="factory-bench-") as folder:
        os.environ["HF_DATASETS_CACHE"] = folder
        words = ["--path", "json", "--data_files", str(data), "--split", "train", "--cache_dir", folder]
        words += ["--output", f"{folder}/kept", "--column", "text", "--threshold", threshold, "--ngram", "3"]
        with measured() as found:
            command(words, standalone_mode=False)
            kept = set(load_from_disk(f"{folder}/kept")["id"])
            with data.open() as file:
                everything = [json.loads(line)["id"] for line in file]
            found["samples"] = len(everything)
    out.write_text(json.dumps([id for id in everything if id not in kept]))


if __name__ == "__main__":
    main()
