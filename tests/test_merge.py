"""An adapter merged with its base: the same answers from one model, or no model at all."""

import json
import math
import re
import shutil
from datetime import UTC, datetime

import pytest
import torch
import yaml
from real_server import serving
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from synthetic_run import HOSTILE
from test_qlora import FACTS, MARKED_TEMPLATE, chat, facts_dataset, no_progress, set_template, trainer
from tiny_llama import make_adapter, make_tiny_llama
from trained_here import Here

from factory import cli
from factory.errors import InputError, TrainingError
from factory.merge import HowToMerge, find_student
from factory.promotion import promote_by_hand, roll_back
from factory.store.store import Store
from factory.types import Adapter
from training import merge_worker, room
from training.adapters import identify, resolve_base
from training.divergence import Divergence

RUN, STUDENT = "run_merged", "mdl_student"
CHATS = [{"messages": chat(f"{key}?", "")[:1]} for key in FACTS]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random Llama that speaks clearly, none of whose weights NF4 can hold as it is."""
    folder = make_tiny_llama(tmp_path_factory.mktemp("base"))
    weights = dict(load_file(folder / "model.safetensors"))
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] * 10
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    set_template(folder, MARKED_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def workspace(base, tmp_path_factory):
    """What a run leaves whose student learned eight facts by QLoRA, with rank-stabilised scaling."""
    folder = tmp_path_factory.mktemp("workspace")
    made = trainer(folder, Here, max_steps=60, learning_rate=0.002, num_threads=1, use_rslora=True)
    directory = folder / "adapters" / "student_1"
    adapter = made.train(facts_dataset(folder), str(base), directory, no_progress)
    with Store.open(folder) as store:
        fill(store, str(base), adapter)
    return folder


def fill(store, base, adapter):
    config = {"domain": {"title": HOSTILE}, "training": {"student": {"name": "qlora", "base": base}}}
    run = {"id": RUN, "recipe": "r", "digest": "d", "config": config, "version": "0"}
    store.append("runs", [{**run, "started_at": datetime.now(UTC)}])
    of_run = {"run_id": RUN, "round": 1}
    model = {"id": STUDENT, "role": "student", "name": "student-1", "base": base, **of_run}
    more = {"adapter": f"/gone/{adapter.path.name}", "adapter_digest": adapter.digest, "dataset_id": "dat_1"}
    store.append("models", [{**model, **more}])
    store.append("models", [{**model, "id": "mdl_base", "adapter": None}])
    store.append("datasets", [{"id": "dat_1", **of_run, "num_samples": 8, "guards": {}}])
    store.append("stages", [{**of_run, "stage": "promote", "status": "done", "detail": {"promote": True}}])
    figures = {"metric": "exact", "num_items": len(FACTS), "mean": 1.0, "low": 0.7, "high": 1.0}
    store.append("evaluations", [{"id": "evl_1", **of_run, "model_id": STUDENT, "split": "dev", **figures}])
    for number, (key, answer) in enumerate(FACTS.items()):
        item = {"evaluation_id": "evl_1", "item_key": key, "slice": HOSTILE, "cluster": key, "score": 1.0}
        said = {"question": f"{key}?", "expected": answer, "answer": answer, "call_id": f"call_{number}"}
        store.append("evaluation_items", [{**item, **said}])
        asked = {"id": f"call_{number}", **of_run, "stage": "evaluate", "role": "student"}
        paid = dict.fromkeys(("prompt_tokens", "completion_tokens", "latency_ms", "cost_dollars"), 1)
        ok = {"model_id": STUDENT, "request": CHATS[number], "status": "ok", "attempts": 1, "response": "x"}
        store.append("calls", [{**asked, **ok, **paid}])
    store.flush()


@pytest.fixture
def refusal(tmp_path, capsys):
    """The exit code of the command and the one line that it ends with; nothing may be left behind."""

    def call(workspace, *words, output=None):
        out = output or tmp_path / "out" / "merged"
        before = sorted(out.parent.rglob("*")) if out.parent.exists() else []
        code = cli.main(["merge", str(workspace), "--output", str(out), *map(str, words), "--json"])
        assert sorted(out.parent.rglob("*")) == before
        return code, capsys.readouterr().err.splitlines()[-1]

    return call


@pytest.fixture
def stored(tmp_path, base):
    """A run whose student nobody trained: for what is refused before anything is loaded."""
    folder = tmp_path / "workspace"
    path = make_adapter(folder / "adapters" / "student_1")
    options, of_dataset = {"quantize": True, "rank": 8}, "d1"
    identity = identify(options, resolve_base(folder, str(base))[1], of_dataset, 1)
    record = {"identity": identity, "options": options, "dataset_digest": of_dataset, "seed": 1}
    (path / "training.json").write_text(json.dumps({**record, "base": str(base)}))
    with Store.open(folder) as store:
        fill(store, str(base), Adapter(path, "dig", str(base), 1, 0.0, 0.0))
    return folder


@pytest.fixture(scope="module")
def merged(workspace, tmp_path_factory):
    """The model that the command writes."""
    folder = tmp_path_factory.mktemp("out") / "merged"
    assert cli.main(["merge", str(workspace), "--output", str(folder)]) == 0
    assert not list(folder.parent.glob(".*"))
    return folder


@pytest.mark.train
def test_the_merge_answers_as_the_adapter_does_on_its_4_bit_base(base, workspace, merged):
    record = json.loads((merged / "merge.json").read_text())
    figures = record["comparison"]["greedy"]
    assert record["weights"] == "28 layers dequantised from NF4"
    assert (figures["num_chats"], figures["same_answers"], figures["differing_chats"]) == (8, 1.0, [])
    assert figures["same_tokens"] == 1.0
    assert 0 < figures["relative_difference"] < record["bound"] == HowToMerge().max_difference
    along = record["comparison"]["reference"]
    assert along["num_chats"] == 8 and 0 < along["relative_difference"] < record["bound"]
    assert along["num_positions"] > figures["num_positions"] > 8

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    assert model.dtype == torch.bfloat16
    assert not getattr(model.config, "quantization_config", None)
    for key, answer in FACTS.items():
        inputs = tokenizer.apply_chat_template(
            chat(f"{key}?", "")[:1], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
        assert tokenizer.decode(output[inputs["input_ids"].shape[1] :], skip_special_tokens=True) == answer


@pytest.mark.train
def test_a_merge_in_4_bit_is_refused(base, workspace, tmp_path):
    """As PEFT merges on a base in 4 bit: the sum is quantised once more."""
    from transformers import AutoTokenizer

    adapter = workspace / "adapters" / "student_1"
    job = {"base": str(base), "adapter": str(adapter), "quantize": True, "num_tokens": 32}
    job["chats"] = [{**chat, "expected": answer} for chat, answer in zip(CHATS, FACTS.values(), strict=True)]
    asked = merge_worker.ask_all(
        merge_worker.load_with_adapter(job)[0], AutoTokenizer.from_pretrained(base), job, tmp_path
    )
    bound = HowToMerge().max_difference

    def compared(model):
        return merge_worker.compare(model, asked, tmp_path)

    right = compared(merge_worker.add_adapter(merge_worker.load_with_adapter(job)[0], torch.bfloat16))
    in_4_bit = compared(merge_worker.load_with_adapter(job)[0].merge_and_unload())
    assert right.keys() == in_4_bit.keys() == {"greedy", "reference"}
    for along, found in in_4_bit.items():
        right[along].check(bound / 2, "")
        with pytest.raises(TrainingError, match="no longer the adapter"):
            found.check(bound, "")
    # As sure as it is of its answers, divergence along them would tell little.
    assert in_4_bit["greedy"].figures()["mean_divergence"] < right["reference"].figures()["mean_divergence"]


@pytest.mark.train
def test_weights_stay_what_they_are_when_the_model_has_answered(base, workspace, monkeypatch):
    """Where the processor has AVX-512 BF16, bitsandbytes would pack them anew for answering."""
    import bitsandbytes

    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    job = {"base": str(base), "adapter": str(workspace / "adapters/student_1"), "quantize": True}
    model, _ = merge_worker.load_with_adapter(job)
    layer = model.get_base_model().model.layers[1].mlp.up_proj.get_base_layer()
    before = merge_worker.dense(layer)
    assert merge_worker.greedy(model, [5, 6, 7], 2)
    assert torch.equal(merge_worker.dense(layer), before)


@pytest.mark.train
def test_the_weights_are_those_that_the_adapter_saw_and_its_product_rounded_once(base, workspace, merged):
    """NF4 as bitsandbytes defines it, and alpha / sqrt(rank), reckoned here without PEFT."""
    import bitsandbytes

    name = "model.layers.2.mlp.down_proj.weight"
    weight = torch.from_numpy(load_file(base / "model.safetensors")[name]).float()
    seen = bitsandbytes.functional.dequantize_4bit(
        *bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    )
    with safe_open(workspace / "adapters/student_1/adapter_model.safetensors", "pt") as file:
        of = f"base_model.model.{name.removesuffix('.weight')}"
        down, up = (file.get_tensor(f"{of}.lora_{half}.weight").float() for half in "AB")
    with safe_open(merged / "model.safetensors", "pt") as file:
        found = file.get_tensor(name)
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 (the head is tied to the embeddings)
    expected = (seen + up @ down * (32 / 32**0.5)).to(torch.bfloat16)
    differs = (found != expected).float().mean()
    assert differs < 1e-3  # sums in another order may round to the neighbour
    assert (found != (weight + up @ down * (32 / 32**0.5)).to(torch.bfloat16)).float().mean() > 0.5


@pytest.mark.train
def test_the_folder_holds_all_that_serving_needs_and_a_card_that_no_text_escapes(base, workspace, merged):
    names = {path.name for path in merged.iterdir()}
    assert names >= {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"}
    assert json.loads((merged / "generation_config.json").read_text())["eos_token_id"] == 0
    assert (merged / "chat_template.jinja").read_text() == MARKED_TEMPLATE
    card = (merged / "README.md").read_text("utf-8")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "other" and "base_model" not in yaml.safe_load(front)
    assert str(base) not in card and "\x1b" not in card and "<script" not in card
    assert json.loads((merged / "merge.json").read_text())["dataset_digest"] in text
    assert "| | Greedy | Reference |\n| --- | ---: | ---: |\n| Questions | 8 | 8 |\n" in text
    assert "| dev | exact | 8 | 1.000 | 0.700 to 1.000 | – | – |" in text
    (sql,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    with Store.open(workspace) as store:
        assert store.select(sql) == []  # no sample is stored here, and the query is one


@pytest.mark.train
@pytest.mark.vllm
async def test_vllm_serves_the_merge_and_it_answers_the_same(merged, tmp_path):
    from openai import AsyncOpenAI

    with serving(tmp_path, merged) as server:
        client = AsyncOpenAI(base_url=server.base_url, api_key=server.key)
        for key, answer in FACTS.items():
            said = await client.chat.completions.create(
                model="base", messages=[{"role": "user", "content": f"{key}?"}], temperature=0, max_tokens=12
            )
            assert said.choices[0].message.content == answer


@pytest.mark.train
def test_a_merge_beyond_the_bound_is_refused_and_leaves_nothing(workspace, refusal):
    code, line = refusal(workspace, "--chats", "2", "--max-difference", "1e-12")
    assert code == 1
    assert "no longer the adapter" in line and "along its greedy answers" in line and "1e-12 may be" in line


def test_a_folder_that_holds_something_is_refused(stored, refusal, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    code, line = refusal(stored, output=tmp_path / "full")
    assert code == 2 and "there is something already" in line


def test_models_that_cannot_be_merged_are_named(stored, refusal, tmp_path):
    assert "no model 'mdl_none'" in refusal(stored, "--model", "mdl_none")[1]
    assert "mdl_base: has no adapter" in refusal(stored, "--model", "mdl_base")[1]
    with Store.open(tmp_path / "empty"):
        pass
    assert "no student was promoted" in refusal(tmp_path / "empty")[1]
    (stored / "adapters/student_1/training.json").unlink()
    assert "no adapter that was trained here" in refusal(stored)[1]
    shutil.rmtree(stored / "adapters")
    assert "the adapter's folder is gone" in refusal(stored)[1]


def test_without_a_name_it_is_the_student_in_charge(tmp_path):
    """What the gate promoted, what was put in charge or taken back by hand since: the newest decides."""
    with Store.open(tmp_path) as store:
        fill(store, "base", Adapter(tmp_path / "student_1", "dig", "base", 1, 0.0, 0.0))
        assert find_student(store, None)["id"] == STUDENT
        later = {"id": "mdl_2", "role": "student", "name": "student-2", "run_id": RUN, "round": 2}
        store.append("models", [{**later, "base": "base", "adapter": "/gone/student_2"}])
        row = {"id": "evl_2", "run_id": RUN, "round": 2, "model_id": "mdl_2", "split": "dev"}
        figures = {"metric": "exact", "num_items": 1, "mean": 1.0, "low": 0.7, "high": 1.0}
        store.append("evaluations", [row | figures])
        detail = {"promote": False, "reason": "no_gain"}
        event = {"run_id": RUN, "round": 2, "stage": "promote", "status": "done", "detail": detail}
        store.append("stages", [event])
        assert find_student(store, None)["id"] == STUDENT
        promote_by_hand(store, "student-2", "reviewed", "Ada")
        assert find_student(store, None)["id"] == "mdl_2"
        roll_back(store, RUN, "a complaint", "Ada")
        assert find_student(store, None)["id"] == STUDENT
        roll_back(store, RUN, "another", "Ada")
        with pytest.raises(InputError, match="no student was promoted"):
            find_student(store, None)
        store.append("stages", [{**event, "round": 3, "detail": {"promote": True}}])
        store.append("evaluations", [row | figures | {"id": "evl_3", "round": 3}])
        assert find_student(store, None)["id"] == "mdl_2"


def test_another_base_and_one_that_changed_are_refused(stored, refusal, tmp_path):
    other = make_tiny_llama(tmp_path / "other", seed=1)
    code, line = refusal(stored, "--base", other)
    assert code == 2 and "not the base that the adapter was trained on" in line
    path = stored / "adapters/student_1/training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": str(other)}))
    assert "the base changed since training" in refusal(stored)[1]


@pytest.mark.train
def test_too_little_memory_is_told_before_anything_is_loaded(base, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "free_memory", lambda: (1000, "memory"))
    job = {"base": str(base), "quantize": True, "chats": CHATS, "num_tokens": 32}
    with pytest.raises(TrainingError, match=r"needs about 1\.0 GiB of memory, 0\.0 GiB are free"):
        room.check_room({**job, "directory": str(tmp_path)})
    num, num_embedded = room.count_weights(base)
    assert num_embedded == json.loads((base / "config.json").read_text())["vocab_size"] * 192
    assert num == sum(weights.size for weights in load_file(base / "model.safetensors").values())


@pytest.mark.train
def test_divergence_is_that_of_the_distributions_and_choices_are_counted():
    """By the definition of Kullback and Leibler, reckoned here in plain numbers."""
    found = Divergence()
    ours, theirs = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.5]])
    found.observe(0, ours, theirs)
    found.observe(1, ours[:1], ours[:1])
    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(0.5))
    apart = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    figures = found.figures()
    assert figures["mean_divergence"] == pytest.approx(apart / 3)
    assert figures["max_divergence"] == pytest.approx(apart)
    assert (figures["max_difference"], figures["mean_difference"]) == (2.0, pytest.approx(2.5 / 6))
    assert (figures["same_tokens"], figures["same_answers"]) == (pytest.approx(2 / 3), 0.5)
    assert (figures["widest_flip"], figures["differing_chats"]) == (2.0, [0])
    off = 1.25 / 3  # of three positions one is off: (1, -1) about its mean became (-0.25, 0.25)
    assert figures["relative_difference"] == pytest.approx(off)
    found.check(off + 1e-9, "along its answers")
    with pytest.raises(TrainingError, match=r"differ by 0\.42 of their spread, along its answers"):
        found.check(off - 1e-9, "along its answers")
    found.observe(2, ours, ours * math.nan)
    with pytest.raises(TrainingError):
        found.check(1e9, "")
