"""Other tools at the benchmark's work, each in an environment of its own, made when it is first wanted.

Their scripts lie beside this file, one a tool: `python -m benchmarks.peers.NAME URL REQUESTS IN_FLIGHT
FOLDER` saves one structured answer for each row and prints what `benchmarks.measure` prints. They import of
ours what needs the standard library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """A tool: distribution and version, the script that drives it, and what the endpoint answers it with."""

    name: str
    version: str
    module: str
    extra: str = ""
    further: tuple[str, ...] = ()  # distributions that it imports and does not name
    is_alone: bool = False  # installed without what it asks for, `further` before it
    shape: str = "answer"
    arguments: tuple[str, ...] = ()  # before all others


PEERS = (
    Peer("bespokelabs-curator", "0.1.31", "curator"),
    Peer("sdg-hub", "0.9.4", "sdg_hub_flow"),
    Peer("data-designer", "0.9.6", "designer"),
    Peer("distilabel", "1.5.3", "distilabel_pipeline", "[openai]", further=("pillow", "requests")),
    Peer("deepfabric", "4.13", "deepfabric_dataset", shape="conversation"),
)

# Near duplicates: `python -m benchmarks.peers.NAME [ARGUMENT] DATA DROPPED THRESHOLD` (benchmarks.dedup).
DEDUP_PEERS = (
    Peer("rensa", "0.5.0", "rensa_dedup", arguments=("shingles",)),
    Peer("rensa", "0.5.0", "rensa_dedup", arguments=("words",)),
    Peer("datasketch", "2.0.0", "datasketch_dedup"),
    Peer(
        "datatrove",
        "0.10.1",
        "datatrove_dedup",
        further=("orjson", "regex", "spacy", "tokenizers", "xxhash<4"),
    ),
    Peer("text-dedup", "0.4.0", "text_dedup_minhash"),
)

# Training tools whose loaders read our exports (benchmarks.loaders). What they ask for brings servers, video
# and kernels for GPUs along; their loaders import these.
TRAINERS = (
    Peer(
        "llamafactory",
        "0.9.5",
        "llama_factory_loader",
        is_alone=True,
        further=(
            *("torch==2.13.0", "transformers>=4.55,<=5.6.0", "datasets<=4.0.0", "accelerate<=1.11.0"),
            *("peft>=0.18,<=0.18.1", "trl<=0.24.0", "av<=16.0.0", "einops", "fire", "omegaconf", "pillow"),
            *("protobuf", "pydantic", "pyyaml", "scipy", "sentencepiece", "tiktoken", "tyro<0.9"),
        ),
    ),
    Peer(
        "axolotl",
        "0.19.0",
        "axolotl_loader",
        is_alone=True,
        further=(
            *("torch==2.13.0", "transformers==5.16.1", "datasets==4.8.4", "accelerate==1.13.0"),
            *("peft==0.20.0", "trl==1.9.0", "huggingface_hub==1.17.0", "mistral-common==1.11.5"),
            *("pydantic==2.12.5", "addict", "colorama", "einops", "fire", "numba", "pillow", "psutil"),
            *("posthog==6.7.11", "python-dotenv", "pyyaml", "sentencepiece"),
        ),
    ),
)


def environment(peer: Peer) -> Path:
    """The Python of the peer's environment under the user's cache folder; installs it the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dataset-factory" / "peers"
    folder = cache / f"{peer.name}-{peer.version}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        print(f"installing {peer.name} {peer.version} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        wanted = f"{peer.name}{peer.extra}=={peer.version}"
        # Without our own path, whose pins are no business of theirs.
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        installs = [[*peer.further], ["--no-deps", wanted]] if peer.is_alone else [[wanted, *peer.further]]
        for install in installs:
            words = [str(python), "-m", "pip", "install", "--quiet", *install]
            subprocess.run(words, check=True, env=environ)
        done.touch()
    return python
