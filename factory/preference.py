"""A pair of answers to one prompt, as preference training takes it.

A sample's own last answer is the chosen one, and its attribute `rejected` holds the worse one. So whatever
reads samples, supervised training above all, sees the chosen answer without knowing of pairs, and an edit of
it leaves the pair a pair. The form is that of TRL's conversational preference datasets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from factory.types import Json, Message


def pair_of(messages: Sequence[Message], attributes: Mapping[str, str]) -> dict[str, Json] | None:
    """{"prompt": […], "chosen": […], "rejected": […]}, lists of turns; None where there is no pair.

    An answer that was edited into the rejected one leaves none, and neither does one that calls tools.
    """
    rejected = attributes.get("rejected")
    if rejected is None or "tools" in attributes or messages[-1].content == rejected:
        return None
    *prompt, chosen = messages
    return {
        "prompt": [message._asdict() for message in prompt],
        "chosen": [chosen._asdict()],
        "rejected": [{"role": chosen.role, "content": rejected}],
    }
