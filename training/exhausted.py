"""What is said when a training runs out of memory: whether it did, and which options to lower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out; torch has no class for it on a processor."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator" in str(error) or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)


def what_to_lower(options: Mapping[str, Any], longest: int) -> str:
    """The options that hold memory, and better values, the mildest first; `longest` is a sample's tokens."""
    batch, accumulation = options["batch_size"], options["gradient_accumulation"]
    advice = []
    if batch > 1:
        advice.append(f"batch_size to {batch // 2} with gradient_accumulation {accumulation * 2}")
    if not options["gradient_checkpointing"]:
        advice.append("gradient_checkpointing to true")
    if not options["quantize"]:
        advice.append("quantize to true")
    advice.append(f"max_length below {longest}, the longest sample")
    return f"set {', or '.join(advice)}; `factory train --plan` says what fits"
