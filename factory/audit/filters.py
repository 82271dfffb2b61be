"""Which samples a page shows: the fields of its address, and the conditions in SQL that they stand for.

`step`, `did` and `reason` speak of one and the same decision, `fate` of the one that settled the sample;
where a run is chosen both are that run's. Values are bound, names of columns come from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

from factory.errors import InputError

FATES: Final = {
    "kept": "final AND action = 'keep'",
    "dropped": "final AND action = 'drop'",
    "superseded": "final AND action = 'rewrite'",
    "undecided": "final",
}
ACTIONS: Final = ("keep", "rewrite", "drop")
SORTS: Final = ("newest", "oldest", "high", "low")
COLUMNS: Final = ("round", "strategy", "operation", "slice")
MAX_WORDS: Final = 10
MAX_CHARACTERS: Final = 500  # of a field


class Elsewhere(NamedTuple):
    """Samples that have a row in another table, or have none."""

    table: str
    condition: str
    values: list[Any]
    is_none: bool = False

    @property
    def sql(self) -> str:
        """As a condition on `samples s`."""
        among = "NOT IN" if self.is_none else "IN"
        return f"s.id {among} (SELECT sample_id FROM {self.table} WHERE {self.condition})"  # noqa: S608 (ours)


class Where(NamedTuple):
    """Conditions on `samples s` with their values, and those on other tables.

    `is_cheap` where no other table and no text is read.
    """

    conditions: list[str]
    values: list[Any]
    elsewhere: list[Elsewhere]
    is_cheap: bool

    @property
    def all_conditions(self) -> list[str]:
        """Those on other tables after the others."""
        return [*self.conditions, *(each.sql for each in self.elsewhere)]

    @property
    def all_values(self) -> list[Any]:
        """The values of all conditions, in order."""
        return [*self.values, *(value for each in self.elsewhere for value in each.values)]


@dataclass(frozen=True, slots=True)
class Filters:
    """The fields as they stand in the address, each '' where it says nothing."""

    run: str = ""
    round: str = ""
    strategy: str = ""
    operation: str = ""
    slice: str = ""
    fate: str = ""
    step: str = ""
    did: str = ""
    reason: str = ""
    score: str = ""  # metric@scorer, or a metric by whomever
    at_least: str = ""
    at_most: str = ""
    below: str = ""
    key: str = ""
    value: str = ""
    dataset: str = ""
    text: str = ""
    sort: str = field(default="newest")

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Filters:
        """The filters of an address; raises InputError for what cannot be meant."""
        found = {
            each.name: given[each.name].strip() for each in fields(cls) if given.get(each.name, "").strip()
        }
        for name, text in found.items():
            if len(text) > MAX_CHARACTERS:
                raise InputError(f"at most {MAX_CHARACTERS} characters", where=name)
        _one_of("fate", found.get("fate", ""), FATES)
        _one_of("did", found.get("did", ""), ACTIONS)
        _one_of("sort", found.get("sort", ""), SORTS)
        filters = cls(**found)
        filters.numbers()
        if filters.sort in ("high", "low") and not filters.score:
            raise InputError("sorting by a score needs one", where="sort", hint="choose a score above")
        if filters.value and not filters.key:
            raise InputError("a value needs the attribute that has it", where="value")
        if len(filters.words) > MAX_WORDS:
            raise InputError(f"at most {MAX_WORDS} words", where="text")
        return filters

    def numbers(self) -> tuple[int | None, list[tuple[str, float]]]:
        """Round, and the bounds of the score by sign; raises InputError where one is no number."""
        if (self.at_least or self.at_most or self.below) and not self.score:
            raise InputError("a range needs the score that lies in it", where="score")
        names = (("at_least", ">="), ("at_most", "<="), ("below", "<"))
        bounds = [(sign, _number(name, text)) for name, sign in names if (text := getattr(self, name))]
        return _number("round", self.round, int), bounds

    @property
    def words(self) -> list[str]:
        """What is searched for, each word in question or answer."""
        return self.text.split()

    @property
    def metric(self) -> tuple[str, str]:
        """Metric and scorer; '' for any scorer."""
        metric, _, scorer = self.score.partition("@")
        return metric, scorer

    def address(self, **changes: Any) -> str:
        """The address of the list with these filters; `changes` are fields set, or left out where ''."""
        pairs = {each.name: getattr(self, each.name) for each in fields(self)} | {
            name: str(value) for name, value in changes.items()
        }
        defaults = {"sort": "newest"}
        query = urlencode(
            {name: value for name, value in pairs.items() if value and value != defaults.get(name)}
        )
        return "/samples" + (f"?{query}" if query else "")

    @property
    def chosen(self) -> list[tuple[str, str]]:
        """The fields that narrow the list, for the links that leave one out."""
        names = (each.name for each in fields(self) if each.name != "sort")
        return [(name, text) for name in names if (text := getattr(self, name))]

    @property
    def has_more(self) -> bool:
        """Whether a field is used that the page folds away."""
        return any(name not in ("text", "slice", "fate") for name, _ in self.chosen)

    def where(self, has_one_run: bool, outcomes: str = "decisions") -> Where:
        """The conditions; in a workspace with one run its name is one of the sample's own columns.

        `outcomes` is the table or view that says what became of samples.
        """
        conditions: list[str] = []
        values: list[Any] = []

        def add(sql: str, *bound: Any) -> None:
            conditions.append(sql)
            values.extend(bound)

        number, bounds = self.numbers()
        for name in COLUMNS:
            if text := getattr(self, name):
                add(f"s.{name} = ?", number if name == "round" else text)
        if self.key:
            pointer = "/" + self.key.replace("~", "~0").replace("/", "~1")
            has = "json_extract_string(s.attributes, ?)"
            add(*((f"{has} = ?", pointer, self.value) if self.value else (f"{has} IS NOT NULL", pointer)))
        is_cheap = not self.words
        for word in self.words:
            has = "contains(lower(s.{}), lower(?))"
            add(f"({has.format('question')} OR {has.format('answer')})", word, word)
        if self.run and has_one_run:
            add("s.run_id = ?", self.run)
        elif self.run and not self._is_of_run:
            is_cheap = False
            add(
                """(s.run_id = ? OR s.id IN (SELECT sample_id FROM round_samples WHERE run_id = ?)
                    OR s.id IN (SELECT sample_id FROM decisions WHERE run_id = ?))""",
                *[self.run] * 3,
            )
        elsewhere = self._elsewhere(bounds, outcomes, by_run=not has_one_run)
        return Where(conditions, values, elsewhere, is_cheap and not elsewhere)

    @property
    def _is_of_run(self) -> bool:
        """Whether a decision or score of the run is asked for, which none but its samples have."""
        return bool(self.fate not in ("", "undecided") or self.step or self.did or self.reason or self.score)

    def _elsewhere(self, bounds: list[tuple[str, float]], outcomes: str, *, by_run: bool) -> list[Elsewhere]:
        """The conditions on other tables."""
        of_run = " AND run_id = ?" if self.run and by_run else ""
        run = [self.run] if of_run else []
        found: list[Elsewhere] = []
        if self.fate:
            found.append(
                Elsewhere(outcomes, FATES[self.fate] + of_run, [*run], is_none=self.fate == "undecided")
            )
        decided = {"refiner": self.step, "action": self.did, "reason": self.reason}
        if any(decided.values()):
            names = [name for name, text in decided.items() if text]
            same = " AND ".join(f"{name} = ?" for name in names)
            found.append(Elsewhere(outcomes, same + of_run, [*(decided[name] for name in names), *run]))
        if self.score:
            condition, values = self.scores(of_run, run)
            condition += "".join(f" AND value {sign} ?" for sign, _ in bounds)
            found.append(Elsewhere("scores", condition, [*values, *(bound for _, bound in bounds)]))
        if self.dataset:
            found.append(Elsewhere("dataset_samples", "dataset_id = ?", [self.dataset]))
        return found

    def scores(self, of_run: str = "", run: list[Any] | None = None) -> tuple[str, list[Any]]:
        """The condition on the rows of `scores` that are of the chosen score."""
        metric, scorer = self.metric
        by = " AND scorer = ?" if scorer else ""
        return f"metric = ?{by}{of_run}", [
            metric,
            *([scorer] if scorer else []),
            *(run or []),
        ]


def _one_of(name: str, text: str, known: Any) -> None:
    if text and text not in known:
        raise InputError(f"'{text[:40]}' is none of {', '.join(known)}", where=name)


def _number(name: str, text: str, kind: Any = float) -> Any:
    if not text:
        return None
    try:
        number = kind(text)
    except ValueError:
        number = None
    # A whole number first: one of hundreds of digits has no float that could be asked whether it is finite.
    if number is None or (abs(number) >= 2**31 if kind is int else not math.isfinite(number)):
        raise InputError(f"'{text[:40]}' is no number", where=name)
    return number
