"""What the refiner is trained on and measured by: drafts with a known right answer, from four origins.

`checked`: answers that an expert took for right, which must stay untouched. `corrupted`: the same, spoilt
in a known way. `rewritten`: drafts that an expert or a teacher wrote anew. `verdict`: what people said of
samples in a store. A section is wholly on one side of the held-out split, and nothing of the other side
goes into its drafts. Held in memory, counted in thousands. How they are learned is not decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, NamedTuple, get_args

from factory.corruption.case import Case, Elsewhere, Right, squeezed
from factory.corruption.kinds import OFF_SOURCE, corrupt, corruptions, mismatched
from factory.digests import digest
from factory.domain import Domain
from factory.errors import RecipeError
from factory.types import CheckedDraft, Source

Origin = Literal["checked", "corrupted", "rewritten", "verdict"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)
OK = "ok"
HELD_OUT_SHARE = 0.2


class Labelled(NamedTuple):
    """A draft, where its label comes from, and on which side of the split it is."""

    draft: CheckedDraft
    origin: Origin
    is_held_out: bool


@dataclass(frozen=True, slots=True)
class Mixture:
    """How much of what; the same values give the same drafts.

    `faults_each` corruptions of each right answer for training, `held_out_faults_each` to be measured by.
    Right answers are repeated for training until they are `clean_share` of it. `num_examples` limits the
    checked drafts that training starts from, of whatever kind; the held-out side stays as it is.
    """

    faults_each: int = 4
    held_out_faults_each: int = 2
    clean_share: float = 0.5
    held_out_share: float = HELD_OUT_SHARE
    num_examples: int | None = None
    seed: int = 0


def label(
    domain: Domain, mixture: Mixture, stored: Iterable[tuple[CheckedDraft, Origin]] = ()
) -> list[Labelled]:
    """All drafts of both sides: the recipe's own, those from a store, and the corruptions of right answers.

    Raises RecipeError where there is nothing to start from, or a draft is about no known section.
    """
    given = _distinct([*((draft, _origin_of(draft)) for draft in domain.drafts), *stored])
    if not given:
        hint = "`gold.refiner` holds checked drafts: id, question, answer, slice and source are enough"
        raise RecipeError("there is no checked draft to start from", where="gold.refiner", hint=hint)
    held_out_keys = held_out_sections({draft.source_key for draft, _ in given}, mixture)
    made: list[Labelled] = []
    for is_held_out in (False, True):
        side = [each for each in given if (each[0].source_key in held_out_keys) == is_held_out]
        if not is_held_out and mixture.num_examples is not None:
            side = sorted(side, key=lambda each: digest([mixture.seed, each[0].key]))[: mixture.num_examples]
        sources = [source for source in domain.sources if (source.key in held_out_keys) == is_held_out]
        drafts = _side(domain, mixture, side, sources, is_held_out)
        made += [Labelled(draft, origin, is_held_out) for draft, origin in drafts]
    return made


def held_out_sections(keys: Iterable[str], mixture: Mixture) -> set[str]:
    """The sections whose drafts are held out: by a hash of their keys, so that none changes sides later.

    At least one of two or more is held out, and one is not.
    """
    places = sorted((int(digest(["held out", mixture.seed, key], 12), 16) / 16**12, key) for key in set(keys))
    if len(places) < 2:
        return set()
    num = sum(place < mixture.held_out_share for place, _ in places)
    return {key for _, key in places[: min(max(num, 1), len(places) - 1)]}


def _side(
    domain: Domain,
    mixture: Mixture,
    given: Sequence[tuple[CheckedDraft, Origin]],
    sources: Sequence[Source],
    is_held_out: bool,
) -> Iterator[tuple[CheckedDraft, Origin]]:
    """All drafts of one side; nothing but its own sections and answers goes into them."""
    rights = list(_rights(domain, given))
    elsewhere = Elsewhere(sources, rights, domain.recipe.domain.citation_pattern)
    num_faults = mixture.held_out_faults_each if is_held_out else mixture.faults_each
    counts = Counter(draft.reason for draft, _ in given if draft.corrected != draft.answer)
    corrupted = list(_corrupted(mixture, rights, elsewhere, num_faults, counts))
    clean = {_identity(draft): (draft, origin) for draft, origin in given if draft.corrected == draft.answer}
    for right in rights:  # a corrected text is as right as one that needed no correction
        draft = _draft(right, f"{right.key}~right", right.question, right.answer, right.answer, OK)
        clean.setdefault(_identity(draft), (draft, "checked"))
    faulty = [(draft, origin) for draft, origin in given if draft.corrected != draft.answer]
    yield from clean.values()
    if not is_held_out and clean and 0 < mixture.clean_share < 1:
        wanted = round((len(faulty) + len(corrupted)) * mixture.clean_share / (1 - mixture.clean_share))
        yield from _repeated(list(clean.values()), wanted - len(clean))
    yield from faulty
    for draft in corrupted:
        yield draft, "corrupted"


def _repeated(
    clean: Sequence[tuple[CheckedDraft, Origin]], num: int
) -> Iterator[tuple[CheckedDraft, Origin]]:
    """So many drafts more, each with a key of its own."""
    for index in range(max(num, 0)):
        draft, origin = clean[index % len(clean)]
        yield replace(draft, key=f"{draft.key}#{index // len(clean) + 2}"), origin


def _rights(domain: Domain, given: Iterable[tuple[CheckedDraft, Origin]]) -> Iterator[Right]:
    """Every right answer to a question, each once: as it was, or as it was corrected."""
    seen: set[tuple[str, str, str]] = set()
    for draft, _ in given:
        source = domain.source_by_key.get(draft.source_key)
        if source is None:
            what = f"draft '{draft.key}' names no known section: '{draft.source_key}'"
            raise RecipeError(what, where="gold.refiner")
        if draft.corrected is not None and draft.question.strip():
            identity = (source.key, squeezed(draft.question), squeezed(draft.corrected))
            if identity not in seen:
                seen.add(identity)
                yield Right(draft.key, draft.question, draft.corrected, source)


def _corrupted(
    mixture: Mixture, rights: Sequence[Right], elsewhere: Elsewhere, num_each: int, counts: Counter[str]
) -> Iterator[CheckedDraft]:
    """Up to so many corruptions of each right answer, of the kinds that there are fewest of so far."""
    kinds = corruptions()
    answers: dict[str, set[str]] = {}
    questions: dict[str, set[str]] = {}
    for right in rights:
        answers.setdefault(right.source.key, set()).add(squeezed(right.answer))
        questions.setdefault(right.source.key, set()).add(squeezed(right.question))
    for right in sorted(rights, key=lambda each: digest([mixture.seed, each.key, each.question])):
        case = Case(right.question, right.answer, right.source, elsewhere)
        num_made = 0
        for kind in sorted(
            [*kinds, OFF_SOURCE], key=lambda kind: (counts[kind], _draw(mixture, right, kind))
        ):
            if num_made == num_each:
                break
            rng = Random(_draw(mixture, right, kind))  # noqa: S311 (no secret)
            key = f"{right.key}~{kind}"
            if kind == OFF_SOURCE:
                found = mismatched(case, rng, questions[right.source.key])
                draft = _draft(right, key, found[0], found[1], None, kind) if found else None
            else:
                text = corrupt(kind, kinds[kind], case, rng, answers[right.source.key])
                draft = _draft(right, key, right.question, text, right.answer, kind) if text else None
            if draft is not None:
                counts[kind] += 1
                num_made += 1
                yield draft


def _draw(mixture: Mixture, right: Right, kind: str) -> str:
    """What chance rests on: the seed, the case and the kind, and nothing that other cases change."""
    return digest([mixture.seed, right.key, right.question, right.answer, kind])


def _draft(
    right: Right, key: str, question: str, answer: str, corrected: str | None, reason: str
) -> CheckedDraft:
    return CheckedDraft(key, question, answer, corrected, reason, right.source.key, right.source.slice)


def _origin_of(draft: CheckedDraft) -> Origin:
    return "checked" if draft.corrected == draft.answer else "rewritten"


def _identity(draft: CheckedDraft) -> tuple[str, str, str]:
    return draft.source_key, squeezed(draft.question), squeezed(draft.answer)


def _distinct(given: Iterable[tuple[CheckedDraft, Origin]]) -> list[tuple[CheckedDraft, Origin]]:
    """Each draft once: people's verdicts before the recipe's drafts before what a teacher rewrote."""
    rank = {"verdict": 0, "checked": 1, "rewritten": 1}
    found: dict[tuple[str, str, str], tuple[CheckedDraft, Origin]] = {}
    for draft, origin in sorted(given, key=lambda each: rank[each[1]]):
        found.setdefault(_identity(draft), (draft, origin))
    return list(found.values())
