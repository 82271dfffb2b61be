"""Fields of SFTConfig and LoraConfig in a recipe: which may be set, and what comes of it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_qlora import base, facts_dataset, no_progress, trainer  # noqa: F401 (a fixture)
from test_train_command import TINY, folder, refused, some, words  # noqa: F401 (a fixture)
from trained_here import Here

import training
from factory import cli
from factory.errors import TrainingError
from factory.strict import KeyedError
from training.adapters import differences, identify
from training.fields import CLASSES, check_fields, read_fields, refusal_of
from training.qlora import QLoRAOptions, TrainingJob


@pytest.mark.train
@pytest.mark.parametrize("config", CLASSES)
def test_the_fields_that_are_read_are_those_of_the_class(config):
    import dataclasses

    import peft
    import trl

    real = getattr(trl if config == "SFTConfig" else peft, config)
    names = {each.name for each in dataclasses.fields(real) if each.init}
    assert names == read_fields(config).keys()


@pytest.mark.parametrize(
    ("config", "values"),
    [
        ("SFTConfig", {"max_grad_norm": 1, "adam_beta2": 0.95, "optim": "adamw_torch", "tf32": None}),
        ("SFTConfig", {"lr_scheduler_kwargs": {"num_cycles": 2}, "full_determinism": True}),
        ("SFTConfig", {"accelerator_config": {"even_batches": False}, "gradient_checkpointing_kwargs": None}),
        ("LoraConfig", {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 4}}),
        ("LoraConfig", {"init_lora_weights": "gaussian", "layers_to_transform": 3, "bias": "none"}),
        ("LoraConfig", {"init_lora_weights": False, "use_dora": False, "modules_to_save": None}),
    ],
)
def test_what_may_be_set_is_taken(config, values):
    check_fields(config, values)


@pytest.mark.parametrize(
    ("config", "name", "value", "what", "hint"),
    [
        ("SFTConfig", "max_grad_nrm", 1.0, "has no field 'max_grad_nrm'", "did you mean 'max_grad_norm'?"),
        ("SFTConfig", "max_grad_norm", "1", "must be float, found '1'", ""),
        ("SFTConfig", "max_grad_norm", True, "must be float, found True", ""),
        ("SFTConfig", "max_grad_norm", float("inf"), "must be finite, found inf", ""),
        ("SFTConfig", "lr_scheduler_kwargs", {"a": [float("nan")]}, "must be finite", ""),
        ("SFTConfig", "full_determinism", 1, "must be bool, found 1", ""),
        ("SFTConfig", "dataloader_num_workers", 1.5, "must be int, found 1.5", ""),
        ("SFTConfig", "dataloader_num_workers", None, "must be int, found None", ""),
        ("SFTConfig", "optim", "adamw_torchh", "must be OptimizerNames | str", ""),
        *(
            ("SFTConfig", name, value, "must be a mapping here", "no part of what the adapter is")
            for name in ("accelerator_config", "lr_scheduler_kwargs", "gradient_checkpointing_kwargs")
            for value in ("accelerator.json", "{}")
        ),
        ("SFTConfig", "learning_rate", 0.1, "is not set here", "use the option `learning_rate`"),
        ("SFTConfig", "max_length", 64, "is not set here", "use the option `max_length`"),
        ("SFTConfig", "packing", True, "is not set here", "use the option `packing`"),
        ("SFTConfig", "seed", 1, "is not set here", "use the recipe's `seed`"),
        ("SFTConfig", "output_dir", "x", "is not set here", "the adapter's folder"),
        ("SFTConfig", "push_to_hub", True, "is not set here", "nothing leaves the machine"),
        ("LoraConfig", "r", 8, "is not set here", "use the option `rank`"),
        ("LoraConfig", "target_module", ["q_proj"], "has no field", "did you mean 'target_modules'?"),
        ("LoraConfig", "layers_to_transform", "3", "must be Optional[Union[list[int], int]]", ""),
        ("LoraConfig", "use_dora", True, "vLLM does not serve DoRA", "plain LoRA"),
        ("LoraConfig", "lora_bias", True, "vLLM does not serve a LoRA bias", "plain LoRA"),
        ("LoraConfig", "bias", "all", "vLLM does not serve bias 'all'", "plain LoRA"),
        ("LoraConfig", "modules_to_save", ["embed_tokens"], "vLLM does not serve modules_to_save", ""),
        ("LoraConfig", "loftq_config", {"loftq_bits": 4}, "is not set here", "vLLM serves plain LoRA"),
        (
            "LoraConfig",
            "init_lora_weights",
            "eva",
            "'eva' needs a pass over the data",
            "gaussian, orthogonal",
        ),
        *(
            ("LoraConfig", "init_lora_weights", init, f"vLLM does not serve init_lora_weights '{init}'", "")
            for init in ("pissa", "pissa_niter_4", "olora", "corda", "loftq")
        ),
    ],
)
def test_what_may_not_be_set_is_refused_with_what_to_do(config, name, value, what, hint):
    with pytest.raises(KeyedError) as caught:
        check_fields(config, {name: value})
    assert what in str(caught.value) and hint in caught.value.hint and caught.value.loc == (name,)


def test_every_option_that_stands_for_a_field_is_an_option_and_every_pattern_meets_a_field():
    from training.fields import OPTIONS, OWN

    assert set(OPTIONS.values()) <= QLoRAOptions.model_fields.keys()
    known = {name for config in CLASSES for name in read_fields(config)}
    assert OPTIONS.keys() <= known
    for patterns in OWN.values():
        for pattern in patterns.split():
            stem = pattern.removesuffix("*")
            assert any(name.startswith(stem) and refusal_of(name) for name in known), pattern


@pytest.mark.parametrize("config", CLASSES)
def test_what_the_trainer_sets_itself_is_refused(config):
    """A field that both set would be a keyword given twice."""
    source = Path(training.__file__).with_name("sft.py").read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    (made,) = [call for call in calls if ast.unparse(call.func) == config]
    names = [keyword.arg for keyword in made.keywords if keyword.arg]
    assert len(names) > 3 and [name for name in names if refusal_of(name) is None] == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("sft: {max_grad_nrm: 1.0}", "training.student.sft.max_grad_nrm: SFTConfig has no field"),
        ("sft: {max_grad_norm: high}", "training.student.sft.max_grad_norm: 'max_grad_norm' must be float"),
        (
            "sft: {accelerator_config: conf.json}",
            "sft.accelerator_config: 'accelerator_config' must be a mapping",
        ),
        ("lora: {use_dora: true}", "training.student.lora.use_dora: vLLM does not serve DoRA"),
        (
            "lr_scheduler: cosine_with_min_lr",
            "training.student.sft.lr_scheduler_kwargs: lr_scheduler 'cosine_with_min_lr' needs min_lr or",
        ),
        ("lora: [q_proj]", "training.student.lora: must be a valid dictionary"),
    ],
)
def test_a_recipe_is_refused_when_it_is_read(folder, more, said, capsys):  # noqa: F811
    profile = folder / "profiles/tiny.yaml"
    profile.write_text(profile.read_text().replace("max_steps: 2", f"max_steps: 2, {more}"))
    line = refused(["check", str(folder), "--profile", "tiny"], 2, capsys)
    assert said in line and "tiny.yaml:4" in line


def test_a_field_is_told_with_its_own_line(folder, capsys):  # noqa: F811
    profile = folder / "profiles/tiny.yaml"
    profile.write_text(
        f"training:\n  student:\n    base: {TINY}\n    sft:\n      optim: sgd\n      seed: 1\n"
    )
    line = refused(["check", str(folder), "--profile", "tiny"], 2, capsys)
    assert "tiny.yaml:6 training.student.sft.seed: 'seed' is not set here" in line


def test_a_rank_of_some_modules_above_the_servers_is_refused(folder, tmp_path, capsys):  # noqa: F811
    profile = folder / "profiles/tiny.yaml"
    text = profile.read_text().replace("kind: scripted", f"kind: vllm, model: {TINY}, max_lora_rank: 32")
    profile.write_text(text.replace("max_steps: 2", "max_steps: 2, lora: {rank_pattern: {q_proj: 64}}"))
    line = refused(["check", str(folder), "--profile", "tiny"], 2, capsys)
    assert "rank 64 is more than server 'student' serves, 32" in line


def test_without_the_packages_only_what_is_always_refused_is_refused(monkeypatch):
    from training import fields

    monkeypatch.setattr(fields, "find_spec", lambda package: None)
    read_fields.cache_clear()
    try:
        check_fields("SFTConfig", {"max_grad_nrm": 1.0})
        with pytest.raises(KeyedError, match="is not set here"):
            check_fields("SFTConfig", {"learning_rate": 0.1})
        with pytest.raises(KeyedError, match="DoRA"):
            check_fields("LoraConfig", {"use_dora": True})
    finally:
        read_fields.cache_clear()


def test_they_are_read_without_importing_the_libraries():
    code = (
        "import sys\nfrom training.fields import check_fields\n"
        "check_fields('SFTConfig', {'max_grad_norm': 1.0}); check_fields('LoraConfig', {'bias': 'none'})\n"
        "sys.exit(', '.join({'torch', 'transformers', 'trl', 'peft'} & set(sys.modules)) or None)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_they_belong_to_what_an_adapter_is_and_are_named_where_they_differ(tmp_path):
    def job(**options):
        wanted = TrainingJob(facts_dataset(tmp_path), str(TINY), tmp_path / "out")
        return trainer(tmp_path, **options)._describe(wanted)

    plain, empty = job(), job(sft={}, lora={})
    assert plain["identity"] == empty["identity"] and "sft" not in plain["options"]
    assert plain["identity"] == identify(
        plain["options"], plain["base_digest"], plain["dataset_digest"], plain["seed"]
    )
    one, other = job(sft={"max_grad_norm": 1.0}), job(sft={"max_grad_norm": 0.5})
    assert len({plain["identity"], one["identity"], other["identity"]}) == 3
    assert differences(one, other) == ["sft.max_grad_norm (1.0, here 0.5)"]
    assert differences(plain, one) == ["sft.max_grad_norm (null, here 1.0)"]
    even, uneven = (job(sft={"accelerator_config": {"even_batches": each}}) for each in (True, False))
    assert even["identity"] != uneven["identity"]
    assert differences(even, uneven) == ["sft.accelerator_config.even_batches (true, here false)"]


def test_a_plan_names_what_it_does_not_know(folder, tmp_path, capsys):  # noqa: F811
    profile = folder / "profiles/tiny.yaml"
    more = "max_steps: 2, sft: {optim: adafactor}, lora: {target_modules: [q_proj]}"
    profile.write_text(profile.read_text().replace("max_steps: 2", more))
    assert cli.main(words(folder, "--plan", "--gpu", "l4")) == 0
    assert "note: sft.optim, lora.target_modules: not in it" in capsys.readouterr().out


@pytest.mark.train
def test_they_reach_the_trainer_and_the_adapter(tmp_path, base):  # noqa: F811
    options = {"rank": 8, "lora": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 1}}}
    dataset = facts_dataset(tmp_path)
    options |= {"lr_scheduler": "warmup_stable_decay", "warmup_share": 0.0}
    sft = {"max_grad_norm": 1e-9, "optim": "sgd", "lr_scheduler_kwargs": {"num_decay_steps": 1}}
    train = trainer(tmp_path, Here, max_steps=2, sft=sft, **options).train
    train(dataset, str(base), tmp_path / "out", no_progress)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert set(config["target_modules"]) == {"q_proj", "v_proj"} and config["rank_pattern"] == {"q_proj": 1}
    record = json.loads((tmp_path / "out/training.json").read_text())
    assert record["options"]["sft"] == sft

    from safetensors.torch import load_file as load_tensors

    tensors = load_tensors(tmp_path / "out/adapter_model.safetensors")
    moved = [float(tensor.float().abs().max()) for name, tensor in tensors.items() if "lora_B" in name]
    assert len(moved) == 8 and max(moved) < 1e-9  # a step of so little gradient moves nothing

    for modules, said in ((["no_such_layer"], ".*no_such_layer"), ("((", "missing "), ([1], "'int' object")):
        bad = trainer(tmp_path, Here, max_steps=2, lora={"target_modules": modules})
        with pytest.raises(TrainingError, match=f"the libraries refuse it: {said}") as caught:
            bad.train(dataset, str(base), tmp_path / "bad", no_progress)
        assert "set under lora" in caught.value.hint and not (tmp_path / "bad").exists()

    few = trainer(tmp_path, Here, max_steps=2, batch_size=16, sft={"dataloader_drop_last": True})
    with pytest.raises(TrainingError, match="the samples do not fill one batch"):
        few.train(dataset, str(base), tmp_path / "few", no_progress)
