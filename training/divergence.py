"""How far a merged model is from the adapter on its base: distributions and choices, token by token.

Both walk the same tokens. Where these are the adapter's greedy answers, the merge gives the same answer
exactly where every choice along it is the same. Numbers come in as logits; models are not known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from factory.errors import TrainingError


@dataclass
class Divergence:
    """How far a merge is from what it was made of, over every position at which a token was chosen."""

    num_chats: int = 0
    num_positions: int = 0
    num_values: int = 0
    num_same_tokens: int = 0
    num_same_answers: int = 0
    sum_divergence: float = 0.0
    max_divergence: float = 0.0
    sum_relative: float = 0.0
    sum_difference: float = 0.0
    max_difference: float = 0.0
    widest_flip: float = 0.0  # lead of the adapter's token over the next, where the merge chose another
    differing: list[int] = field(default_factory=list)  # chats, from 0, whose answers part

    def observe(self, chat: int, ours: Any, theirs: Any) -> None:
        """Counts one answer: logits of adapter and merge, each of shape (positions, vocabulary)."""
        ours, theirs = ours.double(), theirs.double()
        before, after = ours.log_softmax(-1), theirs.log_softmax(-1)
        divergence = (before.exp() * (before - after)).sum(-1).clamp(min=0)
        difference = (ours - theirs).abs()
        spread, apart = _centred(ours).norm(dim=-1), _centred(ours - theirs).norm(dim=-1)
        same = ours.argmax(-1) == theirs.argmax(-1)
        self.num_chats += 1
        self.num_positions += len(ours)
        self.num_values += difference.numel()
        self.num_same_tokens += int(same.sum())
        self.num_same_answers += bool(same.all())
        self.sum_divergence += float(divergence.sum())
        self.max_divergence = max(self.max_divergence, float(divergence.max()))
        self.sum_relative += float((apart / spread).sum())
        self.sum_difference += float(difference.sum())
        self.max_difference = max(self.max_difference, float(difference.max()))
        if not same.all():
            best = ours[~same].topk(2, dim=-1).values
            self.widest_flip = max(self.widest_flip, float((best[:, 0] - best[:, 1]).max()))
            self.differing.append(chat)

    def figures(self) -> dict[str, Any]:
        """What is reported: divergence in nats, differences in logits, shares from 0 to 1.

        The relative difference is of the logits at a position: of their distances from their mean, as a
        vector, by how much of its length the merge's is off.
        """
        return {
            "num_chats": self.num_chats,
            "num_positions": self.num_positions,
            "mean_divergence": self.sum_divergence / self.num_positions,
            "max_divergence": self.max_divergence,
            "relative_difference": self.sum_relative / self.num_positions,
            "mean_difference": self.sum_difference / self.num_values,
            "max_difference": self.max_difference,
            "same_tokens": self.num_same_tokens / self.num_positions,
            "same_answers": self.num_same_answers / self.num_chats,
            "widest_flip": self.widest_flip,
            "differing_chats": self.differing,
        }

    def check(self, bound: float, along: str) -> None:
        """Raises TrainingError where logits differ by more than this share of their spread, on the mean.

        `along` says in the message what was walked. Divergence is no measure of a merge: of a token that it
        is sure of an adapter diverges hardly from a bad one, and neither does it where all are as likely.
        """
        apart = self.sum_relative / self.num_positions
        if not apart <= bound:  # what is not a number is refused too
            same = self.num_same_tokens / self.num_positions
            off = f"its logits differ by {apart:.2g} of their spread, {along}"
            hint = f"{bound:g} may be; {same:.1%} of the next tokens are the same; try --dtype float16"
            raise TrainingError(f"the merge is no longer the adapter: {off}", hint=hint)


def _centred(logits: Any) -> Any:
    """Less their mean, which makes no difference to what is chosen."""
    return logits - logits.mean(-1, keepdim=True)
