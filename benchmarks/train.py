"""Training: tokens a second and peak memory of ours, of a bare TRL script, and of packed samples.

All train the same LoRA adapter on the same made-up chats for one pass, each in a process of its own that
times trainer.train() alone; tokens are those of the samples, padding not counted. The contenders take turns,
and each one's best run stands in the table. On a GPU memory is what torch allocated at most, beside the
plan's figure; on a processor it is the process's peak over what it held before the base was loaded, in which
whatever libraries load and keep counts too.

    python -m benchmarks.train [--base FOLDER] [--samples 256] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

MIB = 2**20
TINY = Path(__file__).parents[1] / "tiny/models/base"
CONTENDERS = ("ours", "bare TRL", "ours, packed")
WORDS = ("the", "notice", "claim", "wage", "burial", "doctor", "board", "hearing", "appeal", "days", "year")
Result = dict[str, Any]


def write_dataset(path: Path, num_samples: int) -> None:
    """Chats of 8 to 40 words with short answers, as most samples are."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(num_samples):
            question = " ".join(draw.choices(WORDS, k=draw.randint(4, 28)))
            answer = " ".join(draw.choices(WORDS, k=draw.randint(4, 12)))
            turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            file.write(json.dumps({"messages": turns}) + "\n")


def job_of(given: argparse.Namespace, folder: Path, packing: bool) -> tuple[Any, Result]:
    """The trainer and the job that it would hand to its worker. Packed rows are few and long."""
    from training.qlora import QLoRA, QLoRAOptions, TrainingJob

    packed = {"packing": True, "batch_size": max(1, given.batch_size // 8)}
    options = QLoRAOptions(
        num_epochs=1.0,
        max_length=given.max_length,
        rank=given.rank,
        num_threads=given.threads,
        **(packed if packing else {"batch_size": given.batch_size}),
    )
    trainer = QLoRA(options, SimpleNamespace(folder=folder, recipe=SimpleNamespace(seed=0)))  # type: ignore[arg-type]
    job = trainer._describe(
        TrainingJob(folder / "data.jsonl", str(Path(given.base).resolve()), folder / "out")
    )
    Path(job["partial"]).mkdir(exist_ok=True)
    return trainer, job


def ours(given: argparse.Namespace, folder: Path, packing: bool) -> tuple[Any, Result]:
    """The product's trainer, ready to train, and what its plan says in bytes."""
    from training import sft

    trainer, job = job_of(given, folder, packing)
    plan = trainer.plan(Path(job["dataset"]), job["base"], None)
    not_allocated = ("fragmentation", "CUDA context")
    planned = sum(part.num_bytes for part in plan.parts if part.name not in not_allocated)
    prepared = sft.prepare(job)
    before = _resident()
    model, _ = sft.load_base(job)
    return sft.make_trainer(prepared, model, lambda **_: None), {"planned": planned, "before": before}


def bare(given: argparse.Namespace, folder: Path) -> tuple[Any, Result]:
    """What TRL's documentation shows for QLoRA, with the same configuration."""
    import torch
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
    from trl import SFTConfig, SFTTrainer

    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    four_bit = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    dataset = load_dataset(
        "json", data_files=str(folder / "data.jsonl"), split="train", cache_dir=str(folder)
    )
    before = _resident()
    model = AutoModelForCausalLM.from_pretrained(
        given.base, dtype=dtype, quantization_config=four_bit, device_map={"": 0} if on_gpu else None
    )
    args = SFTConfig(
        output_dir=str(folder / "bare"),
        num_train_epochs=1,
        per_device_train_batch_size=given.batch_size,
        learning_rate=2e-4,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        max_length=given.max_length,
        assistant_only_loss=True,
        gradient_checkpointing=False,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        seed=0,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(r=given.rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = AutoTokenizer.from_pretrained(given.base)
    trainer = SFTTrainer(
        model, args=args, train_dataset=dataset, processing_class=tokenizer, peft_config=lora
    )
    return trainer, {"before": before}


def measure(given: argparse.Namespace) -> None:
    """One contender in this process; prints its result as the last line."""
    import torch

    torch.set_num_threads(given.threads)
    folder = Path(given.folder)
    if given.contender == "bare TRL":
        trainer, found = bare(given, folder)
    else:
        trainer, found = ours(given, folder, packing=given.contender == "ours, packed")
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    trainer.train()
    found["seconds"] = time.perf_counter() - began
    found["steps"] = trainer.state.global_step
    found["loss"] = [log["loss"] for log in trainer.state.log_history if "loss" in log][-1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - found.pop("before")
    found["peak"] = torch.cuda.max_memory_allocated() if on_gpu else peak
    found["on_gpu"] = on_gpu
    print(json.dumps(found), flush=True)


def _resident() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def run(contender: str, given: argparse.Namespace, folder: Path) -> Result:
    """One contender in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.train", "--contender", contender, "--folder", str(folder)]
    for name in ("base", "batch_size", "max_length", "rank", "threads"):
        words += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
    from training.qlora import environment

    env = environment([{"base": given.base}])
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"{contender} failed: {done.stderr[-1500:]}")
    found: Result = json.loads(done.stdout.splitlines()[-1])
    return found


def num_tokens(dataset: Path, base: str, max_length: int) -> int:
    """Tokens of all samples, template included."""
    from training.lengths import read_lengths

    lengths = read_lengths(dataset, base, {"max_length": max_length})
    if lengths.num_refused:
        raise SystemExit(lengths.refusal)
    return lengths.num_tokens


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", default=str(TINY))
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = parse()
    if given.contender:
        measure(given)
        return
    load = os.getloadavg()[0]
    runs: dict[str, list[Result]] = {name: [] for name in CONTENDERS}
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as name:
        folder = Path(name)
        write_dataset(folder / "data.jsonl", given.samples)
        tokens = num_tokens(folder / "data.jsonl", given.base, given.max_length)
        for _ in range(given.repeats):
            for contender in CONTENDERS:
                runs[contender].append(run(contender, given, folder))
    best = {name: min(found, key=lambda each: each["seconds"]) for name, found in runs.items()}
    bare_rate = tokens / best["bare TRL"]["seconds"]
    print(
        f"{os.cpu_count()} cores, load {load:.1f} at the start; {given.samples} samples, {tokens:,} tokens\n"
    )
    print("| contender | tokens/s, best | all runs | against bare | steps | loss | peak MiB | plan MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for contender, found in best.items():
        rate = tokens / found["seconds"]
        rates = ", ".join(f"{tokens / each['seconds']:,.0f}" for each in runs[contender])
        plan = f"{found['planned'] / MIB:,.0f}" if "planned" in found else ""
        print(
            f"| {contender} | {rate:,.0f} | {rates} | {rate / bare_rate:.2f} | {found['steps']} "
            f"| {found['loss']:.3f} | {found['peak'] / MIB:,.0f} | {plan} |"
        )
    print(json.dumps({"benchmark": "train", "load": load, **vars(given), "tokens": tokens, "runs": runs}))


if __name__ == "__main__":
    main()
