"""DeepFabric: one conversation for each topic of a given tree, in steps of a batch, saved as JSON lines.

It makes conversations and nothing else, so the endpoint answers it with one (`Peer.shape`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.measure import measured
from benchmarks.workload import INSTRUCTION, MAX_TOKENS, MODEL, TEMPERATURE, rows

LARGEST_BATCH = 100
os.environ.update(ANONYMIZED_TELEMETRY="False", DEEPFABRIC_TELEMETRY="0", HF_HUB_OFFLINE="1")


def main() -> None:
    base_url, num_requests, in_flight, folder = (
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
    )
    os.environ["OPENAI_BASE_URL"] = base_url  # its provider for OpenAI leaves its own option `base_url` out
    from deepfabric.generator import DataSetGenerator
    from deepfabric.tree import Tree

    with measured() as found:
        model = {"provider": "openai", "model_name": MODEL, "base_url": base_url, "temperature": TEMPERATURE}
        tree = Tree(topic_prompt="Rules", **model)
        tree.from_dict_list([{"path": ["Rules", row]} for row in rows(num_requests)])
        generator = DataSetGenerator(generation_system_prompt=INSTRUCTION, max_tokens=MAX_TOKENS, **model)
        batch_size = min(LARGEST_BATCH, in_flight, num_requests)
        made = generator.create_data(
            num_steps=-(-num_requests // batch_size), batch_size=batch_size, topic_model=tree
        )
        made.to_json(folder / "deepfabric.jsonl")
        found["samples"] = len(made)


if __name__ == "__main__":
    main()
