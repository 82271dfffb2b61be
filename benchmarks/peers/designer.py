"""NVIDIA NeMo Data Designer: one structured column over a seed data frame; it saves Parquet itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.measure import measured
from benchmarks.workload import INSTRUCTION, MAX_TOKENS, MODEL, TEMPERATURE, rows

os.environ.update(NEMO_TELEMETRY_ENABLED="false", HF_HUB_OFFLINE="1")


def main() -> None:
    base_url, num_requests, in_flight, folder = (
        sys.argv[1],
        int(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
    )
    import data_designer.config as dd
    import pandas as pd
    from data_designer.interface import DataDesigner
    from pydantic import BaseModel

    class Answer(BaseModel):
        question: str
        answer: str

    with measured() as found:
        inference = dd.ChatCompletionInferenceParams(
            temperature=TEMPERATURE, max_tokens=MAX_TOKENS, max_parallel_requests=in_flight
        )
        model = dd.ModelConfig(
            alias="writer",
            model=MODEL,
            provider="bench",
            inference_parameters=inference,
            skip_health_check=True,
        )
        provider = dd.ModelProvider(name="bench", endpoint=base_url, api_key="none")
        builder = dd.DataDesignerConfigBuilder(model_configs=[model])
        builder.with_seed_dataset(dd.DataFrameSeedSource(df=pd.DataFrame({"row": rows(num_requests)})))
        builder.add_column(
            dd.LLMStructuredColumnConfig(
                name="made",
                prompt=INSTRUCTION + "\n\n{{ row }}",
                model_alias="writer",
                output_format=Answer,
            )
        )
        designer = DataDesigner(artifact_path=folder / "designer", model_providers=[provider])
        designer.set_run_config(dd.RunConfig(disable_early_shutdown=True))
        made = designer.create(builder, num_records=num_requests, dataset_name="bench")
        found["samples"] = int(made.load_dataset()["made"].notna().sum())


if __name__ == "__main__":
    main()
