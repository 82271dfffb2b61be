"""One QLoRA fine-tuning inside the worker: a frozen NF4 base, a LoRA adapter, TRL's SFTTrainer.

The base is quantised as in "QLoRA" (arXiv 2305.14314): NF4 with double quantisation, and we count
that it really was. Adapter weights train in float32 and are saved in bfloat16, which is what vLLM
serves. The samples arrive as tokens and labels (`training.tokens`); TRL neither truncates nor masks.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import trl.trainer.utils
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

from factory.errors import TrainingError
from training import ranks
from training.checkpoints import Checkpoints
from training.launch import samples_per_step
from training.preference import Judged, check_answers, is_judged, prefer, read_judged
from training.preference import num_steps as num_judged_steps
from training.resume import CHECKPOINTS, newest_checkpoint
from training.tokens import IGNORED, Chat, Row, ends_every_turn, stop_ids_of, tokenize

PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "dataset-factory")
RECORDED = ("identity", "options", "seed", "base", "base_digest", "dataset_digest")  # of a job
OnStep = Callable[..., None]  # called with step, of (their number) and loss

# On a CPU, TRL projects every position through the LM head, the ignored ones too, so that shapes stay
# the same for compilers. Nothing is compiled here, and leaving them out saves a fifth of a step.
trl.trainer.utils._use_triton = lambda device: True


@dataclass
class Prepared:
    """A job whose samples are in tokens; `num_steps` is an estimate where samples are packed."""

    job: dict[str, Any]
    rows: list[Row]
    tokenizer: Any
    stop_ids: set[int]
    num_steps: int
    judged: list[Judged]
    num_judged_steps: int


class Steps(TrainerCallback):  # type: ignore[misc]
    """Reports each step with the last known loss; so many steps came before these, and so many come after."""

    def __init__(self, on_step: OnStep, partial: Path, before: int = 0, after: int = 0) -> None:
        self.on_step, self.partial, self.before, self.after = on_step, partial, before, after

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        loss = next((log["loss"] for log in reversed(state.log_history) if "loss" in log), math.nan)
        of = self.before + state.max_steps + self.after
        self.on_step(step=self.before + state.global_step, of=of, loss=float(loss))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Raises TrainingError as soon as the loss is no number: nothing good comes of it any more."""
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            what = f"the loss became {loss} at step {self.before + state.global_step}, so training stopped"
            rate = "preference.learning_rate" if self.before else "learning_rate"
            kept = newest_checkpoint(self.partial)
            saved = f"what was learned before is in {kept}" if kept else "nothing is saved of it"
            raise TrainingError(what, hint=f"lower {rate}; {saved}")


def prepare(job: dict[str, Any]) -> Prepared:
    """Reads and checks the samples; raises TrainingError where one cannot be learned."""
    options = job["options"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(job["base"])
    except (OSError, ValueError) as error:
        raise TrainingError(f"the base has no tokenizer: {error}", where=job["base"]) from error
    stop_ids = stop_ids_of(job["base"], tokenizer)
    rows = tokenize(read_chats(Path(job["dataset"])), tokenizer, stop_ids, options["max_length"])
    batches = math.ceil(len(rows) / samples_per_step(options))
    steps = options["max_steps"] or math.ceil(options["num_epochs"] * batches)
    judged = read_judged(Path(job["dataset"]), (options.get("preference") or {}).get("method"))
    check_answers(judged, tokenizer, stop_ids, options["max_length"])
    return Prepared(job, rows, tokenizer, stop_ids, steps, judged, num_judged_steps(len(judged), options))


def read_chats(dataset: Path) -> Iterator[Chat]:
    """The chats of a JSONL file, which also holds judged answers; raises TrainingError for any other line."""
    with dataset.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                found = json.loads(line)
                if is_judged(found):
                    continue
                chat = {"messages": found["messages"], "tools": found.get("tools")}
            except (ValueError, KeyError, TypeError) as error:
                what = 'not a line like {"messages": [{"role": "user", "content": "…"}, …]}'
                raise TrainingError(what, where=f"{dataset}:{number}") from error
            yield chat


def train(prepared: Prepared, on_step: OnStep) -> None:
    """Writes adapter, tokenizer-free, and training.json into the job's partial folder."""
    partial = Path(prepared.job["partial"])
    started = time.monotonic()
    preferred = {}
    try:
        model, num_linear4bit = load_base(prepared.job)
        trainer = make_trainer(prepared, model, on_step)
        check_first_batch(trainer, prepared)
        left = newest_checkpoint(partial)
        result = trainer.train(resume_from_checkpoint=str(left) if left else None)
        curve = [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]
        loss = float(curve[-1][1]) if curve else float(result.training_loss)
        if prepared.judged:
            steps = Steps(on_step, partial, before=trainer.state.global_step)
            preferred = prefer(trainer.model, prepared.judged, prepared.tokenizer, prepared.job, steps)
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        hint = what_to_lower(prepared)
        raise TrainingError("the device ran out of memory", where=prepared.job["base"], hint=hint) from error
    shared = ranks.gather(trainer.model)
    if not ranks.is_first():
        return
    num_trainable = save_adapter(trainer.model, partial, shared)
    record = {
        **{name: prepared.job[name] for name in RECORDED},
        "num_samples": len(prepared.rows),
        "num_tokens": sum(len(row.input_ids) for row in prepared.rows),
        "num_learned_tokens": sum(label != IGNORED for row in prepared.rows for label in row.labels),
        "num_steps": trainer.state.global_step,
        "samples_per_step": samples_per_step(prepared.job["options"]),
        "loss": loss,
        "curve": curve,
        **preferred,
        "seconds": round(time.monotonic() - started, 3),
        "tokens_per_second": round(trainer._total_train_tokens / result.metrics["train_runtime"], 1),
        "num_linear4bit": num_linear4bit,
        "num_trainable": num_trainable,
        "device": str(trainer.args.device),
        "num_threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    (partial / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out; torch has no class for it on a processor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)


def what_to_lower(prepared: Prepared) -> str:
    """The options that hold memory, with their values and better ones, the mildest first."""
    options = prepared.job["options"]
    batch, accumulation = options["batch_size"], options["gradient_accumulation"]
    longest = max(len(row.input_ids) for row in prepared.rows)
    advice = []
    if batch > 1:
        advice.append(f"batch_size to {batch // 2} with gradient_accumulation {accumulation * 2}")
    if not options["gradient_checkpointing"]:
        advice.append("gradient_checkpointing to true")
    if not options["quantize"]:
        advice.append("quantize to true")
    advice.append(f"max_length below {longest}, the longest sample")
    return f"set {', or '.join(advice)}; `factory train --plan` says what fits"


def load_base(job: dict[str, Any]) -> tuple[Any, int]:
    """The frozen base and the number of its 4-bit linear layers; refuses a base that stayed in 16 bit."""
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32  # on CPUs float32 is no slower, with AMX neither
    quantize, shards = job["options"]["quantize"], job["options"].get("parallel") == "fsdp"
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if shards else None,
    )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            job["base"],
            dtype=dtype,
            quantization_config=config if quantize else None,
            device_map={"": torch.cuda.current_device()} if on_gpu and not shards else None,
        )
    except (OSError, ValueError) as error:
        raise TrainingError(f"the base does not load: {error}", where=job["base"]) from error
    return model, check_quantized(model, job["base"]) if quantize else 0


def check_quantized(model: Any, base: str) -> int:
    """Counts Linear4bit layers; raises TrainingError if any other weight matrix is left in the layers.

    transformers keeps fused mixture-of-experts weights in 16 bit without a word (bitsandbytes#1849).
    """
    import bitsandbytes

    spared = {id(module) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    num_linear4bit, plain = 0, []
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            num_linear4bit += 1
        elif id(module) not in spared:
            plain += [
                f"{name}.{key}" for key, value in module.named_parameters(recurse=False) if value.ndim > 1
            ]
    if plain or not num_linear4bit:
        raise TrainingError(
            f"{len(plain)} weight matrices were not quantised, such as {plain[0] if plain else 'all'}",
            where=base,
            hint="set quantize: false for this base",
        )
    return num_linear4bit


def make_trainer(prepared: Prepared, model: Any, on_step: OnStep) -> SFTTrainer:
    """TRL's trainer over tokens and labels, with a LoRA adapter on all linear layers."""
    options, on_gpu = prepared.job["options"], torch.cuda.is_available()
    partial = Path(prepared.job["partial"])
    schedule = options["lr_scheduler"]
    args = SFTConfig(
        output_dir=str(partial / CHECKPOINTS),
        max_steps=-1 if options["packing"] and not options["max_steps"] else prepared.num_steps,
        num_train_epochs=options["num_epochs"] or 1,
        per_device_train_batch_size=options["batch_size"],
        gradient_accumulation_steps=options["gradient_accumulation"],
        learning_rate=options["learning_rate"],
        lr_scheduler_type="constant_with_warmup" if schedule == "constant" else schedule,
        weight_decay=options["weight_decay"],
        warmup_steps=options["warmup_share"],  # below 1 it is a share of all steps
        max_length=options["max_length"] if options["packing"] else None,
        packing=options["packing"],
        train_sampling_strategy="random" if options["packing"] else "group_by_length",  # less padding
        gradient_checkpointing=options["gradient_checkpointing"],
        neftune_noise_alpha=options["neftune_noise_alpha"] or None,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        ddp_find_unused_parameters=False,  # there are none
        seed=prepared.job["seed"],
        logging_steps=min(5, prepared.num_steps),
        logging_nan_inf_filter=False,
        save_strategy="no",  # but when `Checkpoints` asks for it
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=options["rank"],
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        use_rslora=options["use_rslora"],
        target_modules=options["target"],
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        model,
        args=args,
        train_dataset=Dataset.from_list([row._asdict() for row in prepared.rows]),
        processing_class=prepared.tokenizer,
        peft_config=lora,
        callbacks=[
            Steps(on_step, partial, after=prepared.num_judged_steps),
            Checkpoints(prepared.job["checkpoint_seconds"], partial),
        ],
    )
    # TRL casts the adapter of a quantised base to bfloat16, where small updates vanish in rounding.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return trainer


def check_first_batch(trainer: SFTTrainer, prepared: Prepared) -> None:
    """Raises TrainingError unless the labels that the model gets end each turn with its stop token."""
    batch = next(iter(trainer.get_train_dataloader()))
    for labels in batch["labels"].tolist():
        if not ends_every_turn(labels, prepared.stop_ids, prepared.tokenizer):
            text = prepared.tokenizer.decode([label for label in labels if label != IGNORED])
            raise TrainingError(f"the first batch learns {text[-80:]!r}, which does not end its turn")


def save_adapter(model: Any, folder: Path, gathered: dict[str, Any]) -> int:
    """Writes a PEFT folder in bfloat16, of what was gathered if any; returns the number of trained values."""
    trained = gathered or {name: each for name, each in model.named_parameters() if each.requires_grad}
    for each in trained.values():
        each.data = each.data.to(torch.bfloat16)
    ranks.unwrap(model).save_pretrained(folder, save_embedding_layers=False, state_dict=gathered or None)
    return sum(each.numel() for each in trained.values())
