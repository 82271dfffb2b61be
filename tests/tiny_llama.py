"""Makes random tiny Llamas and LoRA adapters on disk that vLLM and transformers load.

Weights are drawn with numpy and written as safetensors, so that neither torch nor transformers
is imported: a model takes a second. They answer noise; tests use them where a real server must
run, not where an answer matters.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

HIDDEN, LAYERS, HEADS, INTERMEDIATE = 192, 4, 6, 512
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
PROJECTIONS = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}


def make_tiny_llama(folder: Path, *, seed: int = 0, max_positions: int = 2048) -> Path:
    """A Llama of 1.8 M random parameters with tokenizer and chat template; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = _save_tokenizer(folder)
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Any:
        return (rng.standard_normal(shape) * 0.02).astype(np.float16)

    weights = {
        "model.embed_tokens.weight": draw(vocab, HIDDEN),
        "model.norm.weight": np.ones(HIDDEN, np.float16),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for name, shape in PROJECTIONS.items():
            weights[f"{prefix}.{name}.weight"] = draw(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}.{name}.weight"] = np.ones(HIDDEN, np.float16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
        "intermediate_size": INTERMEDIATE,
        "vocab_size": vocab,
        "max_position_embeddings": max_positions,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "pad_token_id": 0}))
    return folder


def make_adapter(
    folder: Path, *, rank: int = 8, seed: int = 0, scale: float = 0.3, config: Mapping[str, Any] | None = None
) -> Path:
    """A random PEFT LoRA adapter over all linear layers; `config` overrides its adapter_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    weights = {}
    for layer in range(LAYERS):
        for name, (num_out, num_in) in PROJECTIONS.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            for half, shape in (("A", (rank, num_in)), ("B", (num_out, rank))):
                drawn = (rng.standard_normal(shape) * scale).astype(np.float32)
                weights[f"{prefix}.lora_{half}.weight"] = drawn
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "target_modules": sorted(name.split(".")[1] for name in PROJECTIONS),
        **(config or {}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(values, indent=1))
    return folder


def _save_tokenizer(folder: Path) -> int:
    """Byte-level BPE of at most 1,024 tokens learned from a module of the standard library; its size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1024, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(inspect.getsource(inspect).splitlines(), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": "<|end|>",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    return int(tokenizer.get_vocab_size())
