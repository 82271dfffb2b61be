"""Proof that a served adapter is the one that is meant, and not its base under another name.

Three things are looked at, since each can be right while another is wrong: the files on disk have the digest
of what was trained; the endpoint lists the adapter as one of a base, loaded from such files; it answers
otherwise than that base, or its weights are so small that it need not. Where one of them does not hold a
FactoryError is raised. A proof is about what is served now: no answer of the store counts. Who is asked what
afterwards is not here.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from factory.errors import EndpointError, FactoryError, InputError, ServerError
from factory.models.change import largest_change
from factory.models.endpoints import DOWN
from factory.models.identity import digest_adapter
from factory.models.listing import Listed, find_adapter
from factory.types import Completion, GoldItem, Message, Request, Sampling

if TYPE_CHECKING:
    from factory.ports import Ask, Model

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

    def beside(self, name: str, model_id: str) -> Place: ...

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


@dataclass(frozen=True, slots=True)
class Probing:
    """The items whose checked answers adapter and base are given, how a place is asked, and the base's id."""

    items: Sequence[GoldItem]
    ask_at: Callable[[Any], Ask]
    base_id: str


def read_proof(folder: Path) -> Proof:
    """The digests of the files on disk, read anew; raises InputError where they are no adapter."""
    try:
        return Proof(*digest_adapter(folder))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"the adapter cannot be read: {error}", where=str(folder)) from None


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


async def prove(model: Model, proof: Proof, folder: Path, probing: Probing) -> Proof:
    """The proof with what every place said that answers for the model; one that is down is left out.

    What it asks is stored and counted as every call is. Raises BudgetExceeded too.
    """
    refuse_if_changed(proof, folder)
    places = _places(model)
    if not places:
        note = "the server is asked in batches or is a script: only the files were checked"
        return Proof(proof.digest, proof.content, note=note)
    found = await asyncio.gather(
        *[_prove_at(place, proof, folder, probing) for place in places], return_exceptions=True
    )
    proofs = [each for each in found if isinstance(each, Proof)]
    for each in found:
        if isinstance(each, BaseException) and not (_is_down(each) and proofs):
            raise each
    return min(proofs, key=lambda each: each.difference or 0.0)


async def look(model: Model) -> list[tuple[tuple[str, str], Listed | None] | None]:
    """What every place says of itself, None where it is down; a server says otherwise once it came back."""
    return await asyncio.gather(*map(_look_at, _places(model)))


async def _look_at(place: Place) -> tuple[tuple[str, str], Listed | None] | None:
    try:
        listed = await place.list_models()
        return await place.address(), listed.get(place.name)
    except (EndpointError, ServerError) as error:
        if not _is_down(error):
            raise
        return None


def _places(model: Model) -> Sequence[Any]:
    """Where a model answers; none where it cannot be asked what it serves."""
    places: Sequence[Any] = getattr(model, "replicas", (model,))
    return places if all(hasattr(place, "list_models") for place in places) else ()


def _is_down(error: BaseException) -> bool:
    return isinstance(error, ServerError) or getattr(error, "kind", "") in DOWN


async def _prove_at(place: Place, proof: Proof, folder: Path, probing: Probing) -> Proof:
    """What one place says. It may be busy with other work meanwhile, and answer a little otherwise each time.

    So both are asked twice, in turns: a base under two names would vary as much as it seems to differ.
    """
    listed = find_adapter(await place.list_models(), place.name, str(folder))
    _check_root(listed, proof, folder)
    base = place.beside(listed.parent or "", probing.base_id)
    try:
        told = [await _likelihoods(probing.ask_at(each), probing.items) for each in (base, place) * 2]
    except EndpointError as error:
        if error.kind not in ("refused", "malformed"):
            raise
        note = f"not compared with the answers of the base: {error}"
        return Proof(proof.digest, proof.content, listed.name, note=note)
    finally:
        await base.close()
    noise = max(_apart(told[0], told[2]), _apart(told[1], told[3]))
    difference = min(_apart(of_base, own) for of_base in told[::2] for own in told[1::2])
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


async def _likelihoods(ask: Ask, items: Sequence[GoldItem]) -> list[float]:
    """The log-probabilities of the tokens of the items' checked answers, one item after another."""
    found: list[float] = []
    for item in items:
        messages = (*item.before, Message("user", item.question), Message("assistant", item.answer))
        anew = secrets.randbits(53)  # an ordinal that no stored answer has
        answer = await ask(messages, sampling=Sampling(max_tokens=1), ordinal=anew, given=True)
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
