"""What one of several GPUs holds of a training whose base they share (FSDP, arXiv 2304.11277).

Base, adapter, gradients and optimiser are cut into as many shares as there are processes. What is computed
with is whole for a moment: the layer at hand, the next one, which is fetched meanwhile, and what lies in no
layer. A base in 4 bit is whole on every GPU while it loads: transformers quantises it there before it is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from factory.ports import PlannedPart
from training.footprint import Footprint
from training.launch import samples_per_step

WHOLE_LAYERS = 2  # the one at hand and the one that is fetched (backward_prefetch: BACKWARD_PRE)
SHARED = ("base", "adapter", "gradients", "optimiser")


def share(parts: Sequence[PlannedPart], found: Footprint, options: dict[str, Any]) -> list[PlannedPart]:
    """The parts of one of `processes` GPUs, made from those of a GPU that holds everything."""
    num, size = options["processes"], found.value_bytes
    layers = found.nf4_bytes if options["quantize"] else found.num_linear * size
    gathered = WHOLE_LAYERS * layers // found.num_layers + found.num_plain * size
    shares = [
        PlannedPart(part.name, -(-part.num_bytes // num), f"{part.detail}; 1/{num} of them")
        if part.name.startswith(SHARED)
        else part
        for part in parts
    ]
    shares.append(PlannedPart("gathered", gathered, "two layers and the embeddings, whole for a moment"))
    loading = layers + found.num_plain * size - sum(part.num_bytes for part in shares)
    if options["quantize"] and loading > 0:
        shares.append(
            PlannedPart("loading", loading, "more than all above: the 4-bit base, before it is cut")
        )
    return shares


def describe(options: dict[str, Any]) -> Iterator[str]:
    """What a reader of the plan must know, where there are several processes."""
    if options.get("processes", 1) == 1:
        return
    holds = "a share of the base" if options["parallel"] == "fsdp" else "the whole base"
    yield (
        f"memory is that of each of {options['processes']} GPUs, which holds {holds}; a step learns "
        f"{samples_per_step(options):,} samples; what the processes wait for each other is not in the time"
    )
