"""The tokens of an answer with their probabilities: read from a chat completion, and packed for the store.

What is kept is as little as can be read from later: alternatives that were out of the question are left out,
and logarithms are rounded. What the probabilities say is in factory.probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

LEAST_LOGPROB: Final = -9.2  # an alternative below one in ten thousand is none
DECIMALS: Final = 4
MOST_UNLIKELY: Final = -1e4  # what was forbidden has -9999 at vLLM, and minus infinity elsewhere


class Token(NamedTuple):
    """A piece of an answer with its natural log probability, and `others` that could have stood there.

    A character that is spread over several tokens of the model counts as one, without others.
    """

    text: str
    logprob: float
    others: tuple[tuple[str, float], ...] = ()


def read_tokens(logprobs: Any, text: str) -> tuple[Token, ...] | None:
    """The tokens that make up `text`, from the `logprobs` of a choice; None where none are given.

    What the model wrote around the text, such as its reasoning and the sign that it is done, is cut off.
    None also where the text is not what the tokens say, and where it is no list of tokens: the answer was
    paid for, and does without.
    """
    try:
        content = logprobs.get("content") if logprobs else None
        found = list(_whole_characters(content)) if content and text else []
    except (TypeError, ValueError, LookupError, AttributeError):
        return None
    if not found:
        return None
    start = "".join(token.text for token in found).rfind(text)
    return tuple(_within(found, start, start + len(text))) if start >= 0 else None


def read_given(prompt: Any, answer: str) -> tuple[Token, ...]:
    """The tokens of an answer that ends a prompt, from a list of vLLM's `prompt_logprobs`.

    They are counted off from the end, where their texts make up the answer but for white space, which some
    tokenizers lose at the beginning of a token. White space that begins the answer may be the template's, and
    is left to it. Raises ValueError where the prompt does not end with the answer.
    """
    wanted, found = "".join(answer.split()), list[Token]()
    end = len(wanted)
    try:
        for place in reversed(prompt):
            token = _first(place) if place else None
            if token is None or not (end or _completes(token, found)):
                break
            piece = "".join(token.text.split())
            if not wanted.endswith(piece, 0, end):
                break
            end -= len(piece)
            found.append(token)
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError("no list of tokens with probabilities") from error
    if end or not found:
        raise ValueError("the tokens of the prompt do not end with the answer")
    return tuple(reversed(found))


def pack(tokens: Iterable[Token] | None) -> list[Any] | None:
    """Tokens as JSON, each as short as it can be."""
    if tokens is None:
        return None
    return [[text, logprob, dict(others)] if others else [text, logprob] for text, logprob, others in tokens]


def unpack(packed: Sequence[Any] | None) -> tuple[Token, ...] | None:
    """The tokens that `pack` was given."""
    if packed is None:
        return None
    return tuple(Token(item[0], item[1], tuple(item[2].items()) if item[2:] else ()) for item in packed)


def _first(place: Mapping[str, Any]) -> Token:
    """The prompt's own token at a place; what is likelier may stand after it."""
    given = next(iter(place.values()))
    return Token(str(given["decoded_token"]), round(_logprob(given["logprob"]), DECIMALS) or 0.0)


def _completes(token: Token, after: Sequence[Token]) -> bool:
    """Whether a token without text is the beginning of a character that the next ones complete (vLLM)."""
    character = next((each.text[:1] for each in reversed(after) if each.text), "")
    return not token.text and not character.isascii()


def _whole_characters(content: Sequence[Any]) -> Iterator[Token]:
    """Every token, those that end within a character joined with what completes it.

    Such a token says nothing yet (vLLM), or has bytes that are no text (OpenAI).
    """
    pending, logprob, is_joined = b"", 0.0, False
    for item in content:
        text, given = item["token"], _logprob(item["logprob"])
        if pending or "\ufffd" in text:
            pending += _bytes(item)
            try:
                text = pending.decode()
            except UnicodeDecodeError:
                text = ""
        if not text:
            logprob, is_joined = logprob + given, True
            continue
        others = () if is_joined else tuple(_others(item, text))
        yield Token(text, round(logprob + given, DECIMALS) or 0.0, others)
        pending, logprob, is_joined = b"", 0.0, False
    if pending:
        yield Token(pending.decode(errors="replace"), round(logprob, DECIMALS))


def _others(item: Any, text: str) -> Iterator[tuple[str, float]]:
    seen = {text, ""}
    for other in item.get("top_logprobs") or ():
        logprob = _logprob(other["logprob"])
        if logprob >= LEAST_LOGPROB and (said := other["token"]) not in seen:
            seen.add(said)
            yield said, round(logprob, DECIMALS)


def _logprob(value: Any) -> float:
    """As a finite number of zero at most; raises TypeError or ValueError for what is none."""
    number = float(value)
    if math.isnan(number):
        raise ValueError("not a number")
    return max(MOST_UNLIKELY, min(0.0, number))


def _bytes(item: Any) -> bytes:
    """What a token says, of which its text may hold half."""
    given = item.get("bytes")
    return bytes(given) if given is not None else str(item["token"]).encode("utf-8", "replace")


def _within(tokens: Iterable[Token], start: int, end: int) -> Iterator[Token]:
    """The tokens of a stretch of the text; one that reaches over its edge is cut, and has no others."""
    at = 0
    for token in tokens:
        low, high, at = max(start - at, 0), min(end - at, len(token.text)), at + len(token.text)
        if low < high:
            is_whole = (low, high) == (0, len(token.text))
            yield token if is_whole else Token(token.text[low:high], token.logprob)
