"""SDG Hub: a flow of prompt, chat, extraction and JSON parsing over a data frame, saved as JSON lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.measure import measured
from benchmarks.workload import INSTRUCTION, MAX_TOKENS, MODEL, SCHEMA, TEMPERATURE, rows

os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", HF_HUB_OFFLINE="1")


def write_flow(folder: Path) -> Path:
    """The flow's YAML and its prompt's; returns the path of the first. Both are JSON, which YAML reads."""
    import json

    (folder / "prompt.yaml").write_text(
        json.dumps([{"role": "user", "content": INSTRUCTION + "\n\n{{ row }}"}]), encoding="utf-8"
    )
    shape = {"name": "answer", "schema": SCHEMA, "strict": True}
    blocks = [
        ("PromptBuilderBlock", "prompt", ["row"], "messages", {"prompt_config_path": "prompt.yaml"}),
        (
            "LLMChatBlock",
            "chat",
            "messages",
            "reply",
            {
                "temperature": TEMPERATURE,
                "max_tokens": MAX_TOKENS,
                "async_mode": True,
                "response_format": {"type": "json_schema", "json_schema": shape},
            },
        ),
        ("LLMResponseExtractorBlock", "extract", "reply", None, {"extract_content": True}),
        ("JSONParserBlock", "parse", ["extract_content"], ["question", "answer"], {}),
    ]
    flow = {
        "metadata": {"name": "bench", "description": "One answer a row.", "version": "1.0.0"},
        "blocks": [
            {
                "block_type": kind,
                "block_config": {
                    "block_name": name,
                    "input_cols": inputs,
                    **({"output_cols": outputs} if outputs else {}),
                    **options,
                },
            }
            for kind, name, inputs, outputs, options in blocks
        ],
    }
    path = folder / "flow.yaml"
    path.write_text(json.dumps(flow), encoding="utf-8")
    return path


def main() -> None:
    base_url, num_requests, in_flight, folder = (
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
    )
    import litellm  # noqa: F401 (imported before the clock starts)
    import pandas as pd
    from sdg_hub import Flow

    path = write_flow(folder)
    with measured() as found:
        flow = Flow.from_yaml(str(path))
        flow.set_model_config(model=f"openai/{MODEL}", api_base=base_url, api_key="none")
        made = flow.generate(pd.DataFrame({"row": rows(num_requests)}), max_concurrency=in_flight)
        made[["row", "question", "answer"]].to_json(folder / "sdg_hub.jsonl", orient="records", lines=True)
        found["samples"] = int(made["answer"].notna().sum())


if __name__ == "__main__":
    main()
