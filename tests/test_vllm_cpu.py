"""The grouped LoRA products against the plain formula, for batches that mix adapters and the base."""

import pytest

torch = pytest.importorskip("torch")

from factory.models import vllm_cpu  # noqa: E402


class Wrapper:
    """As much of vLLM's PunicaWrapperCPU as the grouped methods see."""

    def update_metadata(self, indices, sampled=None) -> None:
        self.token_lora_indices = indices
        self.sampler_indices = indices if sampled is None else sampled


@pytest.fixture(autouse=True, scope="module")
def installed():
    vllm_cpu.install(Wrapper)
    vllm_cpu.install(Wrapper)


def expected(y, x, lora_a, lora_b, slices, indices):
    """y[t] += x[t] @ A[slot].T @ B[slot].T, one token after the other."""
    y = y.clone()
    for token, slot in enumerate(indices.tolist()):
        start = 0
        for a, b, size in zip(lora_a, lora_b, slices, strict=True):
            if slot >= 0:
                y[token, start : start + size] += x[token] @ a[slot, 0].T @ b[slot, 0].T
            start += size
    return y


@pytest.mark.parametrize(
    "indices", [[0, 0, 0], [2, 2], [-1, -1], [0, 2, 0, 1], [-1, 1, 1, -1, 2], [1, -1], [0]], ids=str
)
def test_products(indices):
    torch.manual_seed(len(indices))
    slots, rank, num_in, slices = 3, 4, 6, (5, 2, 3)
    lora_a = [torch.randn(slots, 1, rank, num_in) for _ in slices]
    lora_b = [torch.randn(slots, 1, size, rank) for size in slices]
    index = torch.tensor(indices)
    x, y = torch.randn(len(indices), num_in), torch.randn(len(indices), sum(slices))
    wrapper = Wrapper()
    wrapper.update_metadata(index)
    want = expected(y, x, lora_a, lora_b, slices, index)
    wrapper.add_lora_linear(y, x, lora_a, lora_b, 1.0, slices)
    assert torch.allclose(y, want, atol=1e-5)

    logits = torch.randn(len(indices), 7)
    head_a, head_b = torch.randn(slots, 1, rank, num_in), torch.randn(slots, 1, 7, rank)
    want = expected(logits, x, [head_a], [head_b], [7], index)
    wrapper.add_lora_logits(logits, x, head_a, head_b, 1.0)
    assert torch.allclose(logits, want, atol=1e-5)

    rows, embedded = torch.randn(len(indices), rank), torch.randn(len(indices), 7)
    want = expected(embedded, rows, [torch.eye(rank).repeat(slots, 1, 1, 1)], [head_b], [7], index)
    wrapper.add_lora_embedding(embedded, rows, head_b)
    assert torch.allclose(embedded, want, atol=1e-5)


@pytest.mark.parametrize("lengths", [(2, 9, 4), (9, 1, 2), (5, 5, 5)], ids=str)
def test_the_head_over_a_prompt_is_that_of_its_own_adapter_whatever_else_is_in_the_batch(lengths):
    """As for `prompt_logprobs`: a slice of all tokens' states, all but the last token of one request."""
    torch.manual_seed(0)
    slots = [1, -1, 0]
    token_slots = torch.repeat_interleave(torch.tensor(slots), torch.tensor(lengths))
    wrapper = Wrapper()
    wrapper.update_metadata(token_slots, torch.tensor(slots))
    states, head_a, head_b = torch.randn(sum(lengths), 6), torch.randn(2, 1, 4, 6), torch.randn(2, 1, 7, 4)
    start = 0
    for slot, length in zip(slots, lengths, strict=True):
        x = states[start : start + length - 1]
        logits = torch.randn(length - 1, 7)
        want = expected(logits, x, [head_a], [head_b], [7], torch.full((length - 1,), slot))
        wrapper.add_lora_logits(logits, x, head_a, head_b, 1.0)
        assert torch.allclose(logits, want, atol=1e-5)
        start += length
    sampled = states[torch.tensor(lengths).cumsum(0) - 1]
    logits = torch.zeros(3, 7)
    want = expected(logits, sampled, [head_a], [head_b], [7], torch.tensor(slots))
    wrapper.add_lora_logits(logits, sampled, head_a, head_b, 1.0)
    assert torch.allclose(logits, want, atol=1e-5)


def test_a_head_narrower_than_its_adapter_takes_what_fits():
    wrapper = Wrapper()
    wrapper.update_metadata(torch.tensor([0, 0]))
    y = torch.zeros(2, 5)
    wrapper.add_lora_logits(y, torch.ones(2, 3), torch.ones(1, 1, 2, 3), torch.ones(1, 1, 8, 2), 1.0)
    assert y.tolist() == [[6.0] * 5] * 2


def test_vllm_still_has_what_is_replaced():
    """Another version of vLLM may rename these; then the patch would do nothing without a word."""
    source = pytest.importorskip("importlib.util").find_spec("vllm")
    if source is None:
        pytest.skip("vLLM is not installed")
    from pathlib import Path

    text = (Path(source.origin).parent / "lora" / "punica_wrapper" / "punica_cpu.py").read_text()
    base = (Path(source.origin).parent / "lora" / "punica_wrapper" / "punica_base.py").read_text()
    for name in ("add_lora_linear", "add_lora_logits", "add_lora_embedding"):
        assert f"def {name}(" in text
    assert "class PunicaWrapperCPU(" in text
    for name in ("update_metadata", "token_lora_indices", "sampler_indices"):
        assert f"def {name}(" in base
