"""An adapter and its base made one model, from outside: what is checked before, and the process that does it.

The base is loaded as it was trained on. What was quantised is dequantised, so that the adapter is added to
the weights that it saw, and not to those that the quantisation rounded. How, and how the merge is compared,
stands in `training.merge_worker`. Nothing heavy is imported here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from factory.errors import InputError, TrainingError
from factory.models.folders import find_refusals
from factory.ports import MergeJob, OnProgress
from factory.types import Json
from training.adapters import identify, resolve_base
from training.qlora import environment, send
from training.reported import heard

NUM_TOKENS = 32  # of an answer, and of a question's end, along which adapter and merge are compared


def merge(job: MergeJob, on_progress: OnProgress) -> dict[str, Json]:
    """Writes model, tokenizer and merge.json into the job's folder; returns what merge.json holds.

    Blocks until it stands. Raises InputError for an adapter that was not trained here or on another base,
    TrainingError where memory or disk do not suffice, or the merge says something else than the adapter.
    """
    record = read_record(job.adapter)
    base = check_base(record, job)
    plan = {
        "parent": os.getpid(),
        "num_threads": record["options"].get("num_threads"),
        "base": base,
        "adapter": str(job.adapter.resolve()),
        "quantize": record["options"]["quantize"],
        "directory": str(job.directory.resolve()),
        "chats": list(job.chats),
        "dtype": job.dtype,
        "num_tokens": NUM_TOKENS,
        "max_difference": job.max_difference,
        "dataset_digest": record["dataset_digest"],
    }
    log = job.directory / "merge.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "training.merge_worker"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.PIPE,
            env=environment([plan]),
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C reaches us alone, and we end it
        )
    try:
        send(process, plan)
        found = _follow(process, on_progress)
        if process.wait() != 0 or found is None:
            _fail(process.returncode, log)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    log.unlink()
    return found or {}


def read_record(adapter: Path) -> dict[str, Any]:
    """The training.json of an adapter that can be merged; raises InputError for any other folder."""
    try:
        record = json.loads((adapter / "training.json").read_text(encoding="utf-8"))
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        record["identity"], record["options"]["quantize"], record["seed"], record["dataset_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "no adapter that was trained here: training.json or adapter_config.json cannot be read"
        raise InputError(what, where=str(adapter)) from error
    if refusals := find_refusals(config):
        raise InputError(f"cannot be merged: it has {refusals[0]}", where=str(adapter))
    return dict(record)


def check_base(record: dict[str, Any], job: MergeJob) -> str:
    """Where the adapter's base is loaded from; raises InputError unless it is the one of the training."""
    base, base_digest = resolve_base(Path.cwd(), job.base or record["base"])
    made = identify(
        record["options"], base_digest, record["dataset_digest"], record["seed"], record.get("dev_digest")
    )
    if made != record["identity"]:
        what = (
            "not the base that the adapter was trained on" if job.base else "the base changed since training"
        )
        hint = "name the folder that holds it with --base" if not job.base else f"it was {record['base']}"
        raise InputError(what, where=base, hint=hint)
    return base


def _follow(process: subprocess.Popen[str], on_progress: OnProgress) -> dict[str, Json] | None:
    """Passes the worker's events on; what it found. Raises the error that it reports."""
    for line in process.stdout or ():
        event = json.loads(line)
        if event["event"] == "step":
            on_progress(event["done"], event["of"], event["detail"])
        elif event["event"] == "done":
            return dict(event["found"])
        else:
            raise heard(event)
    return None


def _fail(code: int, log: Path) -> None:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    end = " | ".join(line.strip() for line in lines[-4:] if line.strip())
    hint = "perhaps memory ran out" if code == -9 else ""
    raise TrainingError(f"the merging process ended with {code}: {end}"[:600], hint=hint)
