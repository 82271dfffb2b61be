"""Proof that a served adapter is the one that is meant, and not its base under another name.

Three things are looked at, since each can be right while another is wrong: the files on disk have the digest
of what was trained; the endpoint lists the adapter as one of a base, loaded from such files; it answers
otherwise than that base, or its weights are so small that it need not. Where one of them does not hold a
FactoryError is raised. Who is asked what afterwards is not here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from factory.errors import EndpointError, FactoryError, ServerError
from factory.models.change import largest_change
from factory.models.endpoints import DOWN
from factory.models.identity import digest_adapter
from factory.models.listing import Listed, find_adapter
from factory.types import Completion, GoldItem, Message, Request, Sampling

if TYPE_CHECKING:
    from factory.ports import Model

NUM_PROBES: Final = 3
NOISE_TIMES: Final = 4.0  # how far beyond the base's own unrest an answer is another one
LEAST_NATS: Final = 1e-6
LEAST_CHANGE: Final = 1e-4  # of a weight; bfloat16 tells weights of 0.02 apart by about as much
HINT: Final = "restart that server, so that the adapter is loaded anew"


class Place(Protocol):
    """One place where a model answers, which can be asked what else it serves."""

    name: str

    async def complete(self, request: Request) -> Completion: ...

    async def list_models(self) -> dict[str, Listed]: ...

    async def address(self) -> tuple[str, str]: ...

    def beside(self, name: str) -> Place: ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found of an adapter; `digest` is that of its weights, `content` of all that decides answers.

    `difference` is the largest one, in nats, of a token's log-probability from that of the base, over
    `num_tokens` of answers that were given; `largest_change` bounds how much the adapter changes a weight.
    None: not known.
    `served_as` is empty where nobody could be asked, and `note` says why.
    """

    digest: str
    content: str
    served_as: str = ""
    difference: float | None = None
    num_tokens: int = 0
    largest_change: float | None = None
    note: str = ""


def read_proof(folder: Path) -> Proof:
    """The digests of the files on disk, read anew; raises FactoryError where they are no adapter."""
    try:
        return Proof(*digest_adapter(folder))
    except (OSError, ValueError, TypeError) as error:
        raise FactoryError(f"the adapter cannot be read: {error}", where=str(folder)) from None


def refuse_if_changed(proof: Proof, folder: Path) -> None:
    """Raises FactoryError where the files are others than when they were loaded: vLLM may load them again."""
    now = read_proof(folder)
    if now.content != proof.content:
        what = (
            f"the adapter was changed on disk after it was loaded (digest {proof.digest}, now {now.digest})"
        )
        raise FactoryError(
            what, where=str(folder), hint="put the files back, or evaluate the changed ones anew"
        )


async def prove(model: Model, proof: Proof, folder: Path, probes: Sequence[GoldItem]) -> Proof:
    """The proof with what every place said that answers for the model; one that is down is left out.

    `probes` are items whose checked answers are given to adapter and base, to see how likely they hold them.
    """
    refuse_if_changed(proof, folder)
    places: Sequence[Any] = getattr(model, "replicas", (model,))
    if not all(hasattr(place, "list_models") for place in places):
        note = "the server is asked in batches or is a script: only the files were checked"
        return Proof(proof.digest, proof.content, note=note)
    found = await asyncio.gather(
        *[_prove_at(place, proof, folder, probes) for place in places], return_exceptions=True
    )
    proofs = [each for each in found if isinstance(each, Proof)]
    for each in found:
        is_down = isinstance(each, ServerError) or getattr(each, "kind", "") in DOWN
        if isinstance(each, BaseException) and not (is_down and proofs):
            raise each
    return min(proofs, key=lambda each: each.difference or 0.0)


async def _prove_at(place: Place, proof: Proof, folder: Path, probes: Sequence[GoldItem]) -> Proof:
    listed = find_adapter(await place.list_models(), place.name, str(folder))
    _check_root(listed, proof, folder)
    base = place.beside(listed.parent or "")
    try:
        told = [await _likelihoods(each, probes) for each in (base, place, base)]
    except EndpointError as error:
        if error.kind not in ("refused", "malformed"):
            raise
        note = f"not compared with the answers of the base: {error}"
        return Proof(proof.digest, proof.content, listed.name, note=note)
    finally:
        await base.close()
    noise, difference = _apart(told[0], told[2]), _apart(told[0], told[1])
    change = largest_change(folder)
    note = "" if difference > max(LEAST_NATS, NOISE_TIMES * noise) else _explain(listed, change, folder)
    return Proof(proof.digest, proof.content, listed.name, difference, len(told[0]), change, note)


def _check_root(listed: Listed, proof: Proof, folder: Path) -> None:
    """The folder that the endpoint names may be another one, if it holds the same."""
    try:
        content = digest_adapter(Path(listed.root or ""))[1]
    except (OSError, ValueError, TypeError):
        content = None
    if content != proof.content:
        what = f"'{listed.name}' was loaded from {listed.root}, which does not hold this adapter"
        raise FactoryError(what, where=str(folder), hint=HINT)


def _explain(listed: Listed, change: float | None, folder: Path) -> str:
    """Why an adapter may answer as its base does; raises FactoryError where it may not."""
    if change is not None and change <= LEAST_CHANGE:
        return f"it answers as its base does: the adapter changes no weight by more than {change:.2g}"
    size = "" if change is None else f", though the adapter changes weights by up to {change:.2g}"
    what = f"what is served as '{listed.name}' answers as its base '{listed.parent}' does{size}"
    raise FactoryError(what, where=str(folder), hint=HINT)


async def _likelihoods(place: Place, probes: Sequence[GoldItem]) -> list[float]:
    """The log-probabilities of the tokens of the probes' checked answers, one probe after another."""
    found: list[float] = []
    for item in probes:
        messages = (*item.before, Message("user", item.question), Message("assistant", item.answer))
        request = Request("probe", messages, None, Sampling(max_tokens=1), given=True)
        answer = await place.complete(request)
        found += [token.logprob for token in answer.logprobs or ()]
    return found


def _apart(one: Sequence[float], other: Sequence[float]) -> float:
    if len(one) != len(other):  # the same text has the same tokens
        return float("inf")
    return max((abs(a - b) for a, b in zip(one, other, strict=True)), default=0.0)


def choose_probes(items: Sequence[GoldItem]) -> list[GoldItem]:
    """The shortest items with an answer, which fit wherever the others do."""
    answered = [item for item in items if item.answer.strip()]
    return sorted(answered, key=lambda item: (len(item.question) + len(item.answer), item.key))[:NUM_PROBES]
