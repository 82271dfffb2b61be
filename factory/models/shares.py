"""What of the machine one replica of a vLLM server gets: its GPUs, or its share of the cores.

Looks and counts; starts nothing and sets nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from factory.errors import RecipeError


def find_gpus() -> list[str]:
    """Names of the GPUs that may be used, as CUDA_VISIBLE_DEVICES takes them; asks neither torch nor CUDA."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name.strip() for name in chosen.split(",")]
        return names[: next((i for i, name in enumerate(names) if name in {"", "-1"}), len(names))]
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    try:
        listed = subprocess.run(  # noqa: S603
            [command, "-L"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    num_gpus = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [str(index) for index in range(num_gpus)]


def gpus_of(replica: int, num_replicas: int, where: str) -> list[str]:
    """The GPUs of one replica: an even share, in order, what is left over unused.

    Raises RecipeError where there are fewer GPUs than replicas.
    """
    gpus = find_gpus()
    share = len(gpus) // num_replicas
    if share == 0:
        raise RecipeError(
            f"{num_replicas} replicas need a GPU each, and there are {len(gpus)}",
            where=f"{where}.replicas",
            hint="lower it, or name more in CUDA_VISIBLE_DEVICES",
        )
    return gpus[replica * share : (replica + 1) * share]


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_threads(num_replicas: int) -> int:
    """Threads of one replica on a CPU; one core is left to the factory."""
    return max(1, (num_cores() - 1) // num_replicas)
