"""What a base and an adapter on it are made of, found out from config.json without loading weights.

The model is built on torch's meta device, which knows shapes and holds nothing, with the LoRA layers that
training would add. One pass of a few tokens through it shows what autograd keeps for the backward pass: the
activations, counted instead of derived, so that any architecture of transformers is counted as it is.
Attention keeps what fused kernels keep (inputs, output, one number a row and head), never the square of
scores.
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from factory.errors import RecipeError, TrainingRefused

PROBE_TOKENS = 128
BLOCK, OUTER_BLOCK = 64, 256  # bitsandbytes: values to a scale, scales to an outer scale
TABLES_BYTES = 4 * (16 + 256 + 1)  # of one quantised matrix: both code books and the offset


class Footprint(NamedTuple):
    """Counts of values, and bytes of 4-bit weights with their scales.

    `num_linear` are the values of matrices that are quantised, `num_plain` all others; `num_other` those of
    the latter that are matrices but neither embedding nor LM head, which training refuses to quantise.
    `token_bytes` is what all layers keep of one token for the backward pass, `value_bytes` the size of one
    value of it.
    """

    num_linear: int
    nf4_bytes: int
    num_plain: int
    num_other: int
    num_adapter: int
    num_layers: int
    hidden: int
    vocab: int
    widest: int
    largest: int
    token_bytes: float
    value_bytes: int

    @property
    def num_values(self) -> int:
        """Of the base."""
        return self.num_linear + self.num_plain


def measure(base: str, options: dict[str, Any], *, on_gpu: bool) -> Footprint:
    """The footprint of a training with these options (`QLoRAOptions`).

    Raises RecipeError where the base has no config.json that transformers knows, TrainingRefused where its
    weights are of another shape than that says.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    dtype = torch.bfloat16 if on_gpu else torch.float32
    config = _config_of(base)
    with torch.device("meta"):
        model = _build(config, dtype)
        counts = _count(model)
        _check_header(Path(base), counts["num_linear"] + counts["num_plain"], model.get_input_embeddings())
        lora = LoraConfig(
            r=options["rank"],
            lora_dropout=options["dropout"],
            target_modules=options["target"],
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, lora, low_cpu_mem_usage=True)
    adapter = [each for each in model.parameters() if each.requires_grad]
    num_adapter = sum(each.numel() for each in adapter)
    model.to(dtype)  # what autocast makes of the adapter's float32 within the pass
    if on_gpu and not options["quantize"]:
        _copy_inputs(model)
    text = config.get_text_config()
    return Footprint(
        **counts,
        num_adapter=num_adapter,
        num_layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocab=text.vocab_size,
        token_bytes=_saved_bytes(model, dtype) / PROBE_TOKENS,
        value_bytes=dtype.itemsize,
    )


def nf4_bytes(num_values: int) -> int:
    """Bytes of a matrix in NF4 with double quantisation (arXiv 2305.14314, section 3), in blocks of 64."""
    scales = math.ceil(num_values / BLOCK)
    return math.ceil(num_values / 2) + scales + 4 * math.ceil(scales / OUTER_BLOCK) + TABLES_BYTES


def _config_of(base: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(base)
    except (OSError, ValueError, KeyError) as error:
        hint = "a plan needs the base's config.json, and nothing else of it"
        what = f"no config.json of a known architecture: {str(error).splitlines()[0]}"
        raise RecipeError(what, where=base, hint=hint) from error


def _build(config: Any, dtype: Any) -> Any:
    from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM

    AttentionInterface.register("planned", _attend)
    AttentionMaskInterface.register("planned", lambda *_args, **_options: None)
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="planned")


def _count(model: Any) -> dict[str, int]:
    """The base's values by what becomes of them; tied weights once."""
    import torch

    embeddings = {id(each.weight) for each in (model.get_input_embeddings(), model.get_output_embeddings())}
    linear = [
        module.weight
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and id(module.weight) not in embeddings
    ]
    quantised = {id(weight) for weight in linear}
    plain = [each for each in model.parameters() if id(each) not in quantised]
    other = [each for each in plain if each.ndim > 1 and id(each) not in embeddings]
    return {
        "num_linear": sum(weight.numel() for weight in linear),
        "nf4_bytes": sum(nf4_bytes(weight.numel()) for weight in linear),
        "num_plain": sum(each.numel() for each in plain),
        "num_other": sum(each.numel() for each in other),
        "widest": max((max(weight.shape) for weight in linear), default=0),
        "largest": max((weight.numel() for weight in linear), default=0),
    }


def _check_header(folder: Path, num_values: int, embedding: Any) -> None:
    """Compares with the headers of the weights, where they lie there; a tied LM head may be stored too."""
    files = sorted(folder.glob("model*.safetensors")) if folder.is_dir() else []
    found = sum(_num_in_header(file) for file in files)
    wanted = (num_values, num_values + embedding.weight.numel())
    if files and all(abs(found - num) > num / 1000 for num in wanted):  # some store a few buffers
        what = f"config.json describes {num_values:,} values, but the weights are {found:,}"
        raise TrainingRefused(what, where=str(folder), hint="they do not belong together")


def _num_in_header(file: Path) -> int:
    """Values in a safetensors file, by its header: eight bytes of length, then JSON."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    return sum(math.prod(each["shape"]) for name, each in header.items() if name != "__metadata__")


def _copy_inputs(model: Any) -> None:
    """PEFT's layer over a 16-bit matrix casts its input to float32 and autocast back: a copy for each."""
    for name, module in model.named_modules():
        if ".lora_A." in name:
            module.register_forward_pre_hook(lambda _module, given: (given[0].clone(),))


def _saved_bytes(model: Any, dtype: Any) -> int:
    """Bytes that autograd keeps of one pass of PROBE_TOKENS, weights excepted."""
    import torch

    weights = {each.untyped_storage()._cdata for each in model.parameters()}
    saved: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage  # held, so that no other one gets its address
        return tensor

    ids = torch.zeros(1, PROBE_TOKENS, dtype=torch.long, device="meta")
    mask = torch.empty(1, 1, PROBE_TOKENS, PROBE_TOKENS, dtype=dtype, device="meta")  # taken as it is
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        decoder = model.get_base_model().base_model
        found = decoder(input_ids=ids, attention_mask=mask, position_ids=ids, use_cache=False)
        del found
    return sum(storage.nbytes() for storage in saved.values())


def _attend(module: Any, query: Any, key: Any, value: Any, _mask: Any, **_options: Any) -> tuple[Any, None]:
    """An attention that computes nothing and keeps what the fused kernels keep, padding masks assumed.

    With a mask transformers repeats keys and values to the number of heads (`use_gqa_in_sdpa`).
    """
    import torch

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any) -> Any:
            found = torch.empty_like(query)
            ctx.save_for_backward(
                query, key, value, found, query.new_empty(query.shape[:-1], dtype=torch.float32)
            )
            return found

        @staticmethod
        def backward(ctx: Any, gradient: Any) -> Any:  # of no use, but a Function must have one
            return gradient, None, None

    num = getattr(module, "num_key_value_groups", 1)
    if num > 1:
        key, value = key.repeat_interleave(num, 1), value.repeat_interleave(num, 1)
    return Fused.apply(query, key, value).transpose(1, 2).contiguous(), None  # type: ignore[no-untyped-call]
