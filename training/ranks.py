"""One of several processes that train one adapter together: which of them it is, and what all must agree on.

All hold the same adapter, learn other samples of the same step and share their gradients, which accelerate
and torch see to. What they must not decide each for itself, such as the order of an epoch's samples, the
first decides for all. With one process nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from factory.errors import TrainingRefused

Value = TypeVar("Value")


def join(options: Mapping[str, Any]) -> None:
    """Waits until all are there; from then on each has a GPU of its own, or its share of the processor.

    Raises TrainingRefused where there are GPUs, but fewer than processes, and where none is to share a base.
    """
    num_processes = options.get("processes", 1)
    if num_processes == 1:
        return
    from accelerate import PartialState

    num_gpus = torch.cuda.device_count()
    if not num_gpus and options["parallel"] == "fsdp":
        what = "parallel is fsdp, but there is no GPU, and on a processor accelerate shares no base"
        raise TrainingRefused(what, hint="set parallel: ddp to try several processes without one")
    if 0 < num_gpus < num_processes:
        hint = "lower `processes`; each takes a GPU of its own"
        what = (
            f"processes is {num_processes}, but of GPUs there {'is' if num_gpus == 1 else 'are'} {num_gpus}"
        )
        raise TrainingRefused(what, hint=hint)
    PartialState(cpu=not num_gpus)


def leave() -> None:
    """Ends the group, if there is one."""
    if count() > 1:
        dist.destroy_process_group()


def count() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def number() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_first() -> bool:
    """Whether this is the one that reports and writes."""
    return number() == 0


def wait() -> None:
    """Until all have come here."""
    if count() > 1:
        dist.barrier()


def of_first(value: Value) -> Value:
    """The value that the first has; all must ask at the same point."""
    if count() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    found: Value = box[0]
    return found


def gather(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's matrices, whole, where processes share them (FSDP), and nothing else; all must ask."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    found: dict[str, torch.Tensor] = {}
    for name, unit in model.named_modules():
        if not isinstance(unit, FullyShardedDataParallel) or ".lora_" not in name:
            continue
        with FullyShardedDataParallel.summon_full_params(unit, recurse=False, writeback=False):
            (matrix,) = unit.module.parameters()
            found[f"{name.replace('_fsdp_wrapped_module.', '')}.weight"] = matrix.detach().cpu().clone()
    return found


def unwrap(model: Any) -> Any:
    """The model without what shares it, if anything does, layer by layer; of use for names alone.

    While layers within are wrapped PEFT 0.21 finds no matrix of the adapter by its name, and saves none.
    """
    from accelerate.utils import extract_model_from_parallel
    from torch.distributed.fsdp import FullyShardedDataParallel

    is_shared = isinstance(model, FullyShardedDataParallel)
    return extract_model_from_parallel(model, recursive=True) if is_shared else model
