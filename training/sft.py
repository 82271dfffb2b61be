"""One QLoRA fine-tuning inside the worker: a frozen NF4 base, a LoRA adapter, TRL's SFTTrainer.

The base is quantised as in "QLoRA" (arXiv 2305.14314): NF4 with double quantisation, and we count
that it really was. Adapter weights train in float32 and are saved in bfloat16, which is what vLLM
serves. The samples arrive as tokens and labels (`training.tokens`); TRL neither truncates nor masks.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import trl.trainer.utils
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

from factory.errors import TrainingError, TrainingRefused
from training import ranks
from training.chats import place, read_chats
from training.checkpoints import Checkpoints, tokens_before
from training.curves import curve_of
from training.early_stopping import EarlyStopping, dev_rows
from training.exhausted import ran_out, what_to_lower
from training.fields import REFUSALS
from training.judged_answers import Judged, check_answers, read_judged
from training.launch import samples_per_step
from training.preference import num_steps as num_judged_steps
from training.preference import prefer
from training.resume import CHECKPOINTS, newest_checkpoint
from training.splitting import fitting
from training.steps import OnStep, Steps
from training.stopping import WISH, Stopped
from training.tokens import IGNORED, Row, ends_every_turn, stop_ids_of, tokenize
from training.trackers import named_run, trackers

PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "dataset-factory")
RECORDED = ("identity", "options", "seed", "base", "base_digest", "dataset_digest", "dev_digest")

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
    dev: list[Row]


def prepare(job: dict[str, Any]) -> Prepared:
    """Reads and checks the samples; raises TrainingRefused where one cannot be learned."""
    options = job["options"]
    try:
        tokenizer = AutoTokenizer.from_pretrained(job["base"])
    except (OSError, ValueError) as error:
        what = f"the base's tokenizer cannot be read: {str(error).splitlines()[0]}"
        raise TrainingError(what, where=job["base"]) from error
    stop_ids = stop_ids_of(job["base"], tokenizer)
    dataset = Path(job["dataset"])
    chats = list(fitting(read_chats(dataset), tokenizer, options))
    split = options.get("split_long", False)
    rows = tokenize(chats, tokenizer, stop_ids, options["max_length"], split=split)
    dev = dev_rows(job.get("dev", ()), tokenizer, stop_ids, options)
    if held_out := {place(dataset, number) for number in job.get("held_out", ())}:
        dev = [row for row, chat in zip(rows, chats, strict=True) if chat["where"] in held_out]
        rows = [row for row, chat in zip(rows, chats, strict=True) if chat["where"] not in held_out]
    batches = math.ceil(len(rows) / samples_per_step(options))
    steps = options["max_steps"] or math.ceil(options["num_epochs"] * batches)
    # A sweep, which holds lines out, tries rates of the supervised training alone.
    judged = [] if held_out else read_judged(dataset, (options.get("preference") or {}).get("method"))
    check_answers(judged, tokenizer, stop_ids, options["max_length"])
    num_judged = num_judged_steps(len(judged), options)
    return Prepared(job, rows, tokenizer, stop_ids, steps, judged, num_judged, dev)


def train(prepared: Prepared, on_step: OnStep) -> dict[str, int]:
    """Writes adapter, tokenizer-free, and training.json into the job's partial folder.

    Returns the best step and how many were planned, where early stopping ended it before those.
    """
    partial = Path(prepared.job["partial"])
    started = time.monotonic()
    found: dict[str, Any] = {}
    try:
        model, num_linear4bit = load_base(prepared.job)
        stopping = prepared.job["options"].get("early_stopping")
        early = EarlyStopping(stopping, prepared.dev, partial) if stopping else None
        trainer = make_trainer(prepared, model, on_step, early)
        check_first_batch(trainer, prepared)
        left = newest_checkpoint(partial)
        earlier_tokens = trainer._total_train_tokens = tokens_before(left)
        result = trainer.train(resume_from_checkpoint=str(left) if left else None)
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        loss = float(losses[-1] if losses else result.training_loss)
        curve = curve_of(trainer.state.log_history, "sft")
        stopped_early: dict[str, int] = {}
        if early is not None:
            found |= early.finish()
            if trainer.state.global_step < trainer.state.max_steps:
                stopped_early = {"best_step": found["best_step"], "planned": trainer.state.max_steps}
        if prepared.judged:
            if ranks.of_first(WISH.is_there):  # nothing can be saved from here on
                raise Stopped
            steps = Steps(on_step, partial, before=trainer.state.global_step)
            found |= prefer(trainer.model, prepared.judged, prepared.tokenizer, prepared.job, steps)
    except (torch.OutOfMemoryError, RuntimeError, MemoryError, *REFUSALS) as error:
        passed = {"sft", "lora"} & prepared.job["options"].keys()
        if passed and isinstance(error, REFUSALS):
            hint = f"it may come of what is set under {' or '.join(sorted(passed))}"
            raise TrainingRefused(f"the libraries refuse it: {error}", hint=hint) from error
        if not ran_out(error):
            raise
        longest = max(len(row.input_ids) for row in prepared.rows)
        hint = what_to_lower(prepared.job["options"], longest)
        raise TrainingError("the device ran out of memory", where=prepared.job["base"], hint=hint) from error
    shared = ranks.gather(trainer.model)
    if not ranks.is_first():
        return stopped_early
    num_trainable = save_adapter(trainer.model, partial, shared)
    num_tokens = trainer._total_train_tokens - earlier_tokens
    record = {
        **{name: prepared.job[name] for name in RECORDED if name in prepared.job},
        "num_samples": len(prepared.rows),
        "num_tokens": sum(len(row.input_ids) for row in prepared.rows),
        "num_learned_tokens": sum(label != IGNORED for row in prepared.rows for label in row.labels),
        "num_steps": trainer.state.global_step,
        "samples_per_step": samples_per_step(prepared.job["options"]),
        "loss": loss,
        "curve": [*curve, *found.pop("curve", ())],
        **found,
        "seconds": round(time.monotonic() - started, 3),
        "tokens_per_second": round(num_tokens / result.metrics["train_runtime"], 1),
        "num_linear4bit": num_linear4bit,
        "num_trainable": num_trainable,
        "device": str(trainer.args.device),
        "num_threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in PACKAGES},
    }
    (partial / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return stopped_early


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
    """Counts Linear4bit layers; raises TrainingRefused if any other weight matrix is left in the layers.

    transformers keeps fused mixture-of-experts weights in 16 bit without a word (bitsandbytes#1849). On a
    processor with AVX-512 BF16 a layer that answers packs its weights anew, with scales in bfloat16, and from
    then on passes no gradients and cannot be dequantised: that is turned off.
    """
    import bitsandbytes

    spared = {id(module) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    num_linear4bit, plain = 0, []
    for name, module in model.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            num_linear4bit += 1
            module.support_avx512bf16_for_cpu = False
        elif id(module) not in spared:
            plain += [
                f"{name}.{key}" for key, value in module.named_parameters(recurse=False) if value.ndim > 1
            ]
    if plain or not num_linear4bit:
        raise TrainingRefused(
            f"{len(plain)} weight matrices were not quantised, such as {plain[0] if plain else 'all'}",
            where=base,
            hint="set quantize: false for this base",
        )
    return num_linear4bit


def make_trainer(
    prepared: Prepared, model: Any, on_step: OnStep, early: EarlyStopping | None = None
) -> SFTTrainer:
    """TRL's trainer over tokens and labels, with a LoRA adapter on all linear layers."""
    options, on_gpu = prepared.job["options"], torch.cuda.is_available()
    partial = Path(prepared.job["partial"])
    schedule = options["lr_scheduler"]
    given = {
        "train_sampling_strategy": "random" if options["packing"] else "group_by_length",  # less padding
        **options.get("sft", {}),
    }
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
        **named_run(prepared.job, "sft"),
        **given,
    )
    lora = LoraConfig(
        r=options["rank"],
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        use_rslora=options["use_rslora"],
        task_type="CAUSAL_LM",
        **{"target_modules": options["target"], **options.get("lora", {})},
    )
    trainer = SFTTrainer(
        model,
        args=args,
        train_dataset=Dataset.from_list([row._asdict() for row in prepared.rows]),
        processing_class=prepared.tokenizer,
        peft_config=lora,
        callbacks=[
            Steps(on_step, partial, after=prepared.num_judged_steps),
            *trackers(prepared.job, "sft"),
            *([early] if early else []),  # before the next, whose file says that a checkpoint is whole
            Checkpoints(prepared.job["checkpoint_seconds"], partial),
        ],
    )
    # TRL casts the adapter of a quantised base to bfloat16, where small updates vanish in rounding.
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if early is not None:
        early.trainer = trainer
    return trainer


def check_first_batch(trainer: SFTTrainer, prepared: Prepared) -> None:
    """Raises TrainingError unless the labels that the model gets end each turn with its stop token."""
    batch = next(iter(trainer.get_train_dataloader()), None)
    if batch is None:
        hint = "lower batch_size, or leave sft.dataloader_drop_last out"
        raise TrainingRefused("the samples do not fill one batch, and less is dropped", hint=hint)
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
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank form, with the path of the base
    return sum(each.numel() for each in trained.values())
