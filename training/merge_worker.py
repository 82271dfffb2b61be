"""The process that merges: `python -m training.merge_worker < JOB.json`, one adapter into one model.

First the base in 4 bit with the adapter on it answers every chat greedily, and the logits along its answer
are kept on disk, and those along the reference: the end of the question and the expected answer. Of its own
answer an adapter is so sure that a bad merge hardly moves it, of a question's words it is not. Then each
layer is dequantised as it was computed with in training, the adapter's product is added in float32, and the
sum is rounded once, to the type that is saved. The files are read again, and the model that they make walks
the same tokens. Events go to stdout as JSON lines (step, done, error).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from factory.errors import FactoryError, TrainingError
from training.divergence import Divergence
from training.reported import told
from training.room import check_room, device
from training.worker import die_with, set_threads

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "dataset-factory")
WALKED: Final = {"greedy": "along its greedy answers", "reference": "along questions and expected answers"}
OnStep = Callable[[str], None]


class Way(NamedTuple):
    """Tokens to walk after others."""

    before: list[int]
    tokens: list[int]


class Asked(NamedTuple):
    """A chat's prompt in tokens, and what is walked of it: `greedy` and `reference`."""

    prompt: list[int]
    ways: dict[str, Way]


def main() -> int:
    """Merges what stdin describes; 0 if the model stands, 1 after an error event."""
    job = json.load(sys.stdin)
    die_with(job["parent"])
    events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)

    def emit(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")

    of, done = 2 * len(job["chats"]) + 2, 0

    def step(detail: str) -> None:
        nonlocal done
        done += 1
        emit("step", done=done, of=of, detail=detail)

    try:
        set_threads(job["num_threads"])
        emit("done", found=merge(job, step))
    except FactoryError as error:
        emit("error", **told(error))
        return 1
    return 0


def merge(job: Mapping[str, Any], on_step: OnStep) -> dict[str, Any]:
    """Fills the job's folder; returns what merge.json holds. Raises TrainingError where it must not stand."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(job["directory"])
    kept = folder / ".logits"
    kept.mkdir()
    check_room(job)
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    model, num_linear4bit = load_with_adapter(job)
    computed_in = str(model.dtype).removeprefix("torch.")
    on_step("loaded")
    asked = ask_all(model, tokenizer, job, kept, on_step)
    merged = add_adapter(model, getattr(torch, job["dtype"]))
    del model
    save(merged, tokenizer, folder)
    del merged
    on_step("saved")

    # What is compared is what was written, not what is in memory.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if [_prompt(tokenizer, chat) for chat in job["chats"]] != [each.prompt for each in asked]:
        raise TrainingError("the saved tokenizer writes a chat differently from the base's")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=job["dtype"], device_map=device()).eval()
    found = compare(model, asked, kept, on_step)
    shutil.rmtree(kept)
    for along, divergence in found.items():
        divergence.check(job["max_difference"], WALKED[along])
    record = {
        "base": job["base"],
        "weights": f"{num_linear4bit} layers dequantised from NF4"
        if num_linear4bit
        else "as the base has them",
        "computed_in": computed_in,
        "dtype": job["dtype"],
        "dataset_digest": job["dataset_digest"],
        "bound": job["max_difference"],
        "comparison": {along: divergence.figures() for along, divergence in found.items()},
        "versions": {name: version(name) for name in PACKAGES},
    }
    (folder / "merge.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


def load_with_adapter(job: Mapping[str, Any]) -> tuple[Any, int]:
    """The base as training loads it with the adapter on it, and how many of its layers are in 4 bit."""
    from peft import PeftModel

    from training.sft import load_base

    base, num_linear4bit = load_base({"base": job["base"], "options": {"quantize": job["quantize"]}})
    try:
        model = PeftModel.from_pretrained(base, job["adapter"])
    except (RuntimeError, ValueError, OSError) as error:
        raise TrainingError(f"the adapter does not fit the base: {error}", where=job["adapter"]) from error
    return model.eval(), num_linear4bit


def ask_all(
    model: Any, tokenizer: Any, job: Mapping[str, Any], kept: Path, on_step: OnStep = lambda _: None
) -> list[Asked]:
    """Each chat with what is walked of it; leaves the model's logits along that in the folder `kept`."""
    import torch

    asked, most = [], job["num_tokens"]
    for number, chat in enumerate(job["chats"]):
        prompt = _prompt(tokenizer, chat)
        told = tokenizer(chat.get("expected", ""), add_special_tokens=False)["input_ids"]
        start = max(1, len(prompt) - most)
        ways = {
            "greedy": Way(prompt, greedy(model, prompt, most)),
            "reference": Way(prompt[:start], prompt[start:] + told[:most]),
        }
        for along, way in ways.items():
            torch.save(walk(model, way), kept / f"{number}-{along}.pt")
        asked.append(Asked(prompt, ways))
        on_step("adapter")
    return asked


def compare(
    model: Any, asked: list[Asked], kept: Path, on_step: OnStep = lambda _: None
) -> dict[str, Divergence]:
    """How far a model is from those logits, along `greedy` and `reference`."""
    import torch

    found: dict[str, Divergence] = {}
    for number, each in enumerate(asked):
        for along, way in each.ways.items():
            before = torch.load(kept / f"{number}-{along}.pt")
            found.setdefault(along, Divergence()).observe(number, before, walk(model, way))
        on_step("merge")
    return found


def greedy(model: Any, prompt: list[int], num_tokens: int) -> list[int]:
    """The tokens of the most likely answer, one by one, at most so many."""
    import torch

    inputs = torch.tensor([prompt], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=num_tokens,
            do_sample=False,
        )
    return list(output[0, len(prompt) :].tolist())


def walk(model: Any, way: Way) -> Any:
    """The logits by which each token of the way is chosen: float32, on the CPU."""
    import torch

    inputs = torch.tensor([[*way.before, *way.tokens[:-1]]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=inputs, logits_to_keep=len(way.tokens)).logits
    return logits[0].float().cpu()


def _prompt(tokenizer: Any, chat: Mapping[str, Any]) -> list[int]:
    asked = tokenizer.apply_chat_template(
        chat["messages"], tools=chat.get("tools"), add_generation_prompt=True, return_dict=True
    )
    return list(asked["input_ids"])


def add_adapter(model: Any, dtype: Any) -> Any:
    """The base with the adapter in its weights, all of `dtype`, layer by layer.

    PEFT's merge_and_unload would quantise the sum again on a base in 4 bit, which loses most of a small
    adapter, and round twice on one that was dequantised to 16 bit before. Scaling is PEFT's own, so
    that rank-stabilised adapters are added as they were trained. Raises TrainingError for what is no number.
    """
    import bitsandbytes
    import torch
    from peft.tuners.lora import LoraLayer

    inner = model.get_base_model()
    for name, module in list(inner.named_modules()):
        is_adapted = isinstance(module, LoraLayer)
        if not is_adapted and not isinstance(module, bitsandbytes.nn.Linear4bit):
            continue
        if not is_adapted and name.endswith(".base_layer"):  # went with the layer around it
            continue
        old = module.get_base_layer() if is_adapted else module
        weight = dense(old)
        for adapter in module.active_adapters if is_adapted else ():
            weight = weight + module.get_delta_weight(adapter).float()
        if not torch.isfinite(weight.to(dtype)).all():
            raise TrainingError(f"the merged weights of {name} are not finite in {dtype}")
        with torch.device("meta"):
            new = torch.nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
        new.weight = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
        if old.bias is not None:
            new.bias = torch.nn.Parameter(old.bias.data.to(dtype), requires_grad=False)
        inner.set_submodule(name, new)
    if getattr(inner, "hf_quantizer", None) is not None:
        inner.hf_quantizer.remove_quantization_config(inner)
    inner.tie_weights()
    return inner.to(dtype)


def dense(layer: Any) -> Any:
    """A layer's weights in float32; of one in 4 bit those that it computes with."""
    import bitsandbytes

    if not isinstance(layer, bitsandbytes.nn.Linear4bit):
        return layer.weight.data.float()
    state = layer.weight.quant_state
    return bitsandbytes.functional.dequantize_4bit(layer.weight.data, state).float()


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes shards of safetensors, configuration, generation configuration, tokenizer and template."""
    model.save_pretrained(folder, max_shard_size="5GB")
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    sys.exit(main())
