"""A sample as tests edit it: with another last answer, and descended from the first."""

from __future__ import annotations

from collections.abc import Sequence

from factory.types import Message, Parent, Sample


def with_answer(sample: Sample, answer: str, parents: Sequence[Parent] = ()) -> Sample:
    """The child that differs in its last assistant message, as the refiner `edit` makes it."""
    last = max(at for at, message in enumerate(sample.messages) if message.role == "assistant")
    messages = [Message("assistant", answer) if at == last else m for at, m in enumerate(sample.messages)]
    return Sample.create(messages, [Parent(sample.id, "rewrite_of"), *parents], "edit", sample.lasting)
