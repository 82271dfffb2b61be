"""What the probabilities of an answer's tokens say about a choice in it, or about other words in its place.

A place is a character of the answer; the token there and what else the model held possible are found by
walking the tokens, whose texts make up the answer. Choices need not begin with a token: what stands before
one in its token must be equal. Only alternatives that came with the answer count, so that a sum is a lower
bound. Nothing is known here of what the answer means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate

from factory.tokens import Token


def choice_at(tokens: Sequence[Token], place: int, choices: Sequence[str]) -> dict[str, float] | None:
    """The probability of each choice as what begins at `place`, normalised over all choices.

    A token counts for the one choice that it begins, or begins with. None where there is no such token.
    """
    at, before = _find(tokens, place)
    if at is None:
        return None
    mass = dict.fromkeys(choices, 0.0)
    for text, probability in _held_possible(tokens[at], before):
        fitting = [choice for choice in choices if choice.startswith(text) or text.startswith(choice)]
        if len(fitting) == 1:
            mass[fitting[0]] += probability
    total = sum(mass.values())
    return {choice: found / total for choice, found in mass.items()} if total else None


def likelihood_of(tokens: Sequence[Token], place: int, text: str) -> float | None:
    """The probability of `text` at `place`: the product over its tokens, as far as the answer agrees with it.

    Where they part, the alternatives that go on with `text` count, and what would follow them is taken for
    certain. None where there is no such token.
    """
    at, before = _find(tokens, place)
    if at is None:
        return None
    product, left = 1.0, text
    for token in tokens[at:]:
        (said, probability), *others = list(_held_possible(token, before)) or [("", 0.0)]
        if not left.startswith(said):
            going_on = (p for other, p in others if left.startswith(other) or other.startswith(left))
            agrees = said.startswith(left)
            return product * (probability if agrees else math.fsum(going_on))
        product, left, before = product * probability, left[len(said) :], ""
        if not left:
            break
    return product


def _find(tokens: Sequence[Token], place: int) -> tuple[int | None, str]:
    """The token that holds a character, and what stands in it before that character."""
    for at, end in enumerate(accumulate(len(token.text) for token in tokens)):
        if place < end:
            return at, tokens[at].text[: place - (end - len(tokens[at].text))]
    return None, ""


def _held_possible(token: Token, before: str) -> Iterator[tuple[str, float]]:
    """What the token and its alternatives say after `before`, with their probabilities; itself first."""
    for text, logprob in ((token.text, token.logprob), *token.others):
        if text.startswith(before) and len(text) > len(before):
            yield text[len(before) :], math.exp(logprob)
