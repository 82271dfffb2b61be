"""Argilla's records, without its package: a sample as one, and the verdicts in one.

As version 2.8 of `argilla` has them in `Record.to_dict`: texts in `fields`, answers of people in `responses`
by question and user id, those of models in `suggestions`. Users are UUIDs there and names here, so a record
of ours names its users in its metadata. Nothing is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from factory.errors import InputError
from factory.store.text import escape, restore
from factory.store.verdicts import slug

VERDICT: Final = "verdict"  # the questions; `verdict` is one of keep, edit and drop
REASON: Final = "reason"
CORRECTED: Final = "corrected"
REVIEWERS: Final = "reviewers"  # metadata: "user id name" for each
UNSPECIFIED: Final = "unspecified"
UNDONE: Final = ("draft", "discarded")  # states of answers that say nothing


def user_id(reviewer: str) -> str:
    """The id under which a reviewer of ours answers, the same in every file."""
    return str(uuid5(NAMESPACE_URL, f"dataset-factory/reviewer/{escape(reviewer)}"))


def record(
    sample: Mapping[str, Any],
    said: Sequence[Mapping[str, Any]],
    section: str | None,
    decided: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """A sample with the verdicts that stand, and the run's own decision as a suggestion."""
    fields = {"question": sample["question"], "answer": sample["answer"]}
    responses: dict[str, list[dict[str, Any]]] = {}
    for verdict in said:
        answers = {VERDICT: verdict["action"], REASON: verdict["reason"], CORRECTED: verdict["corrected"]}
        for name, value in answers.items():
            if value is not None:
                responses.setdefault(name, []).append(
                    {"value": value, "user_id": user_id(restore(verdict["reviewer"]))}
                )
    suggested = decided and {"rewrite": "edit"}.get(decided["action"], decided["action"])
    named = [f"{user_id(restore(verdict['reviewer']))} {verdict['reviewer']}" for verdict in said]
    about = {name: sample[name] for name in ("slice", "strategy", "operation", "run_id", "round")}
    return {
        "id": sample["id"],
        "fields": fields | ({"source": section} if section else {}),
        "metadata": {**about, REVIEWERS: named},
        "suggestions": {VERDICT: {"value": suggested, "score": None, "agent": decided["refiner"]}}
        if decided
        else {},
        "responses": responses,
        "vectors": {},
        "status": "pending",
        "_server_id": None,
    }


def read_record(given: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """The verdicts in a record as rows, each with whether its reviewer's name is known.

    A row that says nothing clear is yielded as it is, and refused by whoever writes it.
    """
    responses = given["responses"] if isinstance(given["responses"], Mapping) else {}
    names = dict(_names(given.get("metadata")))
    others = {name: dict(_answers(responses.get(name))) for name in (REASON, CORRECTED)}
    for user, action in _answers(responses.get(VERDICT)):
        corrected = others[CORRECTED].get(user) if action == "edit" else None
        reason = others[REASON].get(user) or ("ok" if action == "keep" else UNSPECIFIED)
        row = {
            "sample_id": given.get("id"),
            "reviewer": names.get(user, user),
            "action": action,
            "reason": _slug(reason),
            "corrected": corrected,
        }
        yield row, user in names


def _answers(given: Any) -> Iterator[tuple[str, Any]]:
    """User id and value of each answer that was given for good."""
    for each in given if isinstance(given, list) else ():
        if isinstance(each, Mapping) and each.get("status") not in UNDONE:
            yield str(each.get("user_id") or ""), each.get("value")


def _names(metadata: Any) -> Iterator[tuple[str, str]]:
    named = metadata.get(REVIEWERS) if isinstance(metadata, Mapping) else None
    for each in named if isinstance(named, list) else ():
        user, _, name = str(each).partition(" ")
        if name and user == user_id(name):  # one that somebody put there is no proof
            yield user, name


def _slug(reason: Any) -> Any:
    try:
        return slug(reason) if isinstance(reason, str) else reason
    except InputError:
        return UNSPECIFIED
