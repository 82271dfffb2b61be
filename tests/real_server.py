"""A real vLLM on the CPU, started as the factory starts it by a process that stands for the factory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

FACTORY = """
import asyncio, sys
from pathlib import Path
from factory.models.vllm_server import VllmProcess
from factory.servers import VllmServer

async def main(folder, model, *adapters):
    spec = VllmServer(model=model, max_model_len=512, max_lora_rank=32)
    process = VllmProcess("tiny", spec, folder, folder / "tiny.log", lambda text: None)
    await process.start()
    for adapter in adapters:
        await process.load_adapter(Path(adapter).name, Path(adapter))
    print(process.base_url, process.api_key, flush=True)
    await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
"""


class RealServer(NamedTuple):
    """Where it is and with what key, the folder of its log, and the process that stands for the factory."""

    base_url: str
    key: str
    folder: Path
    factory: subprocess.Popen[str]


@contextmanager
def serving(folder: Path, model: Path, *adapters: Path) -> Iterator[RealServer]:
    """Serves a model folder as 'base', and adapters by the names of their folders."""
    words = [sys.executable, "-c", FACTORY, str(folder), str(model), *map(str, adapters)]
    factory = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert factory.stdout is not None
        line = factory.stdout.readline().split()
        assert line, (folder / "tiny.log").read_text()[-3000:]
        yield RealServer(line[0], line[1], folder, factory)
    finally:
        factory.kill()
        factory.wait()
