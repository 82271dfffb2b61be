"""Bespoke Curator: an LLM with a Pydantic answer format over a list of rows, saved as JSON lines."""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.measure import measured
from benchmarks.workload import MAX_TOKENS, TEMPERATURE, prompt, rows

# It counts tokens with tiktoken, which downloads its tables; litellm brings them along.
TABLES = next(iter(find_spec("litellm").submodule_search_locations)) + "/litellm_core_utils/tokenizers"
os.environ.update(
    TELEMETRY_ENABLED="false", CURATOR_DISABLE_RICH_DISPLAY="1", HF_HUB_OFFLINE="1", TIKTOKEN_CACHE_DIR=TABLES
)


def main() -> None:
    base_url, num_requests, in_flight = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    folder = Path(sys.argv[4] if len(sys.argv) > 4 else tempfile.mkdtemp())
    from bespokelabs import curator
    from pydantic import BaseModel

    class Answer(BaseModel):
        question: str
        answer: str

    class Writer(curator.LLM):  # type: ignore[misc]
        response_format = Answer

        def prompt(self, input: dict[str, Any]) -> str:
            return prompt(input["row"])

        def parse(self, input: dict[str, Any], response: Any) -> dict[str, Any]:
            return {"row": input["row"], "question": response.question, "answer": response.answer}

    with measured() as found:
        writer = Writer(
            model_name="gpt-4o-mini",  # a name whose JSON schema support it knows; the endpoint takes any
            response_format=Answer,
            backend="openai",
            generation_params={"temperature": TEMPERATURE, "max_tokens": MAX_TOKENS},
            backend_params={
                "base_url": base_url,
                "max_concurrent_requests": in_flight,
                "max_requests_per_minute": 10_000_000,
                "max_tokens_per_minute": 10_000_000_000,
            },
        )
        # Its trial question has another schema than the rows, and the endpoint knows theirs only.
        writer._request_processor.check_structured_output_support = lambda: True
        made = writer([{"row": row} for row in rows(num_requests)], working_dir=str(folder / "curator"))
        made.dataset.to_json(folder / "curator.jsonl")
        found["samples"] = sum(1 for _ in (folder / "curator.jsonl").open(encoding="utf-8"))


if __name__ == "__main__":
    main()
