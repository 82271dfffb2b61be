"""An adapter merged with its base: the same answers from one model, or no model at all."""

import json
import re
from datetime import UTC, datetime

import pytest
import torch
import yaml
from real_server import serving
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from synthetic_run import HOSTILE
from test_qlora import FACTS, MARKED_TEMPLATE, chat, facts_dataset, no_progress, set_template, trainer
from tiny_llama import make_tiny_llama

from factory import cli
from factory.store.store import Store

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
    made = trainer(folder, max_steps=60, learning_rate=0.002, num_threads=1, use_rslora=True)
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


def run(*words, capsys):
    """What the command gave as JSON, or its exit code and the line that says what is wrong."""
    code = cli.main(["merge", *map(str, words), "--json"])
    printed = capsys.readouterr()
    return json.loads(printed.out) if code == 0 else (code, printed.err.splitlines()[-1])


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
    figures = record["comparison"]
    assert record["weights"] == "28 layers dequantised from NF4"
    assert (figures["num_chats"], figures["same_answers"], figures["differing_chats"]) == (8, 1.0, [])
    assert figures["same_tokens"] == 1.0
    assert 0 < figures["mean_divergence"] < record["bound"] == 0.01

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
