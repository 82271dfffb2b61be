"""Whether a served adapter is what it is called: its files, what the endpoint lists, and what it answers."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from fake_endpoint import FakeEndpoint, Status, answer
from safetensors.numpy import load_file, save_file
from tiny_llama import make_adapter

from factory.errors import EndpointError, FactoryError, InputError
from factory.models.change import largest_change
from factory.models.client import EndpointModel
from factory.models.identity import hash_file, name_adapter
from factory.models.replicated import replicated
from factory.proof import Probing, choose_probes, prove, read_proof, refuse_if_changed
from factory.types import GoldItem, Request

PROBES = [GoldItem(f"i{n}", f"question {n}?", f"{n} days", "s") for n in range(5)]


def ask_at(place):
    """Asks a place without an engine."""

    async def ask(messages, *, sampling, ordinal, given):
        return await place.complete(Request(place.id, tuple(messages), None, sampling, ordinal, given=given))

    return ask


PROBING = Probing(choose_probes(PROBES), ask_at, "base_m")
BF16_ADAPTER = Path(__file__).parents[1] / "tiny" / "models" / "teacher"


@pytest.fixture
def adapter(tmp_path):
    return make_adapter(tmp_path / "a", seed=1)


class FakeVllm(FakeEndpoint):
    """Lists a base and one adapter, and holds given answers as likely as `logprobs` says for each of them."""

    def __init__(self, name: str, logprobs: dict[str, float | None], **entry: str | None) -> None:
        super().__init__(self._given)
        self.logprobs = logprobs
        self.entries = [{"id": "base", "root": "/base", "parent": None}, {"id": name, **entry}]
        self.noise = 0.0

    def _given(self, body):
        logprob = self.logprobs["base" if body["model"] == "base" else "adapter"]
        if logprob is None:
            return answer("x")
        unrest = self.noise * (len(self.requests) % 5)  # 0.1 from one answer of the base to the next one
        tokens = body["messages"][-1]["content"].split()
        places = [{"7": {"decoded_token": word, "logprob": logprob + unrest}} for word in tokens]
        return Status(200, {**answer("x").body, "prompt_logprobs": [None, *places]})

    async def _models(self, _):
        return web.json_response({"data": self.entries})


async def proof_at(endpoint: FakeVllm, folder: Path, *further: str):
    name = endpoint.entries[1]["id"]
    places = [EndpointModel(url, name, "m") for url in (endpoint.base_url, *further)]
    model = replicated(places)
    try:
        return await prove(model, read_proof(folder), folder, PROBING)
    finally:
        await model.close()


async def asked(folder: Path, base: float | None, tuned: float | None, noise: float = 0.0, **entry):
    told = {"root": str(folder), "parent": "base", **entry}
    async with FakeVllm(
        name_adapter("student", folder), {"base": base, "adapter": tuned}, **told
    ) as endpoint:
        endpoint.noise = noise
        return await proof_at(endpoint, folder)


def zeroed(folder: Path) -> Path:
    file = folder / "adapter_model.safetensors"
    halves = load_file(file)
    save_file({name: value * ("lora_A" in name) for name, value in halves.items()}, file)
    return folder


def test_the_digest_is_that_of_the_weights_that_were_trained(adapter):
    assert read_proof(adapter).digest == hash_file(adapter / "adapter_model.safetensors")[:20]
    with pytest.raises(FactoryError, match="cannot be read"):
        read_proof(adapter / "none")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="no adapter weights"):
        read_proof(adapter)


def test_a_change_is_seen_though_size_and_time_of_the_file_stay(adapter, tmp_path):
    proof, file = read_proof(adapter), adapter / "adapter_model.safetensors"
    refuse_if_changed(proof, adapter)
    before = file.stat()
    shutil.copy(make_adapter(tmp_path / "b", seed=2) / file.name, file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(FactoryError, match="was changed on disk after it was loaded"):
        refuse_if_changed(proof, adapter)


def test_other_options_of_the_same_weights_are_a_change(adapter):
    proof, config = read_proof(adapter), adapter / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 16', '"lora_alpha": 1'))
    assert read_proof(adapter).digest == proof.digest
    with pytest.raises(FactoryError, match="was changed on disk"):
        refuse_if_changed(proof, adapter)


async def test_an_adapter_that_answers_otherwise_than_its_base_is_proven(adapter):
    proof = await asked(adapter, -1.0, -1.5)
    assert (proof.difference, proof.num_tokens, proof.note) == (0.5, 6, "")
    assert proof.served_as == name_adapter("student", adapter)
    assert proof.digest == read_proof(adapter).digest


async def test_a_name_that_is_answered_by_the_base_is_refused(adapter):
    with pytest.raises(FactoryError, match=r"answers as its base 'base' does, though .* weights by up to \d"):
        await asked(adapter, -1.0, -1.0)


@pytest.mark.parametrize(("tuned", "is_told"), [(-1.1, False), (-3.0, True)])
async def test_what_the_base_varies_by_is_no_difference(adapter, tuned, is_told):
    if not is_told:
        with pytest.raises(FactoryError, match="answers as its base"):
            await asked(adapter, -1.0, tuned, noise=0.1)
        return
    assert (await asked(adapter, -1.0, tuned, noise=0.1)).difference > 1.5


async def test_what_other_work_beside_it_changes_is_no_difference(adapter):
    """A base under the adapter's name, at a server that is busy while it is first asked."""
    name, told = name_adapter("student", adapter), {"root": str(adapter), "parent": "base"}
    async with FakeVllm(name, {"base": -1.0, "adapter": -1.0}, **told) as endpoint:
        quiet = endpoint.answers
        num = len(PROBING.items)

        def busy(body):
            endpoint.logprobs["adapter"] = -1.1 if num < len(endpoint.requests) <= 2 * num else -1.0
            return quiet(body)

        endpoint.answers = busy
        with pytest.raises(FactoryError, match="answers as its base 'base' does"):
            await proof_at(endpoint, adapter)


async def test_an_adapter_of_zeros_may_answer_as_its_base(adapter):
    proof = await asked(zeroed(adapter), -1.0, -1.0)
    assert (proof.difference, proof.largest_change) == (0.0, 0.0)
    assert "answers as its base does: the adapter changes no weight by more than 0" in proof.note


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"parent": None}, "is no adapter of a base that is served"),
        ({"parent": "gone"}, "is no adapter of a base that is served"),
        ({"root": "/nowhere"}, "loaded from /nowhere, which does not hold this adapter"),
        ({"root": None}, "loaded from None, which does not hold this adapter"),
        ({"id": "other"}, "is not among the models served"),
    ],
)
async def test_what_the_endpoint_says_of_it_must_fit(adapter, entry, what):
    named = entry.get("id", name_adapter("student", adapter))
    told = {"root": str(adapter), "parent": "base", **entry}
    told.pop("id", None)
    async with FakeVllm(named, {"base": -1.0, "adapter": -2.0}, **told) as endpoint:
        model = EndpointModel(endpoint.base_url, name_adapter("student", adapter), "m")
        with pytest.raises(FactoryError, match=what):
            await prove(model, read_proof(adapter), adapter, PROBING)
        await model.close()


async def test_the_same_adapter_in_another_folder_will_do(adapter, tmp_path):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    assert (await asked(adapter, -1.0, -1.5, root=str(copy))).difference == 0.5
    shutil.copy(make_adapter(tmp_path / "b", seed=2) / "adapter_model.safetensors", copy)
    with pytest.raises(FactoryError, match="does not hold this adapter"):
        await asked(adapter, -1.0, -1.5, root=str(copy))


async def test_an_endpoint_that_tells_no_likelihoods_is_told(adapter):
    proof = await asked(adapter, None, None)
    assert proof.note.startswith("not compared with the answers of the base: ")
    assert proof.difference is None and proof.served_as


async def test_a_place_that_is_down_is_left_out_and_one_that_is_wrong_is_not(adapter):
    name, told = name_adapter("student", adapter), {"root": str(adapter), "parent": "base"}
    gone = "http://127.0.0.1:9/v1"
    async with (
        FakeVllm(name, {"base": -1.0, "adapter": -2.0}, **told) as right,
        FakeVllm(name, {"base": -1.0, "adapter": -1.0}, **told) as wrong,
    ):
        assert (await proof_at(right, adapter, gone)).difference == 1.0
        with pytest.raises(FactoryError, match="answers as its base"):
            await proof_at(right, adapter, wrong.base_url)
        right.entries[1]["id"] = name
    with pytest.raises(EndpointError):
        await proof_at(right, adapter, gone)


async def test_a_script_and_a_batch_have_only_files_to_check(adapter):
    proof = await prove(object(), read_proof(adapter), adapter, PROBING)
    assert (proof.served_as, proof.difference) == ("", None) and "only the files" in proof.note


def test_the_largest_change_bounds_what_an_adapter_adds(adapter, tmp_path):
    halves = load_file(adapter / "adapter_model.safetensors")
    ups = [name for name in halves if "lora_B" in name]
    added = max(np.abs(2 * halves[up] @ halves[up.replace("lora_B", "lora_A")]).max() for up in ups)
    bound = largest_change(adapter)
    assert added <= bound < 20 * added, "alpha is twice the rank"
    assert largest_change(zeroed(adapter)) == 0.0
    rs = make_adapter(tmp_path / "rs", seed=1, config={"use_rslora": True})
    assert largest_change(rs) == pytest.approx(bound * 8**0.5, rel=1e-5)
    assert largest_change(BF16_ADAPTER) > 0.01
    (adapter / "adapter_model.safetensors").write_bytes(b"no weights")
    assert largest_change(adapter) is None
    (rs / "adapter_model.safetensors").rename(rs / "adapter_model.bin")
    assert largest_change(rs) is None


def test_probes_are_the_shortest_items_with_an_answer():
    items = [GoldItem("long", "q" * 99, "a", "s"), GoldItem("none", "q", " ", "s"), *PROBES]
    assert [item.key for item in choose_probes(items)] == ["i0", "i1", "i2"]
