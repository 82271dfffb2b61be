"""`factory refine FILE`: steps over anybody's samples, through the same store and rules as a run's own.

The file becomes a run of one round: its lines are the samples, the steps its refiners. It is read three
times, to check it, to refine it and to write what was kept, and never held in memory. In the same workspace
the same file and steps are the same run, which goes on where it was cut off.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from factory import __version__
from factory.asking import let_tell
from factory.domain import Domain
from factory.errors import FactoryError, InputError
from factory.file_steps import check_steps, domain_of_file
from factory.interpreter import run_work
from factory.partial_files import check_replaceable
from factory.ports import Ask
from factory.progress import Progress
from factory.recipe import StepSpec
from factory.refine import BATCH_SIZE, Steps, refine_round
from factory.registry import create
from factory.sample_files import (
    LINES,
    Line,
    as_json,
    check_writable,
    digest_of,
    is_finite,
    read_lines,
    suffix_of,
    writing,
)
from factory.sample_lines import rewritten, sample_of, seed_of
from factory.store.rows import sample_from_row, sample_rows, seed_row
from factory.types import Json, Sample, Seed, digest

if TYPE_CHECKING:
    from factory.store.store import Store

ROUND = 1
# What each line came to in the end, in the order of the file: the last of its rewrites, where there are some.
OUTCOMES = """
    WITH RECURSIVE way AS (
        SELECT position, sample_id AS id, 0 AS depth FROM round_samples WHERE run_id = $1
        UNION ALL
        SELECT way.position, d.rewrite_id, way.depth + 1 FROM way JOIN decisions d ON d.sample_id = way.id
        WHERE d.run_id = $1 AND d.final AND d.rewrite_id IS NOT NULL
    )
    SELECT way.position, way.depth, d.action, d.refiner, d.reason, d.evidence, first.position AS of_line,
           s.id AS id, s.operation, s.messages, s.attributes, s.content_hash
    FROM way JOIN decisions d ON d.sample_id = way.id AND d.run_id = $1 AND d.final
    LEFT JOIN samples s ON s.id = way.id AND way.depth > 0
    LEFT JOIN way first ON first.id = d.evidence ->> 'of'
    WHERE d.action <> 'rewrite' ORDER BY way.position"""
FUNNEL = """
    SELECT step, refiner, action, reason, sum(num_samples)::BIGINT AS samples
    FROM funnel WHERE run_id = ? GROUP BY ALL ORDER BY step, action, samples DESC, reason"""


class Counts(NamedTuple):
    """Lines as they were written; `num_rewritten` of the kept ones differ from what was read."""

    num_kept: int
    num_rewritten: int
    num_dropped: int
    num_nulled: int = 0  # written as JSON with null for NaN or infinity


def refine_file(
    path: Path, steps: Sequence[StepSpec], output: Path | None, workspace: Path | None, progress: Progress
) -> dict[str, Any]:
    """Runs the steps, writes what is kept and what is dropped, and says how many of each.

    Without a workspace what is found out about the samples is gone in the end but for the two files. Raises
    InputError for a line that is no sample, a step that a file is not enough for, and an unknown option.
    """
    kept, dropped = _outputs(path, output)
    check_steps(steps)
    check_writable(kept, path)
    num_lines, content = _check_lines(path, progress), digest_of(path)
    domain = domain_of_file(path, steps)
    refiners = [(spec.name, create("refiners", spec, domain, f"--steps {spec.name}")) for spec in steps]
    for _, refiner in refiners:
        let_tell(refiner, progress.note)
    rests_on = [list(each.rests_on) for _, each in refiners if getattr(each, "rests_on", ())]
    run_id = "run_" + digest([domain.run_digest(), path.name, content, *rests_on], 12)
    folder = workspace or Path(tempfile.mkdtemp(prefix="factory-refine-"))
    try:
        from factory.store.store import Store

        with Store.open(folder) as store:
            with _recorded(store, run_id, domain):
                run_work(_refine(store, run_id, refiners, path, num_lines, progress))
            with progress.stage("write", num_lines, "samples") as shown:
                counts = _write(store, run_id, path, kept, dropped, shown.advance)
            if counts.num_nulled:
                progress.note(
                    f"NaN and infinity became null in {counts.num_nulled:,} samples: JSON has neither"
                )
            reasons = store.select(FUNNEL, (run_id,))
            by_step = add_up(reasons, [spec.name for spec in steps], num_lines, counts)
    finally:
        if workspace is None:
            shutil.rmtree(folder, ignore_errors=True)
    found: dict[str, Any] = {"file": str(path), "kept_file": str(kept), "dropped_file": str(dropped)}
    found |= {"workspace": str(workspace), "run": run_id} if workspace else {}
    found |= {"samples": num_lines, **_counted(counts)}
    told = [row for row in reasons if row["reason"] not in ("ok", "not_applicable")]
    return {**found, "steps": by_step, "reasons": [_without_number(row) for row in told]}


def add_up(
    reasons: Sequence[dict[str, Any]], names: Sequence[str], num_lines: int, counts: Counts
) -> list[dict[str, Any]]:
    """What came to each step and went on, from the funnel; raises FactoryError where a sample is lost.

    To the first step come the lines and all rewrites, which begin anew; to each further one comes what the
    one before it kept; what the last one keeps was written.
    """
    steps: list[dict[str, Any]] = []
    for step, name in enumerate(names):
        of = {"keep": 0, "rewrite": 0, "drop": 0}
        for row in reasons:
            of[row["action"]] += row["samples"] if row["step"] == step else 0
        steps.append({"step": name, "in": sum(of.values()), "kept": of["keep"], "rewritten": of["rewrite"]})
        steps[-1]["dropped"] = of["drop"]
    expected = [num_lines + sum(step["rewritten"] for step in steps), *(step["kept"] for step in steps)]
    found = [*(step["in"] for step in steps), counts.num_kept]
    num_dropped = sum(step["dropped"] for step in steps)
    if expected != found or num_dropped != counts.num_dropped:
        raise FactoryError(f"the counts do not add up: {expected} expected, {found} found")
    return steps


def _outputs(path: Path, output: Path | None) -> tuple[Path, Path]:
    """Where kept and dropped lines go."""
    stem = path.name.removesuffix(suffix_of(path))
    kept = output or path.with_name(f"{stem}.kept.jsonl")
    stem = kept.name.removesuffix(suffix_of(kept)).removesuffix(".kept")
    dropped = kept.with_name(f"{stem}.dropped.jsonl")
    if path.resolve() in (kept.resolve(), dropped.resolve()):
        raise InputError(
            "the file itself would be written over", where=str(path), hint="give another --output"
        )
    if not kept.parent.is_dir():
        raise InputError("there is no such folder", where=str(kept.parent))
    for file in (kept, dropped):
        check_replaceable(file)
    return kept, dropped


def _check_lines(path: Path, progress: Progress) -> int:
    """The number of lines, each of which is a sample; raises InputError naming file and line."""
    num_lines = 0
    with progress.stage(f"read {path.name}", None, "samples") as shown:
        for line in read_lines(path):
            _sample(path, line)
            num_lines += 1
            shown.advance()
    if not num_lines:
        raise InputError("there is no sample in it", where=str(path))
    return num_lines


def _sample(path: Path, line: Line) -> tuple[Seed, Sample]:
    try:
        seed = seed_of(line.row, f"{path.name}:{line.number}")
        return seed, sample_of(line.row, seed)
    except ValueError as error:
        raise InputError(str(error), where=f"{path}:{line.number}") from error


async def _refine(
    store: Store, run_id: str, steps: Steps, path: Path, num_lines: int, progress: Progress
) -> None:
    with progress.stage("refine", num_lines, "samples") as shown:
        samples = _stored(store, run_id, path)
        await refine_round(
            store,
            run_id,
            ROUND,
            steps,
            samples,
            _no_model(),
            on_progress=lambda done, *told, **_: shown.update(done, num_lines, *told[1:]),
        )


def _stored(store: Store, run_id: str, path: Path) -> Iterator[Sample]:
    """The samples of the file; each stands in the store before it is decided about."""
    lines = read_lines(path)
    while batch := list(islice(lines, BATCH_SIZE)):
        made = [_sample(path, line) for line in batch]
        rows, edges = sample_rows([sample for _, sample in made], run_id, ROUND)
        places = [
            {"run_id": run_id, "round": ROUND, "position": line.number, "sample_id": row["id"]}
            for line, row in zip(batch, rows, strict=True)
        ]
        store.append("seeds", [seed_row(seed) for seed, _ in made])
        store.append("edges", edges)
        store.append("samples", rows)
        store.append("round_samples", places)
        yield from (sample for _, sample in made)


def _no_model() -> Ask:
    async def ask(*_arguments: object, **_options: object) -> Any:
        raise FactoryError("a step asked a model though it says that it needs none")

    return ask


@contextmanager
def _recorded(store: Store, run_id: str, domain: Domain) -> Iterator[None]:
    """Writes the run, and how its one stage began and ended."""
    recipe = domain.recipe
    run: dict[str, Any] = {"id": run_id, "recipe": recipe.name, "control": None, "digest": recipe.digest()}
    run |= {"config": recipe.model_dump(mode="json"), "version": __version__, "started_at": datetime.now(UTC)}
    stage: dict[str, Any] = {"run_id": run_id, "round": ROUND, "stage": "refine", "detail": {}}
    store.append("runs", [run])
    store.append("stages", [{**stage, "status": "started"}])
    try:
        yield
    except BaseException as error:
        what = f"{type(error).__name__}: {error}"
        store.append("stages", [{**stage, "status": "failed", "detail": {"error": what}}])
        raise
    store.append("stages", [{**stage, "status": "done"}])
    store.flush()


def _write(
    store: Store, run_id: str, path: Path, kept: Path, dropped: Path, advance: Callable[[], None]
) -> Counts:
    """Writes every line where it belongs, in the order of the file."""
    num_kept = num_rewritten = num_dropped = num_nulled = 0
    is_json = suffix_of(kept) in LINES or suffix_of(path) in LINES  # those come to Parquet by way of lines
    outcomes = store.stream(OUTCOMES, (run_id,))
    with writing(kept, path) as keep, writing(dropped, path) as drop:
        for line, outcome in zip(read_lines(path), outcomes, strict=True):
            if outcome["position"] != line.number:
                raise FactoryError("the file was changed while it was refined", where=str(path))
            if outcome["action"] == "drop":
                drop(Line(line.number, {}, as_json(_rejected(line, outcome), encode_bytes=True)))
                num_dropped += 1
            elif outcome["depth"]:
                sample = sample_from_row(outcome)
                keep(Line(line.number, rewritten(line.row, sample.messages, sample.attributes)))
                num_rewritten += 1
            else:
                keep(line)
            if outcome["action"] == "drop" or (is_json and (outcome["depth"] or line.text is None)):
                num_nulled += not is_finite(line.row)
            num_kept += outcome["action"] == "keep"
            advance()
    return Counts(num_kept, num_rewritten, num_dropped, num_nulled)


def _rejected(line: Line, outcome: dict[str, Any]) -> dict[str, Json]:
    """A dropped line with the reason; `of_line` is the line that it repeats."""
    from factory.store.text import from_json

    told = {"line": line.number, "step": outcome["refiner"], "reason": outcome["reason"]}
    evidence = dict(from_json(outcome["evidence"]))
    if outcome["of_line"] is not None:
        evidence["of_line"] = outcome["of_line"]
    return {**told, "evidence": evidence, "sample": line.row}


def _counted(counts: Counts) -> dict[str, int]:
    """The counts by name; that of nulls only where there are some."""
    named = {key.removeprefix("num_"): n for key, n in counts._asdict().items()}
    return {key: n for key, n in named.items() if n or key != "nulled"}


def _without_number(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "step": row["refiner"],
        "action": row["action"],
        "reason": row["reason"],
        "samples": row["samples"],
    }
