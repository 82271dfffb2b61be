"""QLoRA as the factory sees it: jobs, and the process that does the work.

Training runs in `training.worker`, so that torch's memory goes back when it ends and this process
imports nothing heavy. An adapter's folder is immutable: complete for the same base, dataset and
options it is returned as it is, complete for others it is refused. How training is done stands in
`training.sft`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from factory.domain import Domain
from factory.errors import RecipeError, TrainingError, TrainingRefused
from factory.models.folders import find_model
from factory.ports import MergeJob, OnProgress, TrainingPlan
from factory.sweep import Sweep
from factory.tool_calls import chat_of
from factory.types import Adapter, GoldItem, Json, Message, digest
from training import launch
from training.adapters import hash_file, identify, is_complete, read_adapter, resolve_base
from training.following import Follower
from training.options import QLoRAOptions
from training.resume import open_partial
from training.trackers import check_installed

# An adapter without these options is named as ever.
BY_CHOICE = ("preference", "split_long", "sft", "lora", "early_stopping")
WARNS = "bitsandbytes.backends.cpu.ops"  # of a kernel from the hub, which nothing here needs


@dataclass(frozen=True)
class TrainingJob:
    """A dataset (JSONL of {"messages": [...]}), the base to start from, the adapter's folder.

    `held_out` are lines of the dataset, counted from 1, that early stopping looks at in place of the domain's
    dev; they are not learned.
    """

    dataset: Path
    base: str
    directory: Path
    held_out: Sequence[int] = ()


class QLoRA:
    """A `factory.ports.Trainer`."""

    Options: ClassVar[type[BaseModel]] = QLoRAOptions
    CHECKPOINT_SECONDS: ClassVar[float] = 120.0  # a shorter training writes none, unless it is stopped
    STOP_SECONDS: ClassVar[float] = 60.0  # then it is ended, whether or not it has written one

    def __init__(self, options: QLoRAOptions, domain: Domain) -> None:
        check_installed(options.tracker)
        self.options = options
        self.domain = domain
        self._cancelled = threading.Event()
        self._process: subprocess.Popen[str] | None = None

    def train(self, dataset: Path, base: str, directory: Path, on_progress: OnProgress) -> Adapter:
        """Blocks until the adapter stands in `directory`.

        `base` is a folder relative to the recipe or a hub name. Raises RecipeError for a base without
        weights, TrainingRefused for samples that cannot be learned, TrainingError when training fails. One
        that was cut off goes on from its last checkpoint; Ctrl-C lets it write one, a second Ctrl-C does not.
        """
        return self.train_all([TrainingJob(dataset, base, directory)], on_progress)[0]

    def train_all(self, jobs: Sequence[TrainingJob], on_progress: OnProgress) -> list[Adapter]:
        """Several adapters one after another in one process, which spares its start (6 s) for each."""
        described = [self._describe(job) for job in jobs]
        pending = [each for each in described if not is_complete(Path(each["directory"]), each)]
        if pending:
            self._run(pending, on_progress)
        else:
            on_progress(0, None, "already there, nothing is trained")
        was_there = [each not in pending for each in described]
        adapters = [read_adapter(job.directory) for job in jobs]
        return [replace(each, was_there=was) for each, was in zip(adapters, was_there, strict=True)]

    @staticmethod
    def merge(job: MergeJob, on_progress: OnProgress) -> dict[str, Json]:
        """The adapter and its base as one model, compared with them: see `training.merge`."""
        from training.merge import merge

        return merge(job, on_progress)

    def plan(self, dataset: Path | None, base: str, gpu: str | None) -> TrainingPlan:
        """What `train` would need and take, on a named card or on what is here; loads no weights.

        Raises InputError for a card that is not known, RecipeError for a base without config.json, and
        TrainingRefused for samples that cannot be learned at any length.
        """
        from training import devices
        from training.footprint import measure
        from training.lengths import read_lengths
        from training.plan import make_plan

        logging.getLogger(WARNS).setLevel(logging.ERROR)
        device = devices.at_hand(self.options.num_threads) if gpu is None else devices.named(gpu)
        options = self.options.model_dump(mode="json")
        path, _ = find_model(self.domain.folder, base)
        lengths = None if dataset is None else read_lengths(dataset, path, options)
        return make_plan(path, options, device, lengths, partial(measure, path, on_gpu=device.is_gpu))

    def sweep(
        self, dataset: Path, base: str, rates: Sequence[float], num_steps: int, on_progress: OnProgress
    ) -> Sweep:
        """A short training at each learning rate, compared on held-out samples: see `training.sweep`."""
        from training.sweep import sweep

        return sweep(self, dataset, base, rates, num_steps, on_progress)

    def cancel(self) -> None:
        """Ends the training that another thread waits for, which then raises TrainingError; for good.

        It may write a checkpoint first, for STOP_SECONDS at most; called again this ends it at once.
        """
        is_urgent = self._cancelled.is_set()
        self._cancelled.set()
        if self._process is not None and is_urgent:
            self._process.kill()
        elif self._process is not None:
            self._ask_to_stop(self._process)

    def _describe(self, job: TrainingJob) -> dict[str, Any]:
        base, base_digest = resolve_base(self.domain.folder, job.base)
        options = self.options.model_dump(mode="json")
        if not self.options.max_steps and not self.options.num_epochs:
            options["num_epochs"] = 3.0
        try:
            dataset_digest = hash_file(job.dataset)
        except OSError as error:
            raise TrainingRefused(
                f"cannot read the dataset: {error.strerror}", where=str(job.dataset)
            ) from error
        seed = self.domain.recipe.seed
        for name in BY_CHOICE:
            if not options[name]:
                del options[name]
        if options["processes"] == 1:
            del options["processes"], options["parallel"]
        directory = job.directory.resolve()
        dev = self._dev(job) if self.options.early_stopping else {}
        return {
            **dev,
            "dataset": str(job.dataset.resolve()),
            "base": base,
            "directory": str(directory),
            "partial": str(directory.with_name(f".{directory.name}.partial")),
            "options": options,
            "seed": seed,
            "base_digest": base_digest,
            "dataset_digest": dataset_digest,
            "checkpoint_seconds": self.CHECKPOINT_SECONDS if self._goes_on(job) else math.inf,
            "identity": identify(options, base_digest, dataset_digest, seed, dev.get("dev_digest")),
        }

    def _goes_on(self, job: TrainingJob) -> bool:
        """Whether checkpoints are of use: FSDP writes none, and a sweep's folders are gone afterwards."""
        return self.options.parallel != "fsdp" and not job.held_out

    def _dev(self, job: TrainingJob) -> dict[str, Any]:
        """What early stopping looks at, and its digest: gold dev, as the evaluator asks it if it can tell."""
        if job.held_out:
            return {"held_out": list(job.held_out), "dev_digest": digest(list(job.held_out))}
        chat = getattr(self.domain.evaluator, "chat", plain_chat)
        chats = [chat(item) for item in self.domain.dev]
        if not chats:
            raise RecipeError("early stopping looks at dev, which is empty", where="gold.dev")
        return {"dev": chats, "dev_digest": digest(chats)}

    def _run(self, jobs: list[dict[str, Any]], on_progress: OnProgress) -> None:
        for job in jobs:
            open_partial(job)
        plan = {"parent": os.getpid(), "num_threads": self.options.num_threads, "jobs": jobs}
        log = Path(jobs[0]["partial"]) / "train.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(  # noqa: S603 (a module of ours)
                [sys.executable, "-m", launch.module(jobs[0]["options"])],
                stdout=subprocess.PIPE,
                stderr=stderr,
                stdin=subprocess.PIPE,
                env=environment(jobs) | launch.devices(jobs[0]["options"]),
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C reaches us alone, and we end it
            )
        self._process = process
        follower = Follower(jobs, on_progress)
        try:
            send(process, plan)
            self._follow(process, follower)
            if process.wait() != 0 or follower.num_done < len(jobs):
                job = jobs[min(follower.num_done, len(jobs) - 1)]
                self._fail(process.returncode, Path(job["partial"]) / "train.log")
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
            if self._cancelled.is_set() or isinstance(sys.exception(), KeyboardInterrupt):
                follower.tell_what_is_left()

    def _follow(self, process: subprocess.Popen[str], follower: Follower) -> None:
        """Passes the worker's events on to their end, also of one that Ctrl-C asks to stop."""
        if self._cancelled.is_set():
            process.kill()
        try:
            for line in process.stdout or ():
                follower.take(line)
        except KeyboardInterrupt:
            self._ask_to_stop(process)
            follower.tell("stops at the next checkpoint; Ctrl-C again ends it at once")
            for line in process.stdout or ():
                follower.take(line)
            raise

    def _ask_to_stop(self, process: subprocess.Popen[str]) -> None:
        process.terminate()
        deadline = threading.Timer(self.STOP_SECONDS, process.kill)
        deadline.daemon = True
        deadline.start()

    def _fail(self, code: int, log: Path) -> None:
        if self._cancelled.is_set():
            raise TrainingError("training was cancelled")
        end = ""
        with contextlib.suppress(OSError):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            end = " | ".join(line.strip() for line in lines[-4:] if line.strip())
        hint = "perhaps memory ran out: lower batch_size" if code == -9 else "the log tells more"
        raise TrainingError(f"the training process ended with {code}: {end}"[:600], where=str(log), hint=hint)


def plain_chat(item: GoldItem) -> Json:
    """A gold item as a conversation that ends in its answer."""
    return chat_of([*item.before, Message("user", item.question), Message("assistant", item.answer)], {})


def send(process: subprocess.Popen[str], plan: dict[str, Any]) -> None:
    """Writes the plan to the process and ends its input; one that died already is seen to later."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(plan))
            process.stdin.close()


def environment(jobs: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The worker's environment: threads that sleep while they wait, and no hub for a local base."""
    values = {
        # A thread that spins for work on a busy core slows its own process sevenfold (docs/log.md).
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",
    }
    if all(Path(job["base"]).is_dir() for job in jobs):
        values |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {**os.environ, **values}
