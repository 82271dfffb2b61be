"""Writes requirements/{cpu,cuda}.lock: the CUDA one resolved from pyproject.toml, the CPU one from .venv.

The CPU lock is what is installed and tested, less torch (whose source differs by machine) and
the three packages that break it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NOT_ON_CPU = {
    "torch",
    "torchvision",
    "torchaudio",
    "torchcodec",
    "pip",
    "setuptools",
    "wheel",
    "uv",
    "dataset-factory",
}
UV = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "-q", "--python-version", "3.11"]
PLATFORM = ["--python-platform", "x86_64-manylinux_2_28"]
EXTRAS = [
    "--extra",
    "train",
    "--extra",
    "suite",
    "--extra",
    "tensorboard",
    "--extra",
    "serve-cuda",
    "--extra",
    "dev",
]


def lines(command: list[str]) -> list[str]:
    """The lines that a command prints."""
    result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - fixed words
    return result.stdout.splitlines()


def main() -> None:
    frozen = lines([sys.executable, "-m", "pip", "freeze", "--exclude-editable"])
    cpu = [line for line in frozen if "==" in line and line.partition("==")[0].lower() not in NOT_ON_CPU]
    cuda = lines(
        [*UV, *PLATFORM, *EXTRAS, "--no-annotate", "--no-header", "--no-emit-index-url", "pyproject.toml"]
    )
    head = "# Everything but torch, for machines without a GPU; installed with --no-deps."
    Path("requirements/cpu.lock").write_text("\n".join([f"{head} Made by: make lock", *cpu]) + "\n")
    head = "# Everything, for machines with an NVIDIA GPU."
    Path("requirements/cuda.lock").write_text("\n".join([f"{head} Made by: make lock", *cuda]) + "\n")


if __name__ == "__main__":
    main()
