"""What a recipe says of a training by QLoRA, under `training.ROLE`: the options, checked when it is read."""

from __future__ import annotations

from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from factory.recipe import Strict
from factory.strict import KeyedError
from training.fields import check_fields
from training.trackers import Tracker

Rank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]
Scheduler = Literal[
    "constant",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "warmup_stable_decay",
]


# Schedules that cannot do without one of these in `sft.lr_scheduler_kwargs`.
SCHEDULER_NEEDS: Final = {
    "cosine_with_min_lr": {"min_lr", "min_lr_rate"},
    "warmup_stable_decay": {"num_decay_steps"},
}


class PreferenceOptions(Strict):
    """A pass of DPO or KTO after supervised training, over the dataset's judged answers."""

    method: Literal["dpo", "kto"] = Field(
        "dpo",
        description="Pairs of answers (arXiv 2305.18290), or single ones that are good or bad (2402.01306).",
    )
    num_epochs: float = Field(1.0, gt=0, description="Passes over the judged answers.")
    learning_rate: float = Field(1e-5, gt=0, description="Lower than that of the supervised training.")
    beta: float = Field(
        0.1, gt=0, description="How far the model may move from where that left it; less: far."
    )


class EarlyStoppingOptions(Strict):
    """When training ends before its last step: the loss over the gold items of dev gets no better."""

    patience: int = Field(3, ge=1, description="Looks at dev in a row that gain nothing, then it stops.")
    every_steps: int = Field(20, ge=1, description="From one look to the next; the last step has one too.")
    min_gain: float = Field(0.0, ge=0, description="By how much a loss must be lower to be a gain.")


class QLoRAOptions(Strict):
    """How a LoRA adapter is trained; the defaults suit a few hundred to a few thousand samples."""

    rank: Rank = Field(32, description="Rank of the adapter, one that vLLM serves.")
    alpha: float = Field(32.0, gt=0, description="The adapter is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1)
    neftune_noise_alpha: float = Field(
        0.0,
        ge=0,
        description="Noise on the embeddings while training (NEFTune, arXiv 2310.05914); 5 is usual.",
    )
    target: Literal["all-linear"] = Field("all-linear", description="Never the LM head.")
    use_rslora: bool = Field(False, description="Scale by alpha / sqrt(rank) instead (arXiv 2312.03732).")
    learning_rate: float = Field(2e-4, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="Of AdamW, on the adapter's matrices.")
    lr_scheduler: Scheduler = "cosine"
    warmup_share: float = Field(0.03, ge=0, lt=1, description="Share of the steps over which the rate rises.")
    batch_size: int = Field(16, ge=1, description="Samples in memory at once.")
    gradient_accumulation: int = Field(1, ge=1, description="Batches to one step.")
    max_steps: int | None = Field(None, ge=1)
    num_epochs: float | None = Field(None, gt=0, description="Passes over the dataset; 3 without max_steps.")
    max_length: int = Field(1024, ge=8, description="In tokens; longer samples are refused, not cut.")
    split_long: bool = Field(
        False, description="Cut longer conversations between exchanges, each part with the system message."
    )
    quantize: bool = Field(True, description="NF4 with double quantisation; false is plain LoRA.")
    gradient_checkpointing: bool = Field(False, description="Saves memory, costs about a third more time.")
    packing: bool = Field(False, description="Several samples in one row of max_length; for GPUs.")
    num_threads: int | None = Field(None, ge=1, description="On a CPU; as many as cores are free by default.")
    early_stopping: EarlyStoppingOptions | None = Field(
        None, description="Keeps the adapter that was best on dev, and stops where none gets better."
    )
    tracker: Tracker | None = Field(
        None, description="Also writes the learning curve for TensorBoard or Trackio, on this machine."
    )
    preference: PreferenceOptions | None = Field(
        None,
        description="DPO or KTO after it. A student: refined beside raw answers, pairs, and verdicts; a "
        "refiner: what people said of what it had said.",
    )
    sft: dict[str, Any] = Field(
        default_factory=dict, description="Other fields of TRL's `SFTConfig`, such as `max_grad_norm`."
    )
    lora: dict[str, Any] = Field(
        default_factory=dict, description="Other fields of PEFT's `LoraConfig`, such as `target_modules`."
    )

    @field_validator("sft")
    @classmethod
    def _sft_can_be_set(cls, values: dict[str, Any]) -> dict[str, Any]:
        check_fields("SFTConfig", values)
        return values

    @field_validator("lora")
    @classmethod
    def _lora_can_be_set(cls, values: dict[str, Any]) -> dict[str, Any]:
        check_fields("LoraConfig", values)
        return values

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.max_steps and self.num_epochs:
            raise ValueError("max_steps and num_epochs exclude each other")
        return self

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Self:
        needed, given = SCHEDULER_NEEDS.get(self.lr_scheduler), self.sft.get("lr_scheduler_kwargs") or {}
        if needed and not needed & set(given):
            what = f"lr_scheduler '{self.lr_scheduler}' needs {' or '.join(sorted(needed))}"
            raise KeyedError(("sft", "lr_scheduler_kwargs"), what, f"add one: {{{min(needed)}: …}}")
        return self

    @model_validator(mode="after")
    def _several_answers(self) -> Self:
        if self.preference and self.preference.method == "kto" and self.batch_size < 2:
            raise ValueError("KTO compares the answers of a batch: batch_size must be at least 2")
        return self
