"""What a training runs on: this machine's GPU, a card by name, or the processor, with memory and speed.

The table holds what the vendors' data sheets say (dense bfloat16 with float32 accumulation, no sparsity); of
the memory less is left to a process than they say, since error correction and the driver take some. A
processor's speed is measured, for its data sheet says nothing of how busy it is.
"""

from __future__ import annotations

import difflib
import re
import time
from typing import Any, NamedTuple

from factory.errors import InputError

GIB = 2**30
CUDA_CONTEXT_BYTES = int(0.6 * GIB)  # the driver's own, and the kernels of torch and bitsandbytes
MATMUL_SIZE, MATMUL_SECONDS = 512, 0.3


class Device(NamedTuple):
    """`memory_bytes` is what a process can have of it; `flops` are operations a second, None if not known."""

    name: str
    memory_bytes: int
    flops: float | None
    is_gpu: bool


class Card(NamedTuple):
    """A GPU: memory by its data sheet, the GiB of it that torch finds, and dense bfloat16 TFLOPS."""

    title: str
    memory_gb: int
    usable_gib: float
    tflops: float


CARDS = {
    "l4": Card("NVIDIA L4", 24, 22.0, 121),
    "a10": Card("NVIDIA A10", 24, 22.0, 125),
    "rtx3090": Card("NVIDIA GeForce RTX 3090", 24, 23.6, 71),
    "rtx4090": Card("NVIDIA GeForce RTX 4090", 24, 23.6, 165),
    "a6000": Card("NVIDIA RTX A6000", 48, 47.4, 155),
    "l40s": Card("NVIDIA L40S", 48, 44.4, 362),
    "a100": Card("NVIDIA A100 80GB", 80, 79.1, 312),
    "h100": Card("NVIDIA H100 SXM", 80, 79.1, 989),
    "h200": Card("NVIDIA H200", 141, 139.7, 989),
}


def named(gpu: str) -> Device:
    """A card of the table; raises InputError for any other name."""
    card = CARDS.get(_plain(gpu))
    if card is None:
        near = difflib.get_close_matches(_plain(gpu), CARDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(CARDS)}"
        raise InputError(f"the card '{gpu}' is not known", where="--gpu", hint=hint)
    title = f"{card.title} ({card.memory_gb} GB)"
    return Device(title, int(card.usable_gib * GIB), card.tflops * 1e12, True)


def at_hand(num_threads: int | None) -> Device:
    """This machine's first GPU, or so many threads of its processor with the memory that is free now."""
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        card = next((card for card in CARDS.values() if _plain(card.title) in _plain(found.name)), None)
        return Device(found.name, found.total_memory, card.tflops * 1e12 if card else None, True)
    import psutil

    num = num_threads or 1
    name = f"this machine's processor, {num} {'thread' if num == 1 else 'threads'}"
    return Device(name, psutil.virtual_memory().available, num * measure_flops(torch), False)


def measure_flops(torch: Any) -> float:
    """Operations a second of a float32 matrix product by one thread, as busy as the processor is now."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a thread that waits for another on a busy core tells nothing
    try:
        matrix = torch.ones(MATMUL_SIZE, MATMUL_SIZE)
        seconds: list[float] = []
        started = time.perf_counter()
        while time.perf_counter() - started < MATMUL_SECONDS or len(seconds) < 3:
            began = time.perf_counter()
            torch.mm(matrix, matrix)
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return float(2 * MATMUL_SIZE**3 / sorted(seconds)[len(seconds) // 2])


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|[^a-z0-9]|80gb|sxm", "", name.lower())
