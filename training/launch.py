"""Several processes that train one adapter: `python -m training.launch < JOBS.json`, in place of one worker.

accelerate starts them by the configuration that the option `parallel` names (accelerate/*.yaml): each is a
`training.worker` with a number. This process stands between the factory and them. It hands the plan on and
their events back, dies with the factory as they die with it, and where one fails, ends the others and says in
one event which it was and why. What the factory itself calls imports nothing heavy.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, Final

from factory.errors import TrainingError
from training.reported import told

CONFIGURATIONS: Final = {"ddp": "ddp.yaml", "fsdp": "fsdp_qlora.yaml"}
SECONDS_OF_ONE_FAILURE: Final = 10  # the others are ended later than that, if they do not end when asked


def samples_per_step(options: Mapping[str, Any]) -> int:
    """How many samples, or packed rows, a step of these options (`QLoRAOptions`) learns."""
    num: int = options["batch_size"] * options["gradient_accumulation"] * options.get("processes", 1)
    return num


def module(options: Mapping[str, Any]) -> str:
    """What is to be run for a training with these options (`QLoRAOptions`)."""
    return "training.launch" if options.get("processes", 1) > 1 else "training.worker"


def devices(options: Mapping[str, Any]) -> dict[str, str]:
    """The environment that shows one process one GPU: transformers would split a larger batch over all."""
    if options.get("processes", 1) > 1:
        return {}
    return {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]}


def main() -> int:
    """Trains all jobs on stdin; 0 if every adapter stands, 1 after an error event."""
    from training.worker import die_with, write_log_to

    plan = json.load(sys.stdin)
    die_with(plan["parent"])
    relay = Relay()
    log = Path(plan["jobs"][0]["partial"]) / "train.log"
    write_log_to(log)
    sys.stdout = sys.stderr
    relay.open()
    hand_on({**plan, "parent": os.getpid()})
    options = plan["jobs"][0]["options"]
    failures = launch(options)
    relay.close()
    if failures:
        relay.say(explain(failures, relay.errors, options["processes"], log))
    return 1 if failures else 0


def hand_on(plan: Mapping[str, Any]) -> None:
    """Makes the plan the stdin of all processes that are started from here."""
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(plan).encode())
        file.flush()
        os.dup2(file.fileno(), 0)


def launch(options: Mapping[str, Any]) -> Sequence[Any]:
    """Starts the processes and waits for all; where one fails, ends the others and says how each ended."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0")
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # They would bury what the processes themselves have written to the log.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    arguments = launch_command_parser().parse_args(words_of(options))
    arguments.standalone, arguments.local_addr = True, "127.0.0.1"  # a free port, and no other machine
    arguments.log_dir = os.devnull
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        return list(error.failures.values())
    return []


def words_of(options: Mapping[str, Any]) -> list[str]:
    """What would follow `accelerate launch`."""
    configuration = Path(__file__).with_name("accelerate") / CONFIGURATIONS[options["parallel"]]
    words = ["--config_file", str(configuration), "--num_processes", str(options["processes"])]
    return [*words, "--module", "training.worker"]


class Relay:
    """Passes the processes' events on as they come, but keeps their errors, of which one is the cause."""

    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []
        self._events = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")

    def open(self) -> None:
        """From here on stdout, of this process and of those that it starts, is read by this."""
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(writing)
        self._thread = Thread(target=self._pass_on, args=(reading,), name="relay", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Waits for the last event."""
        os.dup2(2, 1)
        self._thread.join(SECONDS_OF_ONE_FAILURE)

    def say(self, event: Mapping[str, Any]) -> None:
        self._events.write(json.dumps(event) + "\n")

    def _pass_on(self, reading: int) -> None:
        with os.fdopen(reading, encoding="utf-8") as lines:
            for line in lines:
                event = json.loads(line)
                if event["event"] == "error":
                    self.errors.append(event)
                else:
                    self._events.write(line)


def explain(
    failures: Sequence[Any], errors: Sequence[dict[str, Any]], num_processes: int, log: Path
) -> dict[str, Any]:
    """The error event of the failure that the others follow from.

    That is an error that we raise on purpose, else a process that something killed, for its peers fail when
    they miss it, else what was reported first.
    """
    ours = next((error for error in errors if "process" not in error), None)
    if ours:
        return ours
    first = min(failure.timestamp for failure in failures)
    for failure in failures:
        was_killed = (
            failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
        )  # which is how we end the others
        if was_killed and failure.timestamp < first + SECONDS_OF_ONE_FAILURE:
            return _event(failure.local_rank, f"was killed by {failure.signal_name()}", num_processes, log)
    if errors:
        return _event(errors[0]["process"], f"failed: {errors[0]['what']}", num_processes, log)
    return _event(failures[0].local_rank, f"ended with {failures[0].exitcode}", num_processes, log)


def _event(process: int, what: str, num_processes: int, log: Path) -> dict[str, Any]:
    hint = "perhaps memory ran out: lower batch_size" if "SIGKILL" in what else "the log tells more"
    text = f"process {process + 1} of {num_processes} {what}"
    return {"event": "error", **told(TrainingError(text[:600], where=str(log), hint=hint))}


if __name__ == "__main__":
    sys.exit(main())
