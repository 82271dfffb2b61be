"""How two runs of a workspace differ: recipe, samples, reasons, spend, models and accuracy.

`compare` reads it with SQL, also while a run is writing; `render` shows it as tables. Samples are the same
where their content is, whatever run made them. The first run is `before`, the second `after`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factory.accuracy import Paired
from factory.errors import InputError
from factory.grids import Grid, number, p_value
from factory.plots import percent
from factory.printable import printable_line
from factory.significance import mcnemar
from factory.store.questions import find_question
from factory.types import Json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from factory.store.queries import Reader

NUM_EXAMPLES = 10
VALUE_WIDTH = 60


@dataclass(frozen=True)
class Setting:
    """A key of recipe or profile that differs; None where a run has it not."""

    key: str
    before: Json
    after: Json


@dataclass(frozen=True)
class Figure:
    """A number that both or one of the runs has, by kind and name; None where nothing was counted."""

    kind: str
    name: str
    before: float | None
    after: float | None
    change: float


@dataclass(frozen=True)
class Apart:
    """Accepted samples by content: how many both have, and one alone, with the ids of some."""

    num_both: int
    num_before: int
    num_after: int
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


@dataclass(frozen=True)
class Accuracy:
    """The last evaluations of both runs on one split, item by item; `slice` is None for all of them."""

    split: str
    slice: str | None
    before: float
    after: float
    paired: Paired


@dataclass(frozen=True)
class Model:
    """A model that a run trained; `of` is before or after."""

    of: str
    id: str
    name: str
    role: str
    base: str
    round: int
    num_samples: int


@dataclass(frozen=True)
class Difference:
    """All that differs between two runs; `dataclasses.asdict` of it can be written as JSON."""

    before: str
    after: str
    settings: tuple[Setting, ...]
    figures: tuple[Figure, ...]
    samples: Apart
    accuracy: tuple[Accuracy, ...]
    models: tuple[Model, ...]


def compare(store: Reader, before: str, after: str) -> Difference:
    """The difference of two runs, by id or how it begins; raises InputError for what is not one run."""
    old, new = _find(store, before), _find(store, after)
    ids = [old["id"], new["id"]]
    settings = tuple(_settings(json.loads(old["config"]), json.loads(new["config"])))
    settings += tuple(
        Setting(key, old[key], new[key]) for key in ("recipe", "control", "version") if old[key] != new[key]
    )
    question = find_question("between-runs")
    assert question is not None  # noqa: S101 (it is ours)
    rows = store.select(question.sql, {"before": ids[0], "after": ids[1]})
    figures = tuple(Figure(**row) for row in rows if row["kind"] != "accuracy")
    return Difference(
        ids[0], ids[1], settings, figures, _samples(store, ids), _accuracy(store, ids), _models(store, ids)
    )


def _find(store: Reader, start: str) -> dict[str, Any]:
    """The run of that id or beginning; a run before its controls, whose ids begin with its own."""
    rows = store.select(
        "SELECT id, recipe, control, config, version FROM runs WHERE starts_with(id, ?) ORDER BY id <> ?, id",
        (start, start),
    )
    if not rows:
        raise InputError(
            f"no run of this workspace begins with '{start}'", hint="`factory status` lists them"
        )
    main = [row for row in rows if row["control"] is None]
    if rows[0]["id"] != start and len(main or rows) > 1:
        ids = ", ".join(row["id"] for row in (main or rows)[:5])
        raise InputError(f"several runs begin with '{start}'", hint=f"name one of them whole: {ids}")
    return rows[0] if rows[0]["id"] == start else (main or rows)[0]


def _settings(old: Json, new: Json, key: str = "") -> Iterator[Setting]:
    """The leaves that differ; lists of mappings with names are compared name by name."""
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _settings(old.get(name), new.get(name), f"{key}.{name}" if key else str(name))
    elif old != new:
        yield Setting(key, old, new)


def _by_name(value: Json) -> Json:
    if isinstance(value, list) and value and all(isinstance(each, dict) and "name" in each for each in value):
        named = {str(each["name"]): each for each in value if isinstance(each, dict)}
        return named if len(named) == len(value) else value
    return value


SAMPLES = """
    WITH of AS (
        SELECT s.content_hash, min(s.id) AS id, bool_or(d.run_id = $1) AS old, bool_or(d.run_id = $2) AS new
        FROM decisions d JOIN samples s ON s.id = d.sample_id
        WHERE d.final AND d.action = 'keep' AND d.run_id IN ($1, $2) GROUP BY s.content_hash
    )
    SELECT count(*) FILTER (old AND new) AS num_both,
           count(*) FILTER (NOT new) AS num_before, count(*) FILTER (NOT old) AS num_after,
           coalesce(min(id, $3) FILTER (NOT new), []) AS only_before,
           coalesce(min(id, $3) FILTER (NOT old), []) AS only_after
    FROM of"""


def _samples(store: Reader, ids: list[str]) -> Apart:
    row = store.select(SAMPLES, (*ids, NUM_EXAMPLES))[0]
    counts = row["num_both"], row["num_before"], row["num_after"]
    return Apart(*counts, tuple(row["only_before"]), tuple(row["only_after"]))


ACCURACY = """
    WITH last AS (
        SELECT run_id, split, metric, arg_max(id, (round, created_at)) AS id FROM evaluations
        WHERE run_id IN ($1, $2) AND round IS NOT NULL GROUP BY run_id, split, metric
    )
    SELECT a.split, i.slice, count(*) AS num_items, avg(i.score) AS before, avg(j.score) AS after,
           count(*) FILTER (j.score > i.score) AS num_better, count(*) FILTER (j.score < i.score) AS num_worse
    FROM last a
    JOIN last b ON b.split = a.split AND b.metric = a.metric
    JOIN evaluation_items i ON i.evaluation_id = a.id
    JOIN evaluation_items j ON j.evaluation_id = b.id AND j.item_key = i.item_key
    WHERE a.run_id = $1 AND b.run_id = $2
    GROUP BY GROUPING SETS ((a.split), (a.split, i.slice))
    ORDER BY a.split, i.slice NULLS FIRST"""


def _accuracy(store: Reader, ids: list[str]) -> tuple[Accuracy, ...]:
    found = []
    for row in store.select(ACCURACY, ids):
        counts = row["num_items"], row["num_better"], row["num_worse"]
        gain, p = row["after"] - row["before"], mcnemar(row["num_better"], row["num_worse"])
        paired = Paired(ids[1], ids[0], *counts, gain, p)
        found.append(Accuracy(row["split"], row["slice"], row["before"], row["after"], paired))
    return tuple(found)


def _models(store: Reader, ids: list[str]) -> tuple[Model, ...]:
    rows = store.select(
        """
        SELECT CASE m.run_id WHEN $1 THEN 'before' ELSE 'after' END AS of, m.id, m.name, m.role, m.base,
               m.round, coalesce(d.num_samples, 0) AS num_samples
        FROM models m LEFT JOIN datasets d ON d.id = m.dataset_id
        WHERE m.run_id IN ($1, $2) ORDER BY m.run_id = $2, m.round, m.role, m.id
        """,
        ids,
    )
    return tuple(Model(**row) for row in rows)


def all_grids(found: Difference) -> tuple[Grid, ...]:
    """The tables of a difference; those without a row are left out."""
    settings = [(each.key, _value(each.before), _value(each.after)) for each in found.settings]
    figures = [
        (each.kind, each.name, *(_amount(value) for value in (each.before, each.after, each.change)))
        for each in found.figures
    ]
    apart = found.samples
    samples = [
        ("in both", f"{apart.num_both:,}", ""),
        ("only before", f"{apart.num_before:,}", ", ".join(apart.only_before[:3])),
        ("only after", f"{apart.num_after:,}", ", ".join(apart.only_after[:3])),
    ]
    accuracy = [_row(each) for each in found.accuracy]
    models = [
        (each.of, each.id, each.role, each.base, f"{each.round}", f"{each.num_samples:,}")
        for each in found.models
    ]
    sides = ("Before", "After")
    texts = frozenset
    grids = (
        Grid("Recipe and profile", ("Key", *sides), tuple(settings), texts({0, 1, 2})),
        Grid("Counts, all rounds", ("Kind", "Name", *sides, "Change"), tuple(figures), texts({0, 1})),
        Grid(
            "Accepted samples, by content (all: factory sql accepted-only)",
            ("Samples", "Number", "Some of them"),
            tuple(samples),
            texts({0, 2}),
        ),
        Grid(
            "Accuracy after the last round, paired, exact McNemar test",
            ("Split", "Slice", *sides, "Change", "Better", "Worse", "Items", "p-value"),
            tuple(accuracy),
            texts({0, 1}),
        ),
        Grid(
            "Models trained",
            ("Of", "Model", "Role", "Base", "Round", "Samples"),
            tuple(models),
            texts(range(4)),
        ),
    )
    return tuple(grid for grid in grids if grid.rows)


def _row(each: Accuracy) -> tuple[str, ...]:
    paired = each.paired
    counts = (f"{n:,}" for n in (paired.num_better, paired.num_worse, paired.num_items))
    shares = percent(each.before), percent(each.after), f"{100 * paired.gain:+.1f} points"
    return (
        each.split,
        "all" if each.slice is None else each.slice,
        *shares,
        *counts,
        p_value(paired.p_value),
    )


def _amount(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4g}"


def _value(value: Json) -> str:
    text = (
        "–"
        if value is None
        else number(value)
        if not isinstance(value, Mapping | list)
        else json.dumps(value)
    )
    return printable_line(text, VALUE_WIDTH)


def render(found: Difference) -> RenderableType:
    """The tables for a terminal."""
    from rich.console import Group
    from rich.text import Text

    from factory.report import draw_grid

    parts: list[RenderableType] = [Text(printable_line(f"{found.before} and {found.after}"), style="bold")]
    if not found.settings:
        parts.append(Text("recipe and profile are the same"))
    for grid in all_grids(found):
        parts += [Text(""), draw_grid(grid)]
    return Group(*parts)
