"""The plan of a training: counted from config.json alone, and compared with what is really used."""

import json
import random
from dataclasses import replace
from functools import lru_cache, partial
from types import SimpleNamespace

import pytest

from factory.errors import InputError, RecipeError, TrainingError
from factory.ports import SampleLengths
from training import devices
from training.devices import GIB, Device
from training.footprint import measure, nf4_bytes
from training.lengths import count_lengths
from training.plan import make_plan, parts_of, work_of
from training.qlora import QLoRA, QLoRAOptions, TrainingJob
from training.tokens import IGNORED, Row

TINY = "tiny/models/base"
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "num_key_value_heads": 8,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
}
SHAPES = {
    "8b": LLAMA
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "70b": LLAMA
    | {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
    },
}
GB = 10**9


def config_only(folder, name):
    """A base of which nothing but config.json is there."""
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "config.json").write_text(json.dumps(SHAPES[name]))
    return str(folder / name)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {name: config_only(folder, name) for name in SHAPES}


def options_of(**changed):
    return QLoRAOptions(**changed).model_dump(mode="json")


@lru_cache
def footprint(base, rank, quantize):
    return measure(base, options_of(rank=rank, quantize=quantize), on_gpu=True)


def plan_of(base, card, lengths=None, **changed):
    options = options_of(**changed)
    return make_plan(
        base,
        options,
        devices.named(card),
        lengths,
        lambda each: footprint(base, each["rank"], each["quantize"]),
    )


def by_name(plan):
    return {part.name: part.num_bytes for part in plan.parts}


@pytest.mark.parametrize(
    ("name", "num_values", "num_adapter"),
    [("8b", 8_030_261_248, 41_943_040), ("70b", 70_553_706_496, 207_093_760)],
)
def test_values_are_counted_from_config_json_alone(bases, name, num_values, num_adapter):
    """Meta's own counts of Llama 3, and PEFT's of rank 16 on all linear layers."""
    found = footprint(bases[name], 16, True)
    assert (found.num_values, found.num_adapter) == (num_values, num_adapter)
    assert found.num_plain == 2 * 128256 * found.hidden + (2 * found.num_layers + 1) * found.hidden
    assert found.num_other == 0


def test_four_bits_with_double_quantisation_are_as_the_paper_says():
    assert 8 * nf4_bytes(2**28) / 2**28 == pytest.approx(4.127, abs=0.001)  # arXiv 2305.14314, section 3


def test_a_base_of_eight_billion_is_held_in_less_than_eight_gigabytes(bases):
    parts = by_name(plan_of(bases["8b"], "l4"))
    assert 5.5 * GB < parts["base in 4 bit"] + parts["base in 16 bit"] < 6 * GB
    adapter = footprint(bases["8b"], 32, True).num_adapter
    assert [parts[name] for name in ("adapter", "gradients", "optimiser")] == [
        4 * adapter,
        4 * adapter,
        8 * adapter,
    ]


@pytest.mark.parametrize(
    ("name", "card", "fits"),
    [
        ("8b", "l4", True),
        ("8b", "h100", True),
        ("70b", "l4", False),
        ("70b", "l40s", True),
        ("70b", "h200", True),
    ],
)
def test_what_does_not_fit_is_changed_until_it_does_or_it_is_said_that_nothing_helps(bases, name, card, fits):
    plan = plan_of(bases[name], card)
    assert plan.fits is (plan.num_bytes <= plan.memory_bytes)
    if plan.fits:
        assert not plan.changes and plan.changed_bytes is None
        return
    assert bool(plan.changes) is fits
    if fits:
        changed = plan_of(bases[name], card, **plan.changes)
        assert changed.fits and changed.num_bytes == plan.changed_bytes
        options = QLoRAOptions(**plan.changes)
        assert options.batch_size * options.gradient_accumulation == 16  # the same step


def test_changes_that_matter_least_come_first(bases):
    """A smaller batch before checkpointing, both before 4 bit, then the rank, and max_length last."""
    eight, seventy = bases["8b"], bases["70b"]
    assert set(plan_of(eight, "l40s").changes) == {"batch_size", "gradient_accumulation"}
    assert set(plan_of(eight, "l4", quantize=False, batch_size=1).changes) == {"gradient_checkpointing"}
    in_16_bit = plan_of(seventy, "h100", quantize=False).changes
    assert in_16_bit["quantize"] is True and not {"rank", "max_length"} & set(in_16_bit)
    on_48_gb = plan_of(seventy, "l40s").changes
    assert on_48_gb["rank"] < 32 and "max_length" not in on_48_gb
    assert "max_length" in plan_of(eight, "l4", max_length=2**17, rank=8, batch_size=1).changes


def test_kto_keeps_two_answers_in_a_batch(bases):
    preference = {"method": "kto"}
    plan = plan_of(bases["70b"], "l40s", preference=preference, batch_size=2)
    assert plan.changes.get("batch_size", 2) == 2
    assert any("preference pass is not in it" in note for note in plan.notes)


LENGTHS = SampleLengths(100, 20_000, 5_000, 200.0, 400, 90, 3, 1500, "3 of 103 samples are longer")


def test_the_datasets_own_lengths_bound_the_largest_batch(bases):
    alone, given = plan_of(bases["8b"], "h100"), plan_of(bases["8b"], "h100", LENGTHS)
    assert by_name(given)["activations"] < 0.45 * by_name(alone)["activations"]
    assert (alone.num_steps, alone.num_tokens, alone.seconds) == (None, None, None)
    assert (given.num_steps, given.num_tokens) == (21, 60_000)
    assert given.seconds == pytest.approx(60_000 / given.tokens_per_second)
    assert given.refusals == ("3 of 103 samples are longer",) and not alone.refusals
    assert any("no dataset is given" in each for each in alone.notes)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"max_steps": 7}, (7, 20_000)),
        ({"num_epochs": 1.0, "batch_size": 10, "gradient_accumulation": 5}, (2, 20_000)),
        ({"num_epochs": 2.0, "packing": True, "batch_size": 1}, (40, 40_000)),
    ],
)
def test_steps_and_tokens_are_those_of_training(changed, expected):
    assert work_of(options_of(**changed), LENGTHS) == expected


def test_each_of_several_gpus_is_planned_for(bases):
    """PEFT's documentation names 35.6 GB on each of two GPUs for Llama 2 70B with these options."""
    options = {"rank": 8, "batch_size": 2, "max_length": 2048, "gradient_checkpointing": True}
    one = plan_of(bases["70b"], "a100", **options)
    same = plan_of(bases["70b"], "a100", **options, processes=4)
    assert same.parts == one.parts and same.tokens_per_second == pytest.approx(4 * one.tokens_per_second)
    assert any("4 GPUs, which holds the whole base; a step learns 8 samples" in note for note in same.notes)
    assert not any("GPUs" in note for note in one.notes)

    two = by_name(plan_of(bases["70b"], "a100", **options, processes=2, parallel="fsdp"))
    assert two["base in 4 bit"] == pytest.approx(by_name(one)["base in 4 bit"] / 2, rel=1e-6)
    loading = two.pop("loading")
    assert pytest.approx(sum(two.values()), rel=0.05) == 35.6 * GB
    assert sum(by_name(one)[name] for name in ("base in 4 bit", "base in 16 bit")) == pytest.approx(
        loading + sum(two.values()) - two["fragmentation"] - two["CUDA context"], rel=1e-6
    )
    plain = by_name(plan_of(bases["70b"], "a100", **options, processes=8, parallel="fsdp", quantize=False))
    assert "loading" not in plain and plain["base in 16 bit"] == 2 * 70_553_706_496 // 8
    assert work_of(options_of(processes=4, batch_size=4), LENGTHS) == work_of(
        options_of(batch_size=16), LENGTHS
    )


def test_checkpointing_saves_memory_and_costs_time(bases):
    plain, saving = (plan_of(bases["8b"], "a100", gradient_checkpointing=value) for value in (False, True))
    assert saving.num_bytes < plain.num_bytes / 2
    assert 1.2 < plain.tokens_per_second / saving.tokens_per_second < 1.6


def test_a_card_that_is_not_known_is_refused_with_the_nearest():
    assert devices.named("NVIDIA L40S").name == "NVIDIA L40S (48 GB)"
    assert devices.named("H100").memory_bytes < 80 * GIB
    with pytest.raises(InputError, match="did you mean 'l40s'"):
        devices.named("l40")


def test_a_processor_is_planned_for_in_float32_and_it_is_said(tmp_path):
    domain = SimpleNamespace(folder=tmp_path, recipe=SimpleNamespace(seed=1))
    base = config_only(tmp_path, "8b")
    plan = QLoRA(QLoRAOptions(batch_size=1, num_threads=1), domain).plan(None, "8b", None)
    if "processor" in plan.device:
        assert any("no GPU is at hand" in note for note in plan.notes)
        assert by_name(plan)["base in 32 bit"] == 4 * footprint(base, 32, True).num_plain
    named = QLoRA(QLoRAOptions(batch_size=1), domain).plan(None, "8b", "h100")
    assert named.base == base and named.device == "NVIDIA H100 SXM (80 GB)"
    with pytest.raises(RecipeError, match=r"no config\.json"):
        QLoRA(QLoRAOptions(), domain).plan(None, "./nowhere", "h100")
    (tmp_path / "d.jsonl").write_text("")
    with pytest.raises(TrainingError, match="tokenizer cannot be read: "):
        QLoRA(QLoRAOptions(), domain).plan(tmp_path / "d.jsonl", "8b", "h100")


def test_weights_that_are_not_those_of_the_config_are_noticed(tmp_path):
    import shutil

    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"intermediate_size": 512}))
    with pytest.raises(TrainingError, match=r"describes 2,950,848 values, but the weights are 2,803,392"):
        measure(str(base), options_of(), on_gpu=True)


def test_long_samples_are_counted_apart():
    rows = [Row([1] * num, [IGNORED] * (num - 2) + [1, 1]) for num in (10, 20, 30, 99)]
    assert count_lengths(rows, 30) == SampleLengths(3, 60, 6, 20.0, 30, 2, 1, 99)
    assert count_lengths(rows, 5) == SampleLengths(0, 0, 0, 0.0, 0, 0, 4, 99)


WORDS = [
    "the",
    "notice",
    "claim",
    "wage",
    "burial",
    "doctor",
    "board",
    "hearing",
    "appeal",
    "days",
    "year",
    "thirds",
    "names",
    "members",
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path, draw = tmp_path_factory.mktemp("data") / "data.jsonl", random.Random(0)
    lines = []
    for _ in range(64):
        question = " ".join(draw.choices(WORDS, k=draw.randint(5, 60)))
        answer = " ".join(draw.choices(WORDS, k=10))
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": turns}) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.mark.train
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"gradient_checkpointing": True},
        {"quantize": False, "dropout": 0.1},
        {"packing": True, "batch_size": 2},
    ],
)
def test_the_plan_is_what_training_really_holds(tmp_path, dataset, changed):
    """Weights, adapter and optimiser to the byte; what autograd keeps within 3 %, the peak within 15 %."""
    import torch

    from training import sft

    given = QLoRAOptions(**({"batch_size": 16, "max_steps": 2, "max_length": 256} | changed))
    worker = QLoRA(given, SimpleNamespace(folder=tmp_path, recipe=SimpleNamespace(seed=1)))
    job = worker._describe(TrainingJob(dataset, str(tmp_path.cwd() / TINY), tmp_path / "out"))
    prepared = sft.prepare(job)
    options = given.model_dump(mode="json")
    lengths = count_lengths(prepared.rows, given.max_length)
    found = measure(job["base"], options, on_gpu=False)
    parts = {part.name: part.num_bytes for part in parts_of(found, options, CPU, lengths)}
    model, _ = sft.load_base(job)
    base_bytes = sum(tensor.nbytes for tensor in held(model))
    assert base_bytes == sum(num for name, num in parts.items() if name.startswith("base"))
    trainer = sft.make_trainer(prepared, model, lambda **_: None)
    trained = [each for each in trainer.model.parameters() if each.requires_grad]
    assert sum(each.nbytes for each in trained) == parts["adapter"] == parts["gradients"]

    if given.gradient_checkpointing:
        trainer.model.gradient_checkpointing_enable()
    trainer.model.train()
    batch = max(trainer.get_train_dataloader(), key=lambda batch: batch["input_ids"].numel())
    optimizer = torch.optim.AdamW(trained)
    kept = step(trainer, batch, optimizer)
    moments = [state[name].nbytes for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert sum(moments) == parts["optimiser"]
    activations = parts["activations"] + parts.get("attention masks", 0)
    assert activations == pytest.approx(kept, rel=0.3 if given.gradient_checkpointing else 0.03)
    peak = peak_of(partial(step, trainer, batch, optimizer))
    working = parts.get("logits") or parts["backward pass"]
    assert activations + working == pytest.approx(peak, rel=0.15)


CPU = Device("processor", 8 * GIB, None, False)


def held(model):
    """Every tensor of a model's weights, the scales of quantised ones included."""
    for parameter in model.parameters():
        yield parameter
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            yield from (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)


def step(trainer, batch, optimizer):
    """One step of training; the bytes that its forward pass keeps, weights excepted."""
    import torch

    weights = {each.untyped_storage().data_ptr() for each in trainer.model.parameters()}
    saved = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = trainer.compute_loss(trainer.model, dict(batch))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return sum(saved.values())


def peak_of(work):
    """The most bytes that torch's allocator held of what it allocated meanwhile."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_a_plan_with_nothing_to_learn_is_no_division_by_zero(bases):
    plan = plan_of(bases["8b"], "h100", LENGTHS._replace(num_samples=0, num_tokens=0, mean=0.0, longest=0))
    assert plan.seconds is None and plan.num_tokens is None
    assert replace(plan, tokens_per_second=None).seconds is None
