"""Verdicts to a file and back: as lines of our own that lose nothing, or as records of Argilla.

Our lines are the rows of `verdicts`, those that were taken back included: what is read from them is what was
written. Argilla's records (version 2, as `Dataset.records.to_json` writes and `from_json` reads) hold each
sample with what stands, and what the run said as a suggestion. Either is read, and no verdict comes in twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from factory.argilla import read_record, record
from factory.errors import InputError
from factory.partial_files import partial_of
from factory.store.text import escape, restore
from factory.store.verdicts import STANDING, verdict_row

if TYPE_CHECKING:
    from factory.store.trace import Selects

PAGE: Final = 200
MAX_BATCH_CHARACTERS: Final = 2**20
MAX_EXAMPLES: Final = 5
NAMES: Final = ("sample_id", "reviewer", "action", "reason", "corrected", "created_at")

ROWS = f"SELECT rowid, {', '.join(NAMES)} FROM verdicts WHERE rowid > ? ORDER BY rowid LIMIT {PAGE}"  # noqa: S608
JUDGED = f"""
    SELECT DISTINCT sample_id FROM {STANDING} WHERE sample_id > ? ORDER BY sample_id
    LIMIT {PAGE}"""  # noqa: S608 (constants)
WANTED = "(SELECT unnest(?::VARCHAR[]))"
STAND = f"""
    SELECT sample_id, reviewer, action, reason, corrected FROM {STANDING} WHERE sample_id IN {WANTED}
    ORDER BY sample_id, created_at"""  # noqa: S608 (constants)
SAMPLES = f"""
    SELECT id, slice, strategy, operation, run_id, round, question, answer FROM samples
    WHERE id IN {WANTED} ORDER BY id"""  # noqa: S608 (constants)
SECTIONS = f"""
    SELECT e.child AS sample_id, string_agg(s.text, chr(10) || chr(10) ORDER BY s.id) AS text
    FROM edges e JOIN sources s ON s.id = e.parent
    WHERE e.relation = 'source' AND e.child IN {WANTED} GROUP BY e.child"""  # noqa: S608 (constants)
DECISIONS = f"""
    SELECT d.sample_id, arg_max(d.refiner, d.created_at) AS refiner, arg_max(d.action, d.created_at) AS action
    FROM decisions d JOIN samples s ON s.id = d.sample_id AND s.run_id = d.run_id  -- a control has its own
    WHERE d.final AND d.sample_id IN {WANTED} GROUP BY d.sample_id"""  # noqa: S608 (constants)
KNOWN = f"SELECT id FROM samples WHERE id IN {WANTED}"  # noqa: S608 (constants)
HISTORY = f"""
    SELECT sample_id, reviewer, action, reason, corrected, created_at FROM verdicts
    WHERE sample_id IN {WANTED} ORDER BY created_at, rowid"""  # noqa: S608 (constants)


class Writes(Protocol):
    """What takes verdicts beside answering: the audit page's access to a workspace."""

    def select(self, sql: str, params: Sequence[Any] = ()) -> list[dict[str, Any]]: ...

    def add_verdicts(self, rows: Sequence[dict[str, Any]]) -> None: ...


@dataclass(slots=True)
class Imported:
    """What became of a file's verdicts; `refused` by reason, with the first few as examples."""

    num_read: int = 0
    num_added: int = 0
    num_already_there: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    examples: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, number: int, reason: str, what: str) -> None:
        """Counts a verdict that cannot be taken; `number` is that of its line or record."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append({"number": number, "reason": reason, "what": what[:200]})


def write_lines(asks: Selects, path: Path) -> int:
    """Every row of `verdicts` as a line of JSON, in the order in which they came; returns how many."""
    num, last = 0, -1
    with _opened(path) as file:
        while rows := asks.select(ROWS, [last]):
            last = rows[-1].pop("rowid")
            for row in rows:
                row.pop("rowid", None)
                file.write(json.dumps({name: _restored(row[name]) for name in NAMES}) + "\n")
            num += len(rows)
    return num


def write_records(asks: Selects, path: Path) -> int:
    """Each sample with a verdict that stands as a record of Argilla, in one list; returns how many."""
    num, last = 0, ""
    with _opened(path) as file:
        file.write("[")
        while ids := [row["sample_id"] for row in asks.select(JUDGED, [last])]:
            last = ids[-1]
            said: dict[str, list[dict[str, Any]]] = {each: [] for each in ids}
            for row in asks.select(STAND, [ids]):
                said[row["sample_id"]].append(row)
            texts = {row["sample_id"]: row["text"] for row in asks.select(SECTIONS, [ids])}
            decided = {row["sample_id"]: row for row in asks.select(DECISIONS, [ids])}
            for row in asks.select(SAMPLES, [ids]):
                made = record(row, said[row["id"]], texts.get(row["id"]), decided.get(row["id"]))
                file.write((",\n" if num else "\n") + json.dumps(_restored(made)))
                num += 1
        file.write("\n]\n")
    return num


def read_verdicts(path: Path, writes: Writes, reviewer: str = "") -> Imported:
    """Takes in the verdicts of a file in either form.

    `reviewer` is who said what bears no name. A verdict with its time is there already if the same row is;
    one without, which Argilla's are, if it is what the reviewer says now. If it was said before that, nobody
    can tell which is newer, and it is refused. Raises InputError for a file that cannot be read, or that
    holds nothing that could be taken.
    """
    found, batch, size = Imported(), list[tuple[int, dict[str, Any]]](), 0
    for number, given in _rows_of(path, reviewer, found):
        found.num_read += 1
        try:
            row = {name: value for name, value in verdict_row(given).items() if value is not None}
        except InputError as error:
            found.refuse(number, "unclear", str(error))
            continue
        batch.append((number, row))
        size += len(row.get("corrected", ""))
        if len(batch) == PAGE or size > MAX_BATCH_CHARACTERS:
            _take(batch, writes, found)
            batch, size = [], 0
    _take(batch, writes, found)
    if not found.num_read:
        raise InputError("holds no verdicts", where=str(path))
    if found.refused and not found.num_added and not found.num_already_there:
        first = found.examples[0]
        raise InputError(f"nothing can be taken: {first['what']}", where=f"{path}:{first['number']}")
    return found


def _take(batch: Sequence[tuple[int, dict[str, Any]]], writes: Writes, found: Imported) -> None:
    ids = sorted({escape(row["sample_id"]) for _, row in batch})
    if not ids:
        return
    known = {row["id"] for row in writes.select(KNOWN, [ids])}
    rows: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for row in writes.select(HISTORY, [ids]):
        rows.setdefault((row["sample_id"], _restored(row["reviewer"])), []).append(
            (row["action"], row["reason"], _restored(row["corrected"]), row["created_at"])
        )
    fresh = []
    for number, row in batch:
        history = rows.setdefault((row["sample_id"], row["reviewer"]), [])
        time = row["created_at"].astimezone(UTC).isoformat() if "created_at" in row else None
        said = (row["action"], row["reason"], row.get("corrected"))
        if row["sample_id"] not in known:
            found.refuse(number, "unknown_sample", f"no sample {row['sample_id']}")
        elif ((*said, time) in history) if time else (history[-1:] and history[-1][:3] == said):
            found.num_already_there += 1
        elif time is None and said in [each[:3] for each in history]:
            found.refuse(number, "said_before", "it was said before, and something else since")
        else:
            history.append((*said, time))
            fresh.append(row | ({"created_at": time} if time else {}))
    if fresh:
        writes.add_verdicts(fresh)
        found.num_added += len(fresh)


def _rows_of(path: Path, reviewer: str, found: Imported) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line or record number and row; what is neither a verdict nor a record is refused here."""
    people = set[str]()
    for number, value in _values(path):
        if not isinstance(value, dict):
            found.num_read += 1
            found.refuse(number, "unclear", "it is no object")
        elif "responses" in value:
            for row, is_named in read_record(value):
                people |= set() if is_named else {row["reviewer"]}
                if reviewer and len(people) > 1:
                    raise InputError(
                        "answers of several people, and one name for all of them",
                        where=f"{path}:{number}",
                        hint="leave out --reviewer: their ids become their names",
                    )
                yield number, row if is_named or not reviewer else {**row, "reviewer": reviewer}
        else:
            named = {name: value.get(name) for name in NAMES}
            yield number, {**named, "reviewer": named["reviewer"] or reviewer}


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a list, which is read as a whole, or of lines, one at a time."""
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            first = file.read(1)
            file.seek(0)
            if first == "[":
                yield from enumerate(json.load(file), 1)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, json.loads(line)
    except (ValueError, RecursionError) as error:
        where = f"{path}:{number}" if number else str(path)
        raise InputError(f"is neither lines of JSON nor a list of records: {error}", where=where) from error
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """A file that takes the place of `path` once it is whole; what stood there stays where that fails."""
    partial = partial_of(path)
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", where=str(path)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _restored(value: Any) -> Any:
    """Texts as they were before they were stored, also within lists and mappings."""
    if isinstance(value, str):
        return restore(value)
    if isinstance(value, list):
        return [_restored(each) for each in value]
    if isinstance(value, dict):
        return {name: _restored(each) for name, each in value.items()}
    return value


WRITERS: Final[dict[str, Callable[[Selects, Path], int]]] = {"jsonl": write_lines, "argilla": write_records}
