"""Two processes train one adapter on this CPU: as one would with twice the batch, and they end together."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from pydantic import ValidationError
from test_qlora import FACTS, base, chat, no_progress, train_in_thread, trainer, write_dataset  # noqa: F401
from test_training_resume import Cut, checkpointing, cut_after

from factory.errors import TrainingError
from training.adapters import read_adapter
from training.launch import devices, explain, module, words_of
from training.qlora import QLoRAOptions, TrainingJob
from training.resume import newest_checkpoint, step_of

TWO = {"processes": 2, "batch_size": 4}


def dataset_of(folder, num=32):
    """Facts asked at several lengths, each once."""
    draw = random.Random(0)
    pairs = [(key, answer) for _ in range(num // len(FACTS)) for key, answer in FACTS.items()]
    return write_dataset(
        folder,
        [
            chat(f"{key}{index}? {'notice ' * draw.randint(0, 4)}", answer)
            for index, (key, answer) in enumerate(pairs)
        ],
    )


def record_of(adapter):
    return json.loads((adapter.path / "training.json").read_text())


@pytest.mark.parametrize(
    "options",
    [
        {"processes": 0},
        {"processes": 2, "parallel": "deepspeed"},
        {"parallel": "fsdp"},
        {"processes": 2, "parallel": "fsdp", "preference": {}},
    ],
)
def test_options_refuse_what_several_processes_cannot_do(options):
    with pytest.raises(ValidationError):
        QLoRAOptions(**options)


def test_one_process_is_named_and_started_as_ever(tmp_path, base, monkeypatch):  # noqa: F811
    job = TrainingJob(dataset_of(tmp_path), str(base), tmp_path / "out")
    one, two = (trainer(tmp_path, processes=num)._describe(job) for num in (1, 2))
    assert not {"processes", "parallel"} & one["options"].keys()
    assert one["identity"] != two["identity"] and two["options"]["parallel"] == "ddp"
    assert (module(one["options"]), module(two["options"])) == ("training.worker", "training.launch")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert devices(one["options"]) == {"CUDA_VISIBLE_DEVICES": "3"} and devices(two["options"]) == {}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert devices(one["options"]) == {"CUDA_VISIBLE_DEVICES": "0"}


def ended(process, exitcode, timestamp=100):
    name = signal.Signals(-exitcode).name if exitcode < 0 else ""
    return SimpleNamespace(
        local_rank=process, exitcode=exitcode, timestamp=timestamp, signal_name=lambda: name
    )


@pytest.mark.parametrize(
    ("failures", "errors", "what"),
    [
        # What we raise on purpose says all; the other one was ended for it.
        ([ended(0, -15), ended(1, 1)], [{"event": "error", "what": "too long"}], "too long"),
        # A process that was killed, and one that failed because it was gone.
        (
            [ended(0, 1), ended(1, -9)],
            [{"event": "error", "what": "RuntimeError: Connection closed by peer", "process": 0}],
            "process 2 of 2 was killed by SIGKILL",
        ),
        # One that would not end when it was asked to is no cause.
        (
            [ended(0, -9, timestamp=130), ended(1, 1)],
            [{"event": "error", "what": "ValueError: no", "process": 1}],
            "process 2 of 2 failed: ValueError: no",
        ),
        ([ended(1, 3)], [], "process 2 of 2 ended with 3"),
    ],
)
def test_of_all_failures_the_cause_is_told(failures, errors, what):
    event = explain(failures, errors, 2, Path("train.log"))
    assert event["what"] == what


@pytest.fixture(scope="module")
def learned(tmp_path_factory, base):  # noqa: F811
    """A dataset, and what one process learns of it with twice the batch."""
    folder = tmp_path_factory.mktemp("learned")
    dataset = dataset_of(folder)
    one = trainer(folder, batch_size=8, max_steps=10)
    return dataset, one.train(dataset, str(base), folder / "one", no_progress)


SMALL = {**TWO, "gradient_accumulation": 2, "dropout": 0.1, "max_steps": 15}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, base, learned):  # noqa: F811
    """What two processes make of three jobs, started once: twice the same, and one that others may go on to.

    With the dataset of the last, and what was told of the progress.
    """
    folder, seen = tmp_path_factory.mktemp("two"), []
    worker, small = trainer(folder, max_steps=10, **TWO), trainer(folder, **SMALL)
    dataset = dataset_of(folder, 24)
    jobs = [worker._describe(TrainingJob(learned[0], str(base), folder / name)) for name in ("two", "again")]
    jobs.append(small._describe(TrainingJob(dataset, str(base), folder / "small")))
    worker._run(jobs, lambda *event: seen.append(event))
    two, again, whole = (read_adapter(folder / name) for name in ("two", "again", "small"))
    return SimpleNamespace(two=two, again=again, whole=whole, dataset=dataset, seen=seen)


def same_curve(first, second):
    for expected, same in zip(first["curve"], second["curve"], strict=True):
        assert same["step"] == expected["step"]
        assert same["loss"] == pytest.approx(expected["loss"], rel=1e-3)
        assert same["num_tokens"] == expected["num_tokens"]
    assert second["curve"][-1]["loss"] < second["curve"][0]["loss"]


@pytest.mark.train
def test_two_processes_learn_as_one_does_with_twice_the_batch(learned, by_two):
    """Whatever the lengths of the two batches: the loss is averaged over the tokens of both."""
    _, one = learned
    two = by_two.two
    told = [event[:2] for event in by_two.seen]
    assert told == [(0, None), *((step, 35) for step in range(36))]
    assert two.digest == by_two.again.digest
    first, second = record_of(one), record_of(two)
    same_curve(first, second)
    same = (
        "num_samples",
        "num_tokens",
        "num_learned_tokens",
        "num_steps",
        "samples_per_step",
        "num_trainable",
    )
    assert [first[name] for name in same] == [second[name] for name in same]
    assert second["samples_per_step"] == 8 and second["options"]["processes"] == 2
    assert sorted(path.name for path in two.path.iterdir()) == sorted(
        path.name for path in one.path.iterdir()
    )


def run_two(folder, base, dataset, changed=None, **options):  # noqa: F811
    """Both processes' findings (`one_of_two.py`), and the record of what they have trained."""
    worker = trainer(folder, **TWO, **options)
    job = worker._describe(TrainingJob(dataset, str(base), folder / options["parallel"]))
    Path(job["partial"]).mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    script = Path(__file__).with_name("one_of_two.py")
    words = ["--standalone", "--local_addr", "127.0.0.1", "--nproc_per_node", "2", str(script), "job.json"]
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(script.parents[1]), "GLOO_SOCKET_IFNAME": "lo"} | (changed or {}),
    )
    assert run.returncode == 0, run.stderr[-3000:]
    found = [json.loads((folder / f"saw_{number}.json").read_text()) for number in range(2)]
    return found, json.loads((Path(job["partial"]) / "training.json").read_text()), Path(job["partial"])


@pytest.mark.train
def test_each_sample_is_learned_once_an_epoch_and_both_end_with_the_same(tmp_path, base):  # noqa: F811
    """With dropout, which draws as much as its batch is long, and so takes the generators apart."""
    options = {"max_steps": None, "num_epochs": 3.0, "dropout": 0.1, "parallel": "ddp"}
    (first, second), record, _ = run_two(tmp_path, base, dataset_of(tmp_path), **options)
    assert first["held"] == second["held"] and record["num_steps"] == 12
    for epoch in range(3):
        part = slice(16 * epoch, 16 * (epoch + 1))
        assert sorted(first["seen"][part] + second["seen"][part]) == list(range(32))
    assert first["seen"][:16] != first["seen"][16:32]


@pytest.mark.train
def test_a_shared_base_in_4_bit_teaches_the_same_as_a_whole_one(tmp_path, base, learned):  # noqa: F811
    """On processors that pass for GPUs, and without what moves weights to those."""
    from safetensors.torch import load_file

    dataset, one = learned
    changed = environment_of({"parallel": "fsdp", "processes": 2})
    changed |= {"FSDP_SYNC_MODULE_STATES": "false", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false"}
    options = {"max_steps": 10, "parallel": "fsdp"}
    found, record, folder = run_two(tmp_path, base, dataset, changed, **options)
    whole = record_of(one)
    same_curve(whole, record)
    assert record["num_trainable"] == whole["num_trainable"]
    assert record["num_linear4bit"] == whole["num_linear4bit"] == 28
    assert found[0]["held"] != found[1]["held"]  # each its share
    first, second = (load_file(path / "adapter_model.safetensors") for path in (one.path, folder))
    assert {name: each.shape for name, each in first.items()} == {
        name: each.shape for name, each in second.items()
    }
    for name, matrix in first.items():
        assert (matrix.float() - second[name].float()).abs().mean() < 0.05 * matrix.float().abs().mean()


@pytest.mark.train
def test_two_processes_that_were_cut_off_go_on_and_end_as_they_would_have(tmp_path, base, by_two):  # noqa: F811
    """Once within an epoch and once between two, of two steps each."""
    options, dataset, whole = SMALL, by_two.dataset, by_two.whole
    for step, expected in ((8, 5), (12, 10)):
        with pytest.raises(Cut):
            checkpointing(tmp_path, **options).train(dataset, str(base), tmp_path / "out", cut_after(step))
        left = newest_checkpoint(tmp_path / ".out.partial")
        assert left is not None and left.name == f"checkpoint-{expected}"
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= {path.name for path in left.iterdir()}
    with pytest.raises(TrainingError, match=r"of another processes \(2, here 3\)"):
        checkpointing(tmp_path, **{**options, "processes": 3}).train(
            dataset, str(base), tmp_path / "out", no_progress
        )
    again = checkpointing(tmp_path, **options).train(dataset, str(base), tmp_path / "out", no_progress)
    assert record_of(again)["curve"] == record_of(whole)["curve"]
    assert (again.digest, again.num_steps, again.loss) == (whole.digest, 15, whole.loss)


def workers_of(process, num=2):
    """The processes that train beneath this one, once so many have begun."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        below = [
            each for each in psutil.Process(process).children(recursive=True) if each.status() != "zombie"
        ]
        found = [each for each in below if "training.worker" in each.cmdline()]
        if len(found) == num:
            return found
        time.sleep(0.05)
    raise AssertionError("they did not begin")


def all_end(processes, seconds=5):
    gone, alive = psutil.wait_procs(processes, timeout=seconds)
    return len(gone) == len(processes) or all(each.status() == psutil.STATUS_ZOMBIE for each in alive)


@pytest.mark.train
def test_one_that_is_killed_ends_all_and_is_named(tmp_path, base):  # noqa: F811
    worker = trainer(tmp_path, **TWO)
    thread, errors = train_in_thread(worker, tmp_path, base)
    found = workers_of(worker._process.pid)
    found[1].kill()
    thread.join(60)
    assert "of 2 was killed by SIGKILL" in errors[0].what and "memory" in errors[0].hint
    assert Path(errors[0].where).name == "train.log" and not (tmp_path / "out").exists()
    assert all_end(found)


@pytest.mark.train
def test_cancelling_ends_all_processes(tmp_path, base):  # noqa: F811
    worker = trainer(tmp_path, **TWO)
    thread, errors = train_in_thread(worker, tmp_path, base)
    found = workers_of(worker._process.pid)
    worker.cancel()
    thread.join(20)
    assert [error.what for error in errors] == ["training was cancelled"] and all_end(found)
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_ctrl_c_lets_all_processes_save_at_the_same_step(tmp_path, base):  # noqa: F811
    told = []

    def interrupt(done, total, detail=""):
        told.append((done, detail))
        if done == 7 and "loss" in detail:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, **TWO).train(dataset_of(tmp_path), str(base), tmp_path / "out", interrupt)
    left = newest_checkpoint(tmp_path / ".out.partial")
    step = step_of(tmp_path / ".out.partial")
    assert 10 <= step < 60 and told[-1] == (step, f"goes on at step {step}")
    assert {path.name for path in left.glob("rng_state_*.pth")} == {"rng_state_0.pth", "rng_state_1.pth"}


@pytest.mark.train
def test_no_process_outlives_the_one_that_asked_for_them(tmp_path, base):  # noqa: F811
    code = f"""
import sys, time; sys.path[:0] = [{str(Path(__file__).parent)!r}]
from pathlib import Path
from test_qlora import train_in_thread, trainer
worker = trainer(Path({str(tmp_path)!r}), processes=2)
train_in_thread(worker, Path({str(tmp_path)!r}), Path({str(base)!r}))
print(worker._process.pid, flush=True)
time.sleep(120)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with parent, parent.stdout:
        launcher = psutil.Process(int(parent.stdout.readline()))
        found = [launcher, *workers_of(launcher.pid)]
        parent.kill()
    assert all_end(found)


@pytest.mark.train
def test_a_base_is_not_shared_on_a_processor_and_one_line_says_so(tmp_path, base):  # noqa: F811
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TrainingError, match="parallel is fsdp, but there is no GPU") as caught:
        trainer(tmp_path, **TWO, parallel="fsdp").train(
            dataset_of(tmp_path), str(base), tmp_path / "out", no_progress
        )
    assert "set parallel: ddp" in caught.value.hint


def environment_of(options):
    """What accelerate's launcher makes of the configuration that ships."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words_of(options)))
    environment = prepare_multi_gpu_env(arguments)
    assert (arguments.nproc_per_node, arguments.training_script) == ("2", "training.worker")
    return {name: environment[name] for name in environment if name.startswith(("FSDP_", "ACCELERATE_"))}


def test_accelerate_reads_the_configurations_that_ship(monkeypatch):
    """Shared bases as PEFT documents them for 4 bit; the loader asks for a GPU and is told of one."""
    import torch
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import FullStateDictConfig
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    assert "FSDP_VERSION" not in environment_of({"parallel": "ddp", "processes": 2})
    found = environment_of({"parallel": "fsdp", "processes": 2})
    assert found["ACCELERATE_USE_FSDP"] == "true" and found["ACCELERATE_MIXED_PRECISION"] == "no"
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("accelerate.utils.dataclasses.is_cuda_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.sharding_strategy.name) == (1, "FULL_SHARD")
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert plugin.transformer_cls_names_to_wrap is None  # those of the base
    assert plugin.cpu_ram_efficient_loading and plugin.sync_module_states and not plugin.use_orig_params
    assert not plugin.cpu_offload.offload_params and isinstance(plugin.state_dict_config, FullStateDictConfig)
