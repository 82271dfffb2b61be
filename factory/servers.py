"""Who answers, as a recipe names it: a vLLM of ours, an endpoint that already runs, or a script.

What is started or asked here, how, and how many times over; which role asks whom is in factory.recipe. Two
keys that do not go together are refused in factory.consistency.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_serializer

from factory.address import without_password
from factory.strict import Strict


class VllmServer(Strict):
    """A vLLM that the factory starts on this machine, and stops."""

    kind: Literal["vllm"] = Field("vllm", description="A vLLM that the factory starts and stops.")
    run_as: Literal["server", "in_process", "batch", "files"] = Field(
        "server",
        description="How it is asked: a server on loopback; a process without HTTP, for us alone; `vllm "
        "run-batch`, started for each file of requests; or files that somebody runs elsewhere.",
    )
    model: str = Field(description="Folder (relative to the recipe) or hub name of the base model.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: CUDA where there is a GPU.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="Of the weights. `auto`: the model's own, but float32 for plain weights in a folder on "
        "a processor without AVX-512.",
    )
    quantization: str | None = Field(None, description="Passed to vLLM, for example 'bitsandbytes' or 'fp8'.")
    max_model_len: int = Field(4096, ge=64, description="Tokens of prompt and answer together.")
    max_lora_rank: int = Field(64, description="One of the ranks that vLLM serves.")
    max_loras: int = Field(4, ge=1, description="Adapters held on the device at once.")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="Share of the GPU's memory to take.")
    kv_cache_gib: int = Field(1, ge=1, description="Size of the key-value cache on a CPU.")
    replicas: int = Field(
        1,
        ge=1,
        description="Processes, each with GPUs of its own or a share of the cores; 1 for `batch`, `files`.",
    )
    tool_call_parser: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.-]*$",
        description="What vLLM reads calls of tools with, by vLLM's name: what suits the model, for example "
        "'hermes' for Qwen. A student that is asked with tools needs it.",
    )
    startup_timeout_seconds: float = Field(600.0, gt=0, description="Until the server must be ready.")
    extra_args: list[str] = Field(default_factory=list, description="Further words of vLLM's command line.")


class EndpointServer(Strict):
    """An OpenAI-compatible endpoint that already runs."""

    kind: Literal["endpoint"] = Field(description="A server that already runs.")
    base_url: str = Field(description="For example http://127.0.0.1:8000/v1")
    further_base_urls: list[str] = Field(
        [], description="Replicas: where the same models answer too; none with `batch`."
    )
    api_key_env: str | None = Field(None, description="Environment variable that holds the key.")
    structured: bool = Field(True, description="Whether it constrains answers to a JSON schema.")
    can_load_adapters: bool = Field(False, description="vLLM with runtime LoRA updating allowed.")
    batch: bool = Field(False, description="Ask by its Batch API: in hours, for less; without timeout.")
    can_open_turns: bool = Field(False, description="It goes on with a user's open turn, as vLLM does.")

    @property
    def addresses(self) -> list[str]:
        """All of them; what answers there is named by the first."""
        return [self.base_url, *self.further_base_urls]

    @field_serializer("base_url", "further_base_urls")
    def _without_password(self, found: str | list[str]) -> str | list[str]:
        """What is stored, told or hashed of a recipe holds no user and password."""
        return without_password(found) if isinstance(found, str) else [*map(without_password, found)]


class ScriptedServer(Strict):
    """Canned answers for tests and dry runs; never a model."""

    kind: Literal["scripted"] = Field(description="Answers come from a script, not from a model.")
    script: str = Field("echo", description="Name of a script in factory.models.scripted.")


Server = Annotated[VllmServer | EndpointServer | ScriptedServer, Field(discriminator="kind")]
