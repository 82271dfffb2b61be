"""Runs inside vLLM's worker on a CPU: adapters as one matrix product for each adapter in a batch.

vLLM's own CPU code copies the adapter's weights once for every token, which makes a small model
with an adapter fifteen times slower than without, and applies the last slot's adapter to requests
that ask for none. This groups the tokens by adapter instead. `VllmProcess` names `GroupedLora` as
`--worker-extension-cls`; importing this module in that process puts the methods in place. It is
never imported by the factory itself, and it changes nothing about a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

Tensor = Any  # torch.Tensor; torch is not a dependency of the core
Groups = list[tuple[int, Any]]


def group_rows(indices: Tensor) -> Groups:
    """(slot, rows) for each adapter; rows is None where all share it; -1, no adapter, is left out."""
    slots = [int(slot) for slot in indices.unique()]
    if len(slots) == 1:
        return [(slots[0], None)] if slots[0] >= 0 else []
    return [(slot, (indices == slot).nonzero().squeeze(1)) for slot in slots if slot >= 0]


def add_product(output: Tensor, rows: Tensor | None, start: int, size: int, product: Tensor) -> None:
    """output[rows, start:start+size] += product, in place."""
    part = output[:, start : start + size]
    product = product[:, :size].to(output.dtype)
    if rows is None:
        part += product
    else:
        part.index_add_(0, rows, product)


def update_metadata(wrapper: Any, *args: Any, **kwargs: Any) -> None:
    """Once for each batch: vLLM's own bookkeeping, then the groups."""
    wrapper.update_metadata_ungrouped(*args, **kwargs)
    wrapper.token_groups = group_rows(wrapper.token_lora_indices)
    wrapper.sampler_groups = group_rows(wrapper.sampler_indices)


def add_lora_linear(
    wrapper: Any,
    y: Tensor,
    x: Tensor,
    lora_a_stacked: Sequence[Tensor],
    lora_b_stacked: Sequence[Tensor],
    scale: float,
    output_slices: Sequence[int],
    **_: Any,
) -> None:
    """y += x @ A.T @ B.T for each slice of a fused layer; y is (tokens, out), x is (tokens, in)."""
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    for slot, rows in wrapper.token_groups:
        chosen = x if rows is None else x[rows]
        start = 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add_product(y, rows, start, size, scale * (chosen @ a[slot, 0].T @ b[slot, 0].T))
            start += size


def groups_of_head(wrapper: Any, x: Tensor) -> Groups:
    """The groups of rows that go through the head.

    Those are a copy of the rows to be sampled, in the batch's order. But for `prompt_logprobs` vLLM takes
    one request's tokens after the other, as slices of all tokens' states: there the place of the slice says
    whose. vLLM's own code goes by the order of the batch there too, and gives a prompt others' adapters.
    """
    num_stored = x.untyped_storage().nbytes() // x.element_size() // x.shape[-1]
    if len(x) == num_stored:
        return list(wrapper.sampler_groups)
    slot = int(wrapper.token_lora_indices[x.storage_offset() // x.shape[-1]])
    return [(slot, None)] if slot >= 0 else []


def add_lora_logits(
    wrapper: Any, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, **_: Any
) -> None:
    """The same for the head, over the rows that are sampled, or over those of one prompt."""
    y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
    for slot, rows in groups_of_head(wrapper, x):
        chosen = x if rows is None else x[rows]
        product = scale * (chosen @ lora_a_stacked[slot, 0].T @ lora_b_stacked[slot, 0].T)
        add_product(y, rows, 0, y.shape[1], product)


def add_lora_embedding(wrapper: Any, y: Tensor, x: Tensor, lora_b_stacked: Tensor, **_: Any) -> None:
    """y += x @ B.T, where x holds the rows of A that the embedding looked up."""
    for slot, rows in wrapper.token_groups:
        chosen = (x if rows is None else x[rows]).to(lora_b_stacked.dtype)
        add_product(y, rows, 0, y.shape[1], chosen @ lora_b_stacked[slot, 0].T)


def install(wrapper_class: Any) -> None:
    """Puts the grouped methods into vLLM's PunicaWrapperCPU; does nothing the second time."""
    if hasattr(wrapper_class, "update_metadata_ungrouped"):
        return
    wrapper_class.update_metadata_ungrouped = wrapper_class.update_metadata
    wrapper_class.update_metadata = update_metadata
    wrapper_class.add_lora_linear = add_lora_linear
    wrapper_class.add_lora_logits = add_lora_logits
    wrapper_class.add_lora_embedding = add_lora_embedding


class GroupedLora:
    """Empty: vLLM imports the module to mix this class into its worker."""


if importlib.util.find_spec("vllm") is not None:
    install(importlib.import_module("vllm.lora.punica_wrapper.punica_cpu").PunicaWrapperCPU)
