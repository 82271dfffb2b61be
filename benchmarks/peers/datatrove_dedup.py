"""datatrove: its four stages one after the other on this machine, with the buckets of its own example.

14 buckets of 8 hashes put its threshold at 0.72; shingles are of three words, of five by default.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
)
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig

from benchmarks.measure import measured


def main() -> None:
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    config = MinhashConfig(
        n_grams=3, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64)
    )
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as folder, measured() as found:
        sig, buckets, ids, gone, kept = (
            f"{folder}/{name}" for name in ("sig", "buckets", "ids", "gone", "kept")
        )
        reader = JsonlReader(str(data.parent), glob_pattern=data.name)
        exclude = JsonlWriter(gone, compression=None)
        stages = [
            [reader, MinhashDedupSignature(output_folder=sig, config=config)],
            [MinhashDedupBuckets(input_folder=sig, output_folder=buckets, config=config)],
            [MinhashDedupCluster(input_folder=buckets, output_folder=ids, config=config)],
            [reader, MinhashDedupFilter(input_folder=ids, exclusion_writer=exclude), JsonlWriter(kept)],
        ]
        for number, stage in enumerate(stages):
            tasks = config.num_buckets if number == 1 else 1
            LocalPipelineExecutor(pipeline=stage, tasks=tasks, logging_dir=f"{folder}/logs{number}").run()
        with data.open() as file:
            found["samples"] = sum(1 for _ in file)
        lines = [line for path in Path(gone).glob("*") for line in path.read_text().splitlines()]
    out.write_text(json.dumps([json.loads(line)["id"] for line in lines]))


if __name__ == "__main__":
    main()
