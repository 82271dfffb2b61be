"""Makes the tiny models from nothing: `python -m tiny.make [--steps N] [--only NAME]`.

Folders come of it in tiny/models: the base, trained on fictional law, and LoRA adapters on it that the
product's own trainer makes (teachers, a refiner). Everything is drawn from fixed seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

MODELS = Path(__file__).parent / "models"
NAMES = ["base", "teacher", "refiner", "sql_teacher", "tools_teacher", "dialogue_teacher"]
TEACHER = {
    "rank": 32,
    "alpha": 64.0,
    "learning_rate": 4e-3,
    "batch_size": 32,
    "num_epochs": 2.4,
    "max_length": 256,
    "quantize": False,
}
REFINER = {
    "rank": 32,
    "alpha": 64.0,
    "learning_rate": 5e-4,
    "batch_size": 32,
    "num_epochs": 3,
    "max_length": 256,
    "quantize": False,
}
SQL_TEACHER = TEACHER | {"num_epochs": 1, "max_length": 512}
TOOLS_TEACHER = TEACHER | {"num_epochs": 1, "max_length": 512}
DIALOGUE_TEACHER = TEACHER | {"batch_size": 16, "num_epochs": 3.4, "max_length": 448}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200, help="pretraining steps")
    parser.add_argument("--only", choices=NAMES, action="append")
    parser.add_argument("--models", type=Path, default=MODELS)
    options = parser.parse_args()
    # Threads that sleep while they wait: on a shared core, spinning ones slow training severalfold.
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "TOKENIZERS_PARALLELISM": "false"}
    from tiny import adapters, dialogue_teacher, pretrain, refiner, sql_teacher, teacher, tools_teacher

    only = options.only or NAMES
    started = time.monotonic()
    if "base" in only:
        pretrain.train(options.models / "base", steps=options.steps)
    for name, examples, how in (
        ("teacher", lambda: adapters.chats(teacher.examples()), TEACHER),
        ("refiner", lambda: adapters.chats(refiner.examples()), REFINER),
        ("sql_teacher", lambda: adapters.chats(sql_teacher.examples()), SQL_TEACHER),
        ("tools_teacher", lambda: adapters.chats(tools_teacher.examples()), TOOLS_TEACHER),
        ("dialogue_teacher", dialogue_teacher.examples, DIALOGUE_TEACHER),
    ):
        if name in only:
            adapters.train(examples(), options.models / "base", options.models / name, **how)
            make_portable(options.models / name)
            print(f"{name}: {time.monotonic() - started:.0f} s so far", flush=True)
    size = sum(file.stat().st_size for file in options.models.rglob("*") if file.is_file())
    print(f"{size / 1e6:.1f} MB in {options.models}")


def make_portable(adapter: Path) -> None:
    """Takes this machine's paths out of an adapter's folder."""
    for name in ("training.json", "train.log", "README.md"):
        (adapter / name).unlink(missing_ok=True)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "../base"
    (adapter / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
