"""What became of batches, durably: an event of the table `batches` for each step, and the files beside it.

A batch is a folder with the requests, later with the answers, and a row for each thing that happened to it.
So whoever runs next knows which calls are out, and asks none of them again. It hands nothing over and waits
for nothing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from factory.models.batch_lines import failed_calls, read_bounds, read_ids, read_results
from factory.store.database import unwritable
from factory.types import Json

if TYPE_CHECKING:
    from factory.recipe import Role
    from factory.store.store import Store

REQUESTS: Final = "requests.jsonl"
ANSWERS: Final = "answers.jsonl"  # written elsewhere and moved here, so that what is there is whole
OPEN = """
    SELECT id, model_id, max(run_id) AS run_id, max(remote_id) AS remote_id,
        bool_or(status = 'collected') AS collected FROM batches
    GROUP BY id, model_id HAVING NOT bool_or(status IN ('lost', 'done')) ORDER BY min(created_at), id"""

KEPT = "SELECT id FROM batches GROUP BY id HAVING NOT bool_or(status = 'done')"


@dataclass(slots=True)
class Batch:
    """A batch and where its files are; `remote_id` is None until it was handed over.

    `failed` are the calls that came back without an answer; None until it was collected.
    """

    id: str
    model_id: str
    folder: Path
    call_ids: list[str]
    run_id: str
    remote_id: str | None = None
    failed: set[str] | None = None

    @property
    def requests(self) -> Path:
        return self.folder / REQUESTS

    @property
    def answers(self) -> Path:
        return self.folder / ANSWERS


class BatchLog:
    """The batches of a workspace; `run_id` is the run that hands over further ones."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._folder = store.workspace / "batches"

    def open_batches(self) -> list[Batch]:
        """Those of all models whose answers are not in the store yet, the oldest first."""
        return [batch for batch in self._left() if not self.is_stored(batch)]

    def stored_batches(self) -> list[Batch]:
        """Those whose answers are all in the store, and which nobody has ended."""
        return [batch for batch in self._left() if self.is_stored(batch)]

    def is_stored(self, batch: Batch) -> bool:
        """Whether it was collected and every answer that it brought is in the store."""
        failed = batch.failed
        return failed is not None and all(
            call in failed or self._store.is_answered(call) for call in batch.call_ids
        )

    def unanswered_batches(self) -> list[Batch]:
        """Those of all models and runs with a call that has no stored answer."""
        return [
            batch
            for batch in self.open_batches()
            if not all(self._store.is_answered(call) for call in batch.call_ids)
        ]

    def trained_roles(self, model_id: str) -> list[Role]:
        """The role whose model this run trained, controls included; empty for a model of another origin."""
        sql = "SELECT role FROM models WHERE id = ? AND starts_with(run_id, ?)"
        return [row["role"] for row in self._store.select(sql, (model_id, self._run_id))]

    def open_calls(self) -> Iterator[tuple[str, int, int]]:
        """Id, most tokens of prompt and answer of each call of this run that left and is unanswered."""
        for batch in self.open_batches():
            if batch.run_id != self._run_id:
                continue
            with batch.requests.open("rb") as lines:
                for call in read_bounds(lines):
                    if not self._store.is_answered(call[0]):
                        yield call

    def prepare(self, batch_id: str, model_id: str, requests: dict[str, bytes]) -> Batch:
        """Writes the requests, by call, to the disk, where they survive whatever happens from here on.

        Raises WorkspaceError where it takes no more.
        """
        batch = Batch(batch_id, model_id, self._folder / batch_id, list(requests), self._run_id)
        try:
            batch.folder.mkdir(parents=True)
            with batch.requests.open("wb") as file:
                file.writelines(requests.values())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unwritable(batch.requests, error) from error
        self.record(batch, "prepared")
        return batch

    def record(self, batch: Batch, status: str, detail: Json = None) -> None:
        """Writes an event; it is on the disk when this returns."""
        row: dict[str, Json] = {
            "id": batch.id,
            "run_id": batch.run_id,
            "model_id": batch.model_id,
            "status": status,
        }
        row |= {"remote_id": batch.remote_id, "num_requests": len(batch.call_ids), "detail": detail}
        self._store.append("batches", [row])
        self._store.flush()

    def finish(self, batch: Batch) -> None:
        """Forgets a batch that is stored."""
        self.record(batch, "done")
        shutil.rmtree(batch.folder, ignore_errors=True)

    def remove_folders(self) -> None:
        """Of batches that are done or that no row tells of: a process was killed just then."""
        kept = {row["id"] for row in self._store.select(KEPT)}
        for folder in self._folder.glob("*/"):
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)

    def _left(self) -> Iterator[Batch]:
        for row in self._store.select(OPEN):
            folder = self._folder / row["id"]
            if not (folder / REQUESTS).is_file():  # somebody deleted it: its calls are asked again
                continue
            with (folder / REQUESTS).open("rb") as lines:
                ids = read_ids(lines)
            batch = Batch(row["id"], row["model_id"], folder, ids, row["run_id"], row["remote_id"])
            if row["collected"] and batch.answers.is_file():
                with batch.answers.open("rb") as lines:
                    batch.failed = failed_calls(ids, read_results(lines, ""))
            yield batch
