"""Edits as data: a few exact replacements that lead from one text to another.

Nobody writes edits by hand. An expert (or the teacher) writes the corrected text, `diff` turns it into
operations, and the refiner is trained to answer with them (`target`, `EDIT_SCHEMA`). `apply` finds every
`old` in the text as it was given, all at once, so the order of operations does not matter; it refuses
rather than guesses. Which sample is edited, and what follows from it, is not decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Literal, NamedTuple

from factory.errors import FactoryError
from factory.types import CheckedDraft, Json

REWRITE_SHARE = 0.5  # above this share of new text an answer is written anew instead of edited
MAX_OPS = 8
# Reasons by what they find fault with; so do all that begin with "wrong_", "malformed_" or "broken_".
UNGROUNDED = frozenset({"wrong_quantity", "wrong_citation", "off_source", "negated", "dropped_condition"})
ILL_FORMED = frozenset({"malformed_citation", "truncated", "broken_form"})

# The verdict comes first: a small model decides before it argues, and a cut answer still has it.
EDIT_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["keep", "edit", "rewrite", "drop"]},
        "reason": {"type": "string", "maxLength": 40},
        "ops": {
            "type": "array",
            "maxItems": MAX_OPS,
            "items": {
                "type": "object",
                "properties": {
                    "op": {"type": "string", "enum": ["replace", "insert", "delete"]},
                    "old": {"type": "string"},
                    "new": {"type": "string"},
                },
                "required": ["op", "old", "new"],
                "additionalProperties": False,
            },
        },
        "rewrite": {"type": ["string", "null"]},
        "scores": {
            "type": "object",
            "properties": {
                "grounded": {"type": "integer", "enum": [0, 1]},
                "form": {"type": "integer", "enum": [0, 1]},
            },
            "required": ["grounded", "form"],
            "additionalProperties": False,
        },
    },
    "required": ["verdict", "reason", "ops", "rewrite", "scores"],
    "additionalProperties": False,
}


class Op(NamedTuple):
    """One operation; `old` occurs exactly once in the text. `insert` puts `new` right after `old`."""

    op: Literal["replace", "insert", "delete"]
    old: str
    new: str


class EditRefused(FactoryError):
    """Operation `index` (from 0) cannot be applied: `reason` is absent, ambiguous or overlapping."""

    def __init__(self, index: int, reason: str, old: str) -> None:
        super().__init__(f"edit operation {index} is {reason}: '{old[:60]}'")
        self.index = index
        self.reason = reason


class Span(NamedTuple):
    """A changed stretch: old[a:b] becomes new[c:d]. What lies between two spans is equal."""

    a: int
    b: int
    c: int
    d: int


def apply(ops: Sequence[Op], text: str) -> str:
    """`text` after all operations; raises EditRefused where an `old` is not found exactly once."""
    places = []
    for index, op in enumerate(ops):
        start = text.find(op.old)
        if start < 0:
            raise EditRefused(index, "absent", op.old)
        if text.find(op.old, start + 1) >= 0:
            raise EditRefused(index, "ambiguous", op.old)
        places.append((start, start + len(op.old), index))
    places.sort()
    for (_, end, _), (start, _, index) in pairwise(places):
        if start < end:
            raise EditRefused(index, "overlapping", ops[index].old)
    parts, at = [], 0
    for start, end, index in places:
        op = ops[index]
        kept = op.old if op.op == "insert" else ""
        parts += [text[at:start], kept, "" if op.op == "delete" else op.new]
        at = end
    return "".join([*parts, text[at:]])


def diff(old_text: str, new_text: str) -> list[Op]:
    """The operations from `old_text` to `new_text`, in order of place; [] when the texts are equal.

    Words are compared, not characters; a word that differs in one number alone gives that number. Each
    `old` is then extended by neighbouring words until it occurs exactly once, so that
    apply(diff(a, b), a) == b for all texts.
    """
    changed = list(_changed_words(old_text, new_text))
    spans = _make_unique(old_text, changed)
    insertions = {span.b for span in changed if span.a == span.b}
    return [_name(span, span.b in insertions, old_text, new_text) for span in spans]


def target(draft: CheckedDraft, *, restate: bool = False) -> Json:
    """What the refiner should answer about a checked draft, with the keys in EDIT_SCHEMA's order.

    With `restate` it always replaces the whole answer, by itself where it is right: copying is left to
    the model, and comparing to `apply`.
    """
    corrected = draft.corrected
    ops: list[Op] = []
    if corrected is None:
        verdict = "drop"
    elif restate:
        verdict, ops = "edit", [Op("replace", draft.answer, corrected)]
    elif corrected == draft.answer:
        verdict = "keep"
    elif draft.reason == "truncated" or share_new(draft.answer, corrected) > REWRITE_SHARE:
        verdict = "rewrite"
    else:
        ops = diff(draft.answer, corrected)
        verdict = "edit" if len(ops) <= MAX_OPS else "rewrite"
    return {
        "verdict": verdict,
        "reason": "restated" if restate and ops else draft.reason,
        "ops": [op._asdict() for op in ops] if verdict == "edit" else [],
        "rewrite": corrected if verdict == "rewrite" else None,
        "scores": {
            "grounded": int(draft.reason not in UNGROUNDED and not draft.reason.startswith("wrong_")),
            "form": int(
                draft.reason not in ILL_FORMED and not draft.reason.startswith(("malformed_", "broken_"))
            ),
        },
    }


def share_new(old_text: str, new_text: str) -> float:
    """The share of `new_text`'s characters that `old_text` does not offer in the same order."""
    old, new = (re.findall(r"\w+|\s+|[^\w\s]", text) for text in (old_text, new_text))
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    kept = sum(len(piece) for block in blocks for piece in new[block.b : block.b + block.size])
    return 1 - kept / max(len(new_text), 1)


def _changed_words(old_text: str, new_text: str) -> Iterable[Span]:
    old, new = (re.findall(r"^\s+|\S+\s*", text) for text in (old_text, new_text))
    old_ends, new_ends = _offsets(old), _offsets(new)
    for tag, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag != "equal":
            span = Span(old_ends[i], old_ends[j], new_ends[k], new_ends[m])
            yield _only_number(_trim(span, old_text, new_text), old_text, new_text)


def _offsets(tokens: Sequence[str]) -> list[int]:
    """Where each token starts, and where the last one ends."""
    offsets = [0]
    for token in tokens:
        offsets.append(offsets[-1] + len(token))
    return offsets


def _trim(span: Span, old_text: str, new_text: str) -> Span:
    """The span without the words and spaces that both sides begin or end with."""
    a, b, c, d = span
    old, new = (re.findall(r"\s+|\S+", text) for text in (old_text[a:b], new_text[c:d]))
    while old and new and old[0] == new[0]:
        a, c = a + len(old.pop(0)), c + len(new.pop(0))
    while old and new and old[-1] == new[-1]:
        b, d = b - len(old.pop()), d - len(new.pop())
    return Span(a, b, c, d)


def _only_number(span: Span, old_text: str, new_text: str) -> Span:
    """The span of the one number in which two single words differ, or the span as it is."""
    split = re.compile(r"(\d+(?:[.,]\d+)*)").split
    old, new = split(old_text[span.a : span.b]), split(new_text[span.c : span.d])
    if old[::2] != new[::2] or any(re.search(r"\s", piece) for piece in old):
        return span
    differing = [i for i in range(1, len(old), 2) if old[i] != new[i]]
    if len(differing) != 1:
        return span
    at = differing[0]
    a, c = span.a + len("".join(old[:at])), span.c + len("".join(new[:at]))
    return Span(a, a + len(old[at]), c, c + len(new[at]))


def _make_unique(text: str, changed: Sequence[Span]) -> list[Span]:
    """The spans, each grown by neighbouring words until its old text occurs once; those that meet are one."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    spans, at = list(changed), 0
    while at < len(spans):
        low = spans[at - 1].b if at > 0 else 0
        high = spans[at + 1].a if at + 1 < len(spans) else len(text)
        if _occurs_once(text, spans[at]):
            at += 1
        elif (grown := _grow(text, spans[at], low, high, words)) != spans[at]:
            spans[at] = grown
        else:  # walled in by a neighbour: become one with it; a lone span ends as the whole text
            at = at if at + 1 < len(spans) else at - 1
            first, second = spans[at : at + 2]
            spans[at : at + 2] = [Span(first.a, second.b, first.c, second.d)]
    return spans


def _occurs_once(text: str, span: Span) -> bool:
    old = text[span.a : span.b]
    return (old != "" or text == "") and text.find(old, text.find(old) + 1) < 0


def _grow(text: str, span: Span, low: int, high: int, words: Sequence[tuple[int, int]]) -> Span:
    """The span as a whole word, or with a word more: on the one side that suffices, else on both."""
    for start, end in words:
        if start <= span.a < span.b <= end and (start, end) != (span.a, span.b):
            return Span(start, end, span.c - (span.a - start), span.d + (end - span.b))
    left = max([low, *(start for start, _ in words if start < span.a)])
    right = min([high, *(end for _, end in words if end > span.b)])
    before, after = span.a - left, right - span.b
    onto_left = Span(left, span.b, span.c - before, span.d)
    onto_right = Span(span.a, right, span.c, span.d + after)
    # New text is put after an anchor, so an insertion looks to its left first.
    for grown in (onto_left, onto_right) if span.a == span.b else (onto_right, onto_left):
        if _occurs_once(text, grown):
            return grown
    return Span(left, right, span.c - before, span.d + after)


def _name(span: Span, inserted: bool, old_text: str, new_text: str) -> Op:
    old, new = old_text[span.a : span.b], new_text[span.c : span.d]
    if not new:
        return Op("delete", old, "")
    if inserted and old and new.startswith(old):
        return Op("insert", old, new.removeprefix(old))
    return Op("replace", old, new)
