"""distilabel: rows, a chat task in JSON mode, a step that parses; the distiset is saved to disk.

Without postponed annotations, since those of a step are looked at while the pipeline is built, and with the
step at the top, since it is sent to a process of its own.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import measured
from benchmarks.workload import MAX_TOKENS, MODEL, TEMPERATURE, prompt, rows

os.environ.update(HF_HUB_OFFLINE="1", DISTILABEL_LOG_LEVEL="WARNING")

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, StepInput, step
from distilabel.steps.tasks import TextGeneration


@step(inputs=["generation"], outputs=["question", "answer"])  # type: ignore[untyped-decorator]
def parse(inputs: StepInput) -> Any:
    """The keys of each answer, None where it is no JSON."""
    for row in inputs:
        try:
            found = json.loads(row["generation"] or "")
        except ValueError:
            found = {}
        row.update({name: found.get(name) for name in ("question", "answer")})
    yield inputs


def main() -> None:
    base_url, num_requests, in_flight, folder = (
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
    )
    with measured() as found:
        # A batch is asked for as a whole: its size is how many calls are in flight.
        with Pipeline(name="bench", cache_dir=folder / "cache") as pipeline:
            load = LoadDataFromDicts(
                data=[{"instruction": prompt(row)} for row in rows(num_requests)], batch_size=in_flight
            )
            task = TextGeneration(
                llm=OpenAILLM(
                    model=MODEL,
                    base_url=base_url,
                    api_key="none",
                    generation_kwargs={
                        "temperature": TEMPERATURE,
                        "max_new_tokens": MAX_TOKENS,
                        "response_format": {"type": "json_object"},
                    },
                ),
                input_batch_size=in_flight,
            )
            load >> task >> parse(input_batch_size=in_flight)
        made = pipeline.run(use_cache=False)
        made.save_to_disk(str(folder / "distiset"))
        found["samples"] = sum(answer is not None for answer in made["default"]["train"]["answer"])


if __name__ == "__main__":
    main()
