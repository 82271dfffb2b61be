"""How far merged models are from their adapter: right merges and wrong ones, and which of them are refused.

An adapter is trained as the quickstart trains its student, but on the recipe's checked test questions, and
compared on its dev questions, along the adapter's greedy answers and along question and expected answer (the
reference), as `factory merge` does. Once on the tiny base as it is, whose weights lie on NF4's grid, and once
on the same base with noise in its weights, which NF4 rounds as it does those of a model that was never in
4 bit. Differences are of logits, as a share of their spread; nats are of Kullback and Leibler; both means.

    python -m benchmarks.merge --steps 120
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from factory.merge import HowToMerge
from training.merge import NUM_TOKENS
from training.qlora import QLoRA, QLoRAOptions

ROOT = Path(__file__).parents[1]
BASE, GOLD = ROOT / "tiny/models/base", ROOT / "recipes/georgia_workers_comp/gold"
NOISE = 0.1  # of the standard deviation of each matrix
OPTIONS = {  # of the profile `tiny`
    "rank": 32,
    "alpha": 64,
    "learning_rate": 4e-3,
    "dropout": 0.2,
    "neftune_noise_alpha": 5,
    "batch_size": 32,
    "num_threads": 1,
    "max_length": 256,
}
Job = dict[str, Any]


def read_gold(name: str) -> list[dict[str, str]]:
    """The checked questions of a split."""
    return [json.loads(line) for line in (GOLD / f"{name}.jsonl").read_text("utf-8").splitlines()]


def asked(question: str) -> dict[str, str]:
    """The turn of a user."""
    return {"role": "user", "content": question}


def with_noise(folder: Path) -> Path:
    """A copy of the tiny base none of whose matrices NF4 can hold as it is."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(BASE, folder)
    draw = torch.Generator().manual_seed(0)
    weights = load_file(folder / "model.safetensors")
    for name, old in weights.items():
        if old.ndim == 2 and "embed" not in name and "lm_head" not in name:
            noise = torch.randn(old.shape, generator=draw) * old.float().std() * NOISE
            weights[name] = (old.float() + noise).to(old.dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def train(base: Path, folder: Path, num_steps: int) -> Job:
    """What `factory merge` hands to its worker, for an adapter on this base."""
    dataset, adapter = folder / "gold.jsonl", folder / "adapter"
    with dataset.open("w", encoding="utf-8") as file:
        for each in read_gold("test"):
            answer = {"role": "assistant", "content": each["answer"]}
            file.write(json.dumps({"messages": [asked(each["question"]), answer]}) + "\n")
    domain = SimpleNamespace(folder=folder, recipe=SimpleNamespace(seed=0))
    options = QLoRAOptions.model_validate({**OPTIONS, "max_steps": num_steps})
    trainer = QLoRA(options, domain)  # type: ignore[arg-type]
    trainer.train(dataset, str(base), adapter, lambda *_: None)
    chats = [{"messages": [asked(each["question"])], "expected": each["answer"]} for each in read_gold("dev")]
    job = {"base": str(base), "adapter": str(adapter), "quantize": True, "chats": chats}
    return {**job, "num_tokens": NUM_TOKENS}


def ways(job: Job) -> dict[str, Callable[[], Any]]:
    """What makes one model of the job's adapter and base."""
    import torch

    from training.merge_worker import add_adapter, load_with_adapter

    return {
        "factory merge, bfloat16": lambda: add_adapter(load_with_adapter(job)[0], torch.bfloat16),
        "factory merge, float16": lambda: add_adapter(load_with_adapter(job)[0], torch.float16),
        "onto the base's 16-bit weights": lambda: add_adapter(
            load_with_adapter({**job, "quantize": False})[0], torch.bfloat16
        ),
        "PEFT's merge in 4 bit": lambda: load_with_adapter(job)[0].merge_and_unload(),  # noqa: PLW0108 (loads when its turn comes)
    }


def measure(name: str, job: Job, folder: Path) -> dict[str, Any]:
    """A row of the table for each way."""
    from transformers import AutoTokenizer

    from training.merge_worker import ask_all, compare, load_with_adapter

    kept, found = folder / "logits", {}
    kept.mkdir()
    walked = ask_all(load_with_adapter(job)[0], AutoTokenizer.from_pretrained(job["base"]), job, kept)
    bound = HowToMerge().max_difference
    for way, make in ways(job).items():
        figures = {along: each.figures() for along, each in compare(make(), walked, kept).items()}
        found[way] = figures
        off = {along: each["relative_difference"] for along, each in figures.items()}
        cells = [f"{off[along]:.2g} | {each['mean_divergence']:.2g}" for along, each in figures.items()]
        same, is_refused = figures["greedy"]["same_answers"], max(off.values()) > bound
        print(f"| {name} | {way} | {' | '.join(cells)} | {same:.0%} | {'yes' if is_refused else 'no'} |")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=120, help="of the training of each adapter")
    given = parser.parse_args()
    print(f"logits may differ by {HowToMerge().max_difference:g} of their spread\n")
    print(
        "| base | way | greedy: difference | nats | reference: difference | nats | same answers | refused |"
    )
    print("|" + " --- |" * 8, flush=True)
    found = {}
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as name:
        for title, make in (("tiny", lambda _: BASE), ("tiny with noise", with_noise)):
            folder = Path(name) / title.replace(" ", "-")
            folder.mkdir()
            found[title] = measure(title, train(make(folder / "base"), folder, given.steps), folder)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
