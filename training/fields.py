"""Which fields of TRL's `SFTConfig` and PEFT's `LoraConfig` a recipe may set, under `sft` and `lora`.

Their names and types are read from the source files of the installed packages, whose import takes seconds.
Refused are those that an option of the recipe sets, those that the factory needs to be as they are, and
adapters that vLLM does not serve. Whether a value makes sense is the packages' to say, when training starts;
where they are not installed, nothing is trained, and names and types are not looked at.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from factory.explain import did_you_mean
from factory.models.folders import find_refusals
from factory.strict import KeyedError

Config = Literal["SFTConfig", "LoraConfig"]
# Classes in the order in which a field is looked for: package, file in it, class.
CLASSES: Final[Mapping[Config, tuple[tuple[str, str, str], ...]]] = {
    "SFTConfig": (
        ("trl", "trainer/sft_config.py", "SFTConfig"),
        ("trl", "trainer/base_config.py", "_BaseConfig"),
        ("transformers", "training_args.py", "TrainingArguments"),
    ),
    "LoraConfig": (
        ("peft", "tuners/lora/config.py", "LoraConfig"),
        ("peft", "config.py", "PeftConfig"),
        ("peft", "config.py", "PeftConfigMixin"),
    ),
}
OPTIONS: Final = {  # field → the trainer's own option
    "gradient_accumulation_steps": "gradient_accumulation",
    "gradient_checkpointing": "gradient_checkpointing",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "max_length": "max_length",
    "max_steps": "max_steps",
    "neftune_noise_alpha": "neftune_noise_alpha",
    "num_train_epochs": "num_epochs",
    "packing": "packing",
    "per_device_train_batch_size": "batch_size",
    "warmup_steps": "warmup_share",
    "weight_decay": "weight_decay",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "r": "rank",
    "use_rslora": "use_rslora",
}
# Why the factory sets the rest itself, and the fields, as patterns.
OWN: Final = {
    "use the recipe's `seed`": "seed data_seed",
    "the adapter's folder is given with the command, or is the run's": "output_dir run_name project",
    "losses are kept every 5 steps, which checkpoints rest on; see `tracker`": "logging_* report_to "
    "disable_tqdm",
    "nothing leaves the machine": "hub_* push_to_hub trackio_*",
    "checkpoints are the factory's": "save_* enable_jit_checkpoint resume_* restore_* ignore_data_skip",
    "use the option `early_stopping`": "eval_* per_device_eval_* do_* load_best_* metric_for_* "
    "greater_is_better batch_eval_metrics include_for_metrics prediction_loss_only bf16_full_eval "
    "fp16_full_eval",
    "use the option `batch_size`": "auto_find_batch_size",
    "the factory chooses number format and devices by what is there": "bf16 fp16 use_cpu local_rank fsdp* "
    "deepspeed parallelism_config ddp_find_unused_parameters",
    "the base is loaded by the factory, without code of its own": "model_init_kwargs trust_remote_code",
    "samples come as tokens with labels, whole, by the base's template": "assistant_only_loss eos_token "
    "chat_template_path completion_only_loss dataset_* label_names length_column_name pad_token "
    "packing_strategy remove_unused_columns truncation_mode",
    "it is a LoRA of the recipe's base, a causal language model": "auto_mapping base_model_name_or_path "
    "inference_mode megatron_* peft_* revision runtime_config task_type",
    "it needs a pass over the data that is not made": "corda_config eva_config lora_ga_config",
    "vLLM serves plain LoRA": "arrow_config kasa_config loftq_config monteclora_config "
    "trainable_token_indices velora_config",
}
# Those that vLLM serves and that need no more than the base; its list is factory.models.folders'.
INITS: Final = ("gaussian", "orthogonal")
# What the libraries raise where a value makes no sense to them, or wants a package that is not here.
REFUSALS: Final = (ValueError, TypeError, AttributeError, LookupError, ImportError, AssertionError, re.error)


class FieldType(NamedTuple):
    """A field's annotation, and the values of each enumeration that its file defines."""

    annotation: ast.expr
    enums: Mapping[str, frozenset[str]]


def check_fields(config: Config, values: Mapping[str, Any]) -> None:
    """Raises KeyedError for the first that cannot be set, or whose value is of another type."""
    known = read_fields(config) if values else {}
    for name, value in values.items():
        if known and name not in known:
            settable = [each for each in known if refusal_of(each) is None]
            hint = did_you_mean(name, settable, f"the fields are those of {config}")
            raise KeyedError((name,), f"{config} has no field '{name}'", hint)
        if (instead := refusal_of(name)) is not None:
            raise KeyedError((name,), f"'{name}' is not set here", instead)
        if config == "LoraConfig":
            _check_served(name, value)
        if known and isinstance(value, str) and {"dict", "str"} <= set(_kinds(known[name].annotation)):
            hint = "what a file holds would be no part of what the adapter is: write it out"
            raise KeyedError((name,), f"'{name}' must be a mapping here, found {value!r}", hint)
        if known and not _accepts(known[name], value):
            expected = ast.unparse(known[name].annotation)
            raise KeyedError((name,), f"'{name}' must be {expected}, found {value!r}")
        if not _is_finite(value):
            raise KeyedError((name,), f"'{name}' must be finite, found {value!r}")


@lru_cache(maxsize=len(CLASSES))
def read_fields(config: Config) -> Mapping[str, FieldType]:
    """Every field of a class and of those it inherits from; none where a package of theirs is missing."""
    found: dict[str, FieldType] = {}
    for package, file, name in CLASSES[config]:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return {}
        tree = ast.parse((Path(spec.submodule_search_locations[0]) / file).read_text(encoding="utf-8"))
        classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        enums = {each.name: frozenset(_members(each)) for each in classes.values() if _is_enum(each)}
        for node in classes[name].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.setdefault(node.target.id, FieldType(node.annotation, enums))
    return found


def refusal_of(name: str) -> str | None:
    """What to do in place of setting this field, or why it is not to be set; None where it may be."""
    if name in OPTIONS:
        return f"use the option `{OPTIONS[name]}`"
    reasons = (why for why, patterns in OWN.items() if any(fnmatch(name, each) for each in patterns.split()))
    return next(reasons, None)


def _check_served(name: str, value: Any) -> None:
    """Raises KeyedError for what would make an adapter that vLLM does not serve."""
    for refused in find_refusals({name: value}):
        raise KeyedError((name,), f"vLLM does not serve {refused}", "leave it out for a plain LoRA")
    if name == "init_lora_weights" and isinstance(value, str) and value not in INITS:
        raise KeyedError(
            (name,), f"'{value}' needs a pass over the data that is not made", f"one of {', '.join(INITS)}"
        )


def _is_finite(value: Any) -> bool:
    """Whether no number in it, however deep, is infinite or none: JSON would make null of it."""
    if isinstance(value, float):
        return math.isfinite(value)
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return all(map(_is_finite, inner))


def _accepts(field: FieldType, value: Any) -> bool:
    found = list(_kinds(field.annotation))
    if isinstance(value, str):
        named = [field.enums[each] for each in found if each in field.enums]
        if named:
            return any(value in members for members in named)
    return any(_is_of(kind, value) for kind in found)


def _kinds(node: ast.expr) -> Iterator[str]:
    """The plain types of an annotation by name; a literal is its own repr."""
    if isinstance(node, ast.BinOp):
        yield from _kinds(node.left)
        yield from _kinds(node.right)
    elif isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value)
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Literal":
            yield from (ast.unparse(each) for each in inner)
        elif outer in ("Optional", "Union"):
            yield from (kind for each in inner for kind in _kinds(each))
            yield from ("None",) * (outer == "Optional")
        else:
            yield outer
    else:
        yield ast.unparse(node)


def _is_of(kind: str, value: Any) -> bool:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        plain = {"bool": bool, "str": str}.get(kind)
        return kind in ("Any", repr(value)) or (plain is not None and isinstance(value, plain))
    if isinstance(value, int | float):
        return kind in ("Any", repr(value), "float") or (kind == "int" and isinstance(value, int))
    return kind in ("Any", "dict" if isinstance(value, Mapping) else "list")


def _is_enum(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).endswith("Enum") for base in node.bases)


def _members(node: ast.ClassDef) -> Iterator[str]:
    for each in node.body:
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant):
            yield str(each.value.value)
