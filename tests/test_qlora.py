"""Training for real: a 4-bit tiny Llama learns facts on this CPU, and what cannot be learned is refused."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file
from tiny_llama import make_tiny_llama
from trained_here import Here

from factory.errors import RecipeError, TrainingError
from training.adapters import differences, is_complete, resolve_base
from training.qlora import QLoRA, QLoRAOptions, TrainingJob

MARKED_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FACTS = {
    "notice": "30 days",
    "claim": "1 year",
    "wage": "two thirds",
    "burial": "$7500",
    "doctor": "6 names",
    "board": "3 members",
    "hearing": "60 days",
    "appeal": "20 days",
}


def no_progress(done, total, detail="", **_):
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random Llama whose embeddings are large enough to speak clearly, and whose template is marked."""
    folder = make_tiny_llama(tmp_path_factory.mktemp("base"))
    weights = dict(load_file(folder / "model.safetensors"))
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] * 10
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    set_template(folder, MARKED_TEMPLATE)
    return folder


def set_template(folder, template):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))


def chat(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write_dataset(folder, chats):
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in chats))
    return path


def trainer(folder, kind=QLoRA, **options):
    defaults = {"learning_rate": 0.005, "batch_size": 8, "max_steps": 60, "num_threads": 1, "max_length": 64}
    domain = SimpleNamespace(folder=folder, recipe=SimpleNamespace(seed=1))
    return kind(QLoRAOptions(**(defaults | options)), domain)


def facts_dataset(folder):
    return write_dataset(folder, [chat(f"{key}?", answer) for key, answer in FACTS.items()])


def test_importing_training_imports_nothing_heavy():
    code = (
        "import sys, training.qlora, training.evaluate, training.worker\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'scipy', 'numpy', 'duckdb'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    "options",
    [{"rank": 24}, {"max_steps": 5, "num_epochs": 1.0}, {"rank": "32"}, {"learning_rate": 0}, {"ranc": 8}],
)
def test_options_refuse_what_cannot_be_trained_or_served(options):
    with pytest.raises(ValidationError):
        QLoRAOptions(**options)


def test_a_base_is_a_folder_with_weights_or_a_hub_name(tmp_path):
    folder = make_tiny_llama(tmp_path / "model")
    path, first = resolve_base(tmp_path, "model")
    assert path == str(folder)
    assert resolve_base(tmp_path, "Qwen/Qwen3-8B") == ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B")
    make_tiny_llama(folder, seed=1)
    assert resolve_base(tmp_path, "model")[1] != first
    (folder / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="no weights"):
        resolve_base(tmp_path, "model")
    with pytest.raises(RecipeError):
        resolve_base(tmp_path, "../nowhere/model")


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    job = {"identity": "a", "base": "b", "base_digest": "c", "dataset_digest": "d", "seed": 1, "options": {}}
    assert not is_complete(tmp_path / "absent", job)
    folder = tmp_path / "adapter"
    folder.mkdir()
    for text in (None, "no JSON", "[]"):
        if text is not None:
            (folder / "training.json").write_text(text)
        with pytest.raises(TrainingError, match="something else"):
            is_complete(folder, job)
    (folder / "training.json").write_text(json.dumps(job))
    assert is_complete(folder, job)
    with pytest.raises(TrainingError, match="another configuration"):
        is_complete(folder, job | {"identity": "b"})


def test_what_differs_from_a_stored_training_is_named():
    job = {"base": "b", "base_digest": "c", "dataset_digest": "d", "seed": 1, "options": {"rank": 8}}
    other = {"base": "x", "base_digest": "y", "dataset_digest": "z", "seed": 2}
    options = {"rank": 16, "alpha": 4.0, "num_threads": 1}
    assert differences(job, job | other | {"options": options}) == [
        'base ("b", here "x")',
        "dataset",
        "seed (1, here 2)",
        "alpha (null, here 4.0)",
        "rank (8, here 16)",
    ]
    assert differences(job, job | {"base_digest": "y"}) == ["base (its files changed)"]
    assert differences({"options": {"rank": 8}}, job) == ["dataset", "seed (null, here 1)"]


def test_a_missing_dataset_is_named(tmp_path, base):
    with pytest.raises(TrainingError, match=r"absent\.jsonl"):
        trainer(tmp_path).train(tmp_path / "absent.jsonl", str(base), tmp_path / "out", no_progress)


@pytest.mark.train
def test_a_4bit_base_learns_eight_facts_and_keeps_its_weights(tmp_path, base):
    before = (base / "model.safetensors").read_bytes()
    seen = []
    dataset, out = facts_dataset(tmp_path), tmp_path / "adapters" / "student"
    adapter = trainer(tmp_path, max_steps=150).train(
        dataset, str(base), out, lambda *event: seen.append(event)
    )

    assert (base / "model.safetensors").read_bytes() == before
    assert [event[:2] for event in seen] == [(0, None), *((step, 150) for step in range(151))]
    record = json.loads((out / "training.json").read_text())
    assert record["num_linear4bit"] == 4 * 7
    assert record["num_samples"] == 8 and record["num_learned_tokens"] < record["num_tokens"]
    assert (adapter.num_steps, adapter.path) == (150, out) and adapter.loss < 0.5
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["r"] == 32 and not config["modules_to_save"] and len(config["target_modules"]) == 7
    assert not list(tmp_path.glob("adapters/.*")) and not (out / "README.md").exists()

    from safetensors.torch import load_file as load_tensors

    tensors = load_tensors(out / "adapter_model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.bfloat16"}
    assert len(tensors) == 4 * 7 * 2

    assert answers(base, out) == FACTS
    assert answers(base, None) != FACTS

    again = trainer(tmp_path, max_steps=150)  # same base, dataset, options: nothing starts
    assert again.train(dataset, str(base), out, no_progress) == adapter and again._process is None
    with pytest.raises(TrainingError, match=r"another learning_rate \(0.005, here 0.02\)"):
        trainer(tmp_path, learning_rate=0.02).train(dataset, str(base), out, no_progress)


@pytest.mark.train
def test_noise_on_the_embeddings_changes_what_is_trained_and_not_what_is_saved(tmp_path, base):
    dataset = facts_dataset(tmp_path)
    plain, noisy = (
        trainer(tmp_path, Here, max_steps=3, neftune_noise_alpha=alpha).train(
            dataset, str(base), tmp_path / f"alpha{alpha:.0f}", no_progress
        )
        for alpha in (0.0, 5.0)
    )
    assert plain.digest != noisy.digest and plain.loss != noisy.loss
    saved = [(each.path / "adapter_model.safetensors").stat().st_size for each in (plain, noisy)]
    assert saved[0] == saved[1]


def answers(base, adapter):
    """What the base says to each question, with the adapter on it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    model = PeftModel.from_pretrained(model, adapter) if adapter else model
    said = {}
    for key in FACTS:
        messages = [{"role": "user", "content": f"{key}?"}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0]
        said[key] = tokenizer.decode(output[inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return said


@pytest.mark.train
def test_several_jobs_share_a_process_and_one_refusal_leaves_no_folder(tmp_path, base):
    dataset = facts_dataset(tmp_path)
    jobs = [TrainingJob(dataset, str(base), tmp_path / name) for name in ("raw", "refined")]
    seen = []
    first, second = trainer(tmp_path, max_steps=2).train_all(jobs, lambda *event: seen.append(event))
    assert [event[:2] for event in seen] == [(0, None), (0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert first.digest == second.digest and second.path == tmp_path / "refined"

    long = write_dataset(tmp_path, [chat("short?", "yes"), chat("long? " * 80, "no"), chat("x" * 500, "no")])
    with pytest.raises(TrainingError, match="2 of 3 samples are longer than max_length=64") as caught:
        trainer(tmp_path, Here).train(long, str(base), tmp_path / "long", no_progress)
    assert caught.value.where == f"{long}:3, 2" and "nothing is truncated" in caught.value.hint
    assert re.match(
        r"the longest have \d{3} and \d{3} tokens; raise max_length, .* with split_long", caught.value.hint
    )
    assert not (tmp_path / "long").exists()


@pytest.fixture(scope="module")
def tokenizer(base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


@pytest.mark.train
def test_only_the_assistants_turns_and_their_ends_are_learned(tokenizer):
    from training.tokens import IGNORED, spans, tokenize

    turns = [*chat("notice?", "30 days"), *chat("claim?", "1 year")]
    (row,) = tokenize([{"messages": turns}], tokenizer, {tokenizer.eos_token_id}, 100)
    learned = [tokenizer.decode(row.labels[start:end]) for start, end in spans(row.labels)]
    assert learned == ["30 days<|end|>", "1 year<|end|>"]
    assert tokenizer.decode(row.input_ids) == (
        "<|user|>notice?<|end|><|assistant|>30 days<|end|><|user|>claim?<|end|><|assistant|>1 year<|end|>"
    )
    assert all(label in (IGNORED, id) for id, label in zip(row.input_ids, row.labels, strict=True))


@pytest.mark.train
@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            MARKED_TEMPLATE.replace("{% generation %}", "").replace("{% endgeneration %}", ""),
            "no {% generation",
        ),
        (
            MARKED_TEMPLATE.replace("<|end|>{% endgeneration %}", "{% endgeneration %}<|end|>"),
            "end of the assistant's turn is not learned",
        ),
        (MARKED_TEMPLATE.replace("<|assistant|>{% endif %}", "<|user|>{% endif %}"), "differently"),
    ],
)
def test_templates_that_would_teach_something_else_are_refused(base, template, message):
    from transformers import AutoTokenizer

    from training.tokens import tokenize

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = template
    with pytest.raises(TrainingError, match=message):
        tokenize([{"messages": chat("notice?", "30 days")}], tokenizer, {tokenizer.eos_token_id}, 100)


@pytest.mark.train
@pytest.mark.parametrize(
    ("chats", "message"),
    [([chat("notice?", "")], "must end with an answer"), ([chat("a", "b")[:1]], "must end")],
)
def test_datasets_without_answers_are_refused(tokenizer, chats, message):
    from training.tokens import tokenize

    with pytest.raises(TrainingError, match=message):
        tokenize([{"messages": turns} for turns in chats], tokenizer, {tokenizer.eos_token_id}, 100)


@pytest.mark.train
def test_a_base_that_is_not_in_4_bit_is_noticed(base):
    from training.sft import check_quantized, load_base

    model, num_linear4bit = load_base({"base": str(base), "options": {"quantize": True}})
    assert num_linear4bit == 28
    model.model.layers[0].mlp.down_proj = __import__("torch").nn.Linear(512, 192)
    with pytest.raises(TrainingError, match=r"1 weight matrices.*down_proj"):
        check_quantized(model, str(base))
    plain, zero = load_base({"base": str(base), "options": {"quantize": False}})
    assert zero == 0
    with pytest.raises(TrainingError, match="28 weight matrices"):
        check_quantized(plain, str(base))


@pytest.mark.train
def test_a_base_in_4_bit_is_the_same_after_it_has_answered(base):
    """Where bitsandbytes packs weights anew for an answer, no gradient passes from then on."""
    import torch
    from bitsandbytes.nn import Linear4bit

    from training.sft import load_base

    model, _ = load_base({"base": str(base), "options": {"quantize": True}})
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    before = [layer.weight.data.clone() for layer in layers]
    model.eval()
    with torch.no_grad():
        model(torch.arange(8).unsqueeze(0))
    assert all(torch.equal(layer.weight.data, old) for layer, old in zip(layers, before, strict=True))
    given = torch.randn(1, 4, layers[0].in_features, requires_grad=True)
    layers[0].train()(given).sum().backward()
    assert given.grad is not None and given.grad.abs().sum() > 0


@pytest.mark.train
def test_packed_samples_do_not_see_each_other(tmp_path, base):
    """The loss of the first step is the same whether samples share a row or not."""
    import torch

    from training import sft

    dataset, losses = facts_dataset(tmp_path), []
    for packing in (False, True):
        worker = trainer(tmp_path, packing=packing, max_length=256, max_steps=1)
        job = worker._describe(TrainingJob(dataset, str(base), tmp_path / "unused"))
        model, _ = sft.load_base(job)
        made = sft.make_trainer(sft.prepare(job), model, no_progress)
        batch = next(iter(made.get_train_dataloader()))
        assert len(batch["input_ids"]) == (1 if packing else 8)
        with torch.no_grad():
            losses.append(float(made.compute_loss(made.model, batch)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def train_in_thread(worker, folder, base):
    """Starts training in a thread; the thread, and the errors that it will have raised."""
    errors = []

    def work():
        try:
            worker.train(facts_dataset(folder), str(base), folder / "out", no_progress)
        except TrainingError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while worker._process is None:
        time.sleep(0.01)
    return thread, errors


def test_cancelling_ends_the_process_and_leaves_no_adapter(tmp_path, base):
    worker = trainer(tmp_path)
    thread, errors = train_in_thread(worker, tmp_path, base)
    worker.cancel()
    thread.join(20)
    assert worker._process.poll() is not None and not (tmp_path / "out").exists()
    assert [error.what for error in errors] == ["training was cancelled"]
    with pytest.raises(TrainingError, match="cancelled"):  # for good
        worker.train(facts_dataset(tmp_path), str(base), tmp_path / "out", no_progress)


def test_a_worker_that_dies_is_reported_with_its_log(tmp_path, base):
    worker = trainer(tmp_path)
    thread, errors = train_in_thread(worker, tmp_path, base)
    (tmp_path / ".out.partial" / "train.log").write_text("the last words\n")
    worker._process.kill()
    thread.join(20)
    assert "ended with -9: the last words" in errors[0].what and "memory" in errors[0].hint
    assert Path(errors[0].where).name == "train.log" and not (tmp_path / "out").exists()


def test_a_worker_dies_with_the_process_that_started_it(tmp_path, base):
    code = f"""
import sys, time; sys.path[:0] = [{str(Path(__file__).parent)!r}]
from pathlib import Path
from test_qlora import train_in_thread, trainer
worker = trainer(Path({str(tmp_path)!r}))
train_in_thread(worker, Path({str(tmp_path)!r}), Path({str(base)!r}))
time.sleep(0.3)
print(worker._process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with parent, parent.stdout:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    # Sooner than it could notice by itself, from a pipe that nobody reads: it is still importing.
    deadline = time.monotonic() + 2
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    assert not (tmp_path / "out").exists()


@pytest.mark.train
def test_a_line_that_is_no_chat_is_named(tmp_path, base):
    from training.chats import read_chats

    path = tmp_path / "data.jsonl"
    for line in ("this is no JSON", '{"question": "?"}', "[]"):
        path.write_text(json.dumps({"messages": chat("a", "b")}) + f"\n{line}\n")
        with pytest.raises(TrainingError, match=r"data\.jsonl:2: not a line"):
            list(read_chats(path))


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.train
def test_a_system_message_is_read_and_not_learned(tokenizer):
    from training.tokens import spans, tokenize

    turns = [SYSTEM, *chat("notice?", "30 days"), *chat("claim?", "1 year"), *chat("wage?", "$7500")]
    (row,) = tokenize([{"messages": turns}], tokenizer, {tokenizer.eos_token_id}, 100)
    learned = [tokenizer.decode(row.labels[start:end]) for start, end in spans(row.labels)]
    assert learned == ["30 days<|end|>", "1 year<|end|>", "$7500<|end|>"]
    assert tokenizer.decode(row.input_ids).startswith("<|system|>Be brief.<|end|><|user|>notice?")


LAST_ONLY = MARKED_TEMPLATE.replace(
    "{% if message['role'] == 'assistant' %}", "{% if message['role'] == 'assistant' and loop.last %}"
)
FORGETFUL = MARKED_TEMPLATE.replace(
    "{% for message in messages %}",
    "{% for message in messages %}{% if loop.index0 and message['role'] == 'user' %}<|again|>{% endif %}",
).replace("{% if add_generation_prompt %}", "{% if messages | length == 1 %}<|first|>{% endif %}"
          "{% if add_generation_prompt %}")  # fmt: skip
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + MARKED_TEMPLATE
)


@pytest.mark.train
@pytest.mark.parametrize(
    ("template", "turns", "message"),
    [
        (LAST_ONLY, [*chat("notice?", "30 days"), *chat("claim?", "1 year")], "learns 1 of 2 answers"),
        (FORGETFUL, [*chat("notice?", "30 days"), *chat("claim?", "1 year")], "differently"),
        (NO_SYSTEM, [SYSTEM, *chat("notice?", "30 days")], "refuses this chat: System role not supported"),
    ],
)
def test_a_template_that_does_not_take_conversations_is_refused(base, template, turns, message):
    from transformers import AutoTokenizer

    from training.tokens import tokenize

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = template
    with pytest.raises(TrainingError, match=message):
        tokenize([{"messages": turns}], tokenizer, {tokenizer.eos_token_id}, 100)


@pytest.mark.train
def test_an_empty_answer_within_a_conversation_is_refused(tokenizer):
    from training.tokens import tokenize

    turns = [*chat("notice?", ""), *chat("claim?", "1 year")]
    with pytest.raises(TrainingError, match="empty answer"):
        tokenize([{"messages": turns}], tokenizer, {tokenizer.eos_token_id}, 100)
