"""What a training needs and takes, before it runs: memory by part, tokens and time, and what makes it fit.

Memory is that of the moment it is highest, at the end of a forward pass and the start of the backward one,
over the longest batch. Weights, adapter and optimiser are counted exactly (`training.footprint`), activations
by what autograd keeps; what kernels take for a moment is estimated from the largest tensors. Speed is a
model of operations a token and an assumed use of the device: no measurement, and the plan says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from factory.ports import PlannedPart, SampleLengths, TrainingPlan
from factory.types import Json
from training.devices import CUDA_CONTEXT_BYTES, GIB, Device
from training.footprint import Footprint
from training.launch import samples_per_step
from training.sharding import describe, share

FLOAT32 = 4
TILE_TOKENS, TILE_VOCAB = 4096, 32768  # of logits at once (trl.kernels.chunked_logprob, TRL 1.16)
LOSS_COPIES = 7  # of a tile in float32, where the loss is made without Triton: on a processor
FRAGMENTED = 0.04  # of what is allocated; torch's allocator keeps more than it hands out
RANKS = (512, 320, 256, 128, 64, 32, 16, 8)  # what vLLM serves
SHORTEST = 128  # tokens to which max_length is lowered in search of something that fits

# Share of a device's peak that training reaches. Llama 3 405B ran at 38 to 43 % of H100's bfloat16 peak
# (arXiv 2407.21783, table 4); matrices dequantised on the fly and small LoRA products are slower.
UTILISATION = 0.3
# A layer's forward and backward pass of eager PyTorch with LoRA on seven matrices launches some 200 kernels,
# each of which takes the processor about 10 microseconds: small bases are no faster than that.
LAYER_SECONDS = 2e-3
Options = dict[str, Any]
Measure = Callable[[Options], Footprint]


class Load(NamedTuple):
    """The largest batch: rows, their tokens with padding, and those learned; packed ones are one long row."""

    num_rows: int
    length: int
    num_learned: int

    @property
    def num_tokens(self) -> int:
        return self.num_rows * self.length


def make_plan(
    base: str, options: Options, device: Device, lengths: SampleLengths | None, measure: Measure
) -> TrainingPlan:
    """The plan of these options, and the first change of them that fits where they do not.

    `measure` is asked once for every pair of `quantize` and `rank` that is looked at.
    """
    found = measure(options)
    parts = parts_of(found, options, device, lengths)
    num_bytes = sum(part.num_bytes for part in parts)
    changes: Mapping[str, Json] = {}
    changed_bytes = None
    if num_bytes > device.memory_bytes:
        changes, changed_bytes = _first_that_fits(options, device, lengths, measure)
    num_steps, num_tokens = work_of(options, lengths)
    return TrainingPlan(
        base=base,
        device=device.name,
        memory_bytes=device.memory_bytes,
        parts=parts,
        fits=num_bytes <= device.memory_bytes,
        changes=changes,
        changed_bytes=changed_bytes,
        lengths=lengths,
        num_steps=num_steps,
        num_tokens=num_tokens,
        tokens_per_second=_speed(found, options, device, lengths),
        refusals=tuple(_refusals(found, options, lengths)),
        notes=tuple(_notes(found, options, device, lengths)),
    )


def parts_of(
    found: Footprint, options: Options, device: Device, lengths: SampleLengths | None
) -> tuple[PlannedPart, ...]:
    """Bytes of each part when all together are most, on each of the GPUs where there are several."""
    size = found.value_bytes
    load = _load(options, lengths)
    if options["quantize"]:
        weights = [
            PlannedPart("base in 4 bit", found.nf4_bytes, f"{found.num_linear:,} values, scales included"),
            PlannedPart(
                f"base in {8 * size} bit",
                found.num_plain * size,
                f"{found.num_plain:,} values: embeddings, LM head, norms",
            ),
        ]
    else:
        weights = [
            PlannedPart(f"base in {8 * size} bit", found.num_values * size, f"{found.num_values:,} values")
        ]
    parts = [
        *weights,
        PlannedPart("adapter", found.num_adapter * FLOAT32, f"{found.num_adapter:,} values in float32"),
        PlannedPart("gradients", found.num_adapter * FLOAT32, "of the adapter, in float32"),
        PlannedPart("optimiser", 2 * found.num_adapter * FLOAT32, "AdamW: two float32 moments of each"),
        *_activations(found, options, load),
        _working(found, options, load),
    ]
    if options.get("parallel") == "fsdp":
        parts = share(parts, found, options)
    if device.is_gpu:
        allocated = sum(part.num_bytes for part in parts)
        parts += [
            PlannedPart(
                "fragmentation", int(FRAGMENTED * allocated), f"assumed: {FRAGMENTED:.0%} of all above"
            ),
            PlannedPart("CUDA context", CUDA_CONTEXT_BYTES, "assumed; torch does not count it as allocated"),
        ]
    return tuple(parts)


def work_of(options: Options, lengths: SampleLengths | None) -> tuple[int | None, int | None]:
    """Steps of the optimiser and tokens in them, padding not counted; None where that takes a dataset."""
    if lengths is None or not lengths.num_samples:
        return options["max_steps"], None
    num_rows = lengths.num_samples
    if options["packing"]:
        num_rows = math.ceil(lengths.num_tokens / options["max_length"])
    num_batches = math.ceil(num_rows / samples_per_step(options))
    num_steps = options["max_steps"] or math.ceil((options["num_epochs"] or 3.0) * num_batches)
    return num_steps, round(num_steps / num_batches * lengths.num_tokens)


def operations(found: Footprint, options: Options, length: int, learned_share: float) -> float:
    """Floating-point operations of a token in one step.

    Two for each value forwards and two backwards, since a frozen matrix has no gradient of its own, which
    makes LoRA cost two thirds of full training (Schulman et al. 2025, "LoRA Without Regret"); six for the
    adapter's; the LM head on what is learned, once more in its backward pass; attention as in PaLM
    (arXiv 2204.02311, appendix B), half of it masked. Checkpointing runs every layer forwards once more.
    """
    passes = 6 if options["gradient_checkpointing"] else 4
    head = 6 * found.vocab * found.hidden * learned_share
    attention = (passes + 2) * found.num_layers * found.hidden * length / 2
    return passes * found.num_linear + 6 * found.num_adapter + head + attention


def _activations(found: Footprint, options: Options, load: Load) -> list[PlannedPart]:
    """What the backward pass needs of every layer, or its input alone, and the masks that attention keeps."""
    rows = f"{load.num_rows} × {load.length:,} tokens"
    casts = found.num_adapter * found.value_bytes if found.value_bytes < FLOAT32 else 0
    if options["gradient_checkpointing"]:
        kept = load.num_tokens * found.hidden * found.value_bytes * found.num_layers
        return [PlannedPart("activations", kept + casts, f"{rows}, the input of every layer")]
    return [
        PlannedPart(
            "activations", int(load.num_tokens * found.token_bytes) + casts, f"{rows}, every layer's"
        ),
        PlannedPart(
            "attention masks",
            found.num_layers * _mask_bytes(found, load),
            f"{load.num_rows} × {load.length:,}² in every layer, where rows are padded or packed",
        ),
    ]


def _mask_bytes(found: Footprint, load: Load) -> int:
    """Of one layer; scaled_dot_product_attention makes numbers of a mask and keeps them."""
    return load.num_rows * load.length**2 * found.value_bytes


def _working(found: Footprint, options: Options, load: Load) -> PlannedPart:
    """The larger of what the loss and what the last layer's backward pass take for a moment."""
    rows = min(load.num_learned, TILE_TOKENS)
    width = min(found.vocab, TILE_VOCAB)
    copies = 0 if found.value_bytes < FLOAT32 else LOSS_COPIES
    tile = rows * (TILE_VOCAB * found.value_bytes + copies * width * FLOAT32)
    loss = tile + found.hidden * (load.num_learned + load.num_tokens) * (FLOAT32 + found.value_bytes)
    layer = 3 * load.num_tokens * found.widest * found.value_bytes
    if options["quantize"]:
        layer += found.largest * found.value_bytes
    if options["gradient_checkpointing"]:
        layer += int(load.num_tokens * found.token_bytes / found.num_layers) + _mask_bytes(found, load)
    if loss >= layer:
        detail = f"a tile of {rows:,} learned tokens × {TILE_VOCAB:,} at a time, never the whole vocabulary"
        return PlannedPart("logits", loss, detail)
    again = "the activations of one layer, " if options["gradient_checkpointing"] else ""
    return PlannedPart("backward pass", layer, f"{again}their gradients and one matrix in 16 bit")


def _load(options: Options, lengths: SampleLengths | None) -> Load:
    num_rows, length = options["batch_size"], options["max_length"]
    if options["packing"]:
        share = 1.0 if lengths is None else lengths.learned_share
        return Load(1, num_rows * length, math.ceil(num_rows * length * share))
    if lengths is not None and lengths.num_samples:
        num_rows, length = min(num_rows, lengths.num_samples), min(length, lengths.longest)
        return Load(num_rows, length, num_rows * min(length, lengths.longest_learned))
    return Load(num_rows, length, num_rows * length)


def _candidates(options: Options, lengths: SampleLengths | None) -> Iterator[Options]:
    """Other options, those first that change least of what is learned.

    A smaller batch with more of them to a step is the same step; checkpointing only takes time; 4 bit changes
    the base a little; a lower rank makes the adapter smaller, with `alpha` as it was ("LoRA Without Regret":
    the best rate hardly depends on the rank then); a lower max_length refuses samples.
    """
    longest = lengths.longest if lengths is not None and lengths.num_samples else options["max_length"] + 1
    limits = [options["max_length"]]
    while limits[-1] // 2 >= SHORTEST:
        limits.append(limits[-1] // 2)
    orders = itertools.product(
        (each for each in limits if each == limits[0] or each < longest),
        (rank for rank in RANKS if rank <= options["rank"])
        if options["rank"] > RANKS[-1]
        else (options["rank"],),
        sorted({options["quantize"], True}),
        sorted({options["gradient_checkpointing"], True}),
        _batches(options),
    )
    names = ("max_length", "rank", "quantize", "gradient_checkpointing")
    for *values, (batch, accumulation) in orders:
        smaller = {"batch_size": batch, "gradient_accumulation": accumulation}
        yield {**options, **dict(zip(names, values, strict=True)), **smaller}


def _batches(options: Options) -> Iterator[tuple[int, int]]:
    """The batch size halved again and again, with as many batches to a step as make up for it."""
    smallest = 2 if (options.get("preference") or {}).get("method") == "kto" else 1
    batch, accumulation = options["batch_size"], options["gradient_accumulation"]
    whole = batch * accumulation
    while batch >= smallest:
        yield batch, math.ceil(whole / batch)
        batch //= 2


def _first_that_fits(
    options: Options, device: Device, lengths: SampleLengths | None, measure: Measure
) -> tuple[Mapping[str, Json], int | None]:
    footprints: dict[tuple[bool, int], Footprint] = {}
    for candidate in _candidates(options, lengths):
        key = (candidate["quantize"], candidate["rank"])
        if key not in footprints:
            footprints[key] = measure(candidate)
        parts = parts_of(footprints[key], candidate, device, lengths)
        num_bytes = sum(part.num_bytes for part in parts)
        if num_bytes <= device.memory_bytes:
            return {name: value for name, value in candidate.items() if value != options[name]}, num_bytes
    return {}, None


def _speed(found: Footprint, options: Options, device: Device, lengths: SampleLengths | None) -> float | None:
    """Tokens a second, padding not counted; None where the device's speed is not known."""
    if device.flops is None:
        return None
    share, length = 1.0, options["max_length"]
    if lengths is not None and lengths.num_tokens:
        share, length = lengths.learned_share, round(lengths.mean)
    num_tokens = options["batch_size"] * (options["max_length"] if options["packing"] else length)
    seconds = num_tokens * operations(found, options, length, share) / (UTILISATION * device.flops)
    passes = 4 / 3 if options["gradient_checkpointing"] else 1
    launches = passes * LAYER_SECONDS * found.num_layers if device.is_gpu else 0.0
    return float(options.get("processes", 1) * num_tokens / max(seconds, launches))


def _refusals(found: Footprint, options: Options, lengths: SampleLengths | None) -> Iterator[str]:
    """What training would refuse of the dataset and the base."""
    if lengths is not None and lengths.refusal:
        yield lengths.refusal
    if found.num_other and options["quantize"]:
        what = "values in layers are no linear matrices and would stay in 16 bit — set quantize: false"
        yield f"{found.num_other:,} {what}"


def _notes(
    found: Footprint, options: Options, device: Device, lengths: SampleLengths | None
) -> Iterator[str]:
    """What a reader of the plan must know beside its numbers."""
    yield (
        "all of it is an estimate: activations are counted over shapes, and the speed assumes "
        f"{UTILISATION:.0%} of what the device does at most"
    )
    yield from describe(options)
    if not device.is_gpu:
        yield (
            f"no GPU is at hand and none is named: planned for the {device.memory_bytes / GIB:.1f} GiB of "
            "memory that are free on this machine now, in float32; --gpu plans for a card"
        )
    if device.flops is None:
        yield "the card is not in the table, so nothing is said of its speed"
    if lengths is None:
        yield f"no dataset is given: every batch is taken to be {options['max_length']:,} tokens long"
    if passed := [f"{group}.{name}" for group in ("sft", "lora") for name in options.get(group) or ()]:
        yield f"{', '.join(passed)}: not in it, for the plan knows no fields of the libraries' own"
    if options.get("preference"):
        yield "the preference pass is not in it: it holds two answers of every pair and a second adapter"
