"""Carries batches to an endpoint with OpenAI's Batch API: a file up, a batch made of it, the results down.

The batch bears our name in its metadata, so that one whose creation was answered by silence is found rather
than made a second time. While it is out, failures to ask about it are waited out: it is paid for. The
output and the error file come down one after the other into the file of answers. Once the answers are in the
store, the files of the batch are deleted there.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from factory.address import without_password
from factory.backoff import MAX_RETRY_AFTER_SECONDS
from factory.errors import EndpointError
from factory.models.batch_lines import URL
from factory.models.batch_log import Batch
from factory.models.batches import BatchLost
from factory.models.chat import server_message
from factory.models.connection import Connection
from factory.models.failure import failure_from_status, one_line
from factory.models.wire import Reply
from factory.store.database import unwritable

NAME: Final = "dataset_factory_batch"  # key of the metadata
MAX_TRIES: Final = 8  # to hand a batch over, in some minutes
MAX_SILENT: Final = 60  # failures in a row to ask about a batch, up to a minute apart
MAX_REFUSED: Final = 10  # refusals in a row, over some minutes: one alone may be a proxy's
GONE: Final = {404, 410}
NO_LIST: Final = {404, 405}
PAGE: Final = 100  # batches of a list
MAX_PAGES: Final = 100
OF_DISK: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
MAX_DISCARDS: Final = 3  # tries to delete the files of a batch
FILES: Final = ("input_file_id", "output_file_id", "error_file_id")
ENDED: Final = {"completed", "expired", "cancelled", "failed"}


class EndpointCarrier:
    """Implements batches.Carrier for one endpoint."""

    is_ours = False
    first_wait_seconds, longest_wait_seconds = 2.0, 60.0  # between two questions about a batch
    discard_seconds = 15.0  # at most, to delete the files of a batch: who leaves waits for it

    def __init__(self, base_url: str, api_key: str | None) -> None:
        self._base_url = base_url
        self._key = api_key or ""
        self._connection: Connection | None = None

    @property
    def where(self) -> str:
        return without_password(self._base_url)

    def hide(self, text: str) -> str:
        """The text without the key, and without a password in the address."""
        text = text.replace(self._base_url, self.where)
        return text.replace(self._key, "***") if self._key else text

    async def submit(self, batch: Batch, *, perhaps_sent: bool) -> str:
        """The id of the batch at the endpoint; raises EndpointError, BatchLost where it takes none."""
        file_id, wait_seconds, num_tries = "", self.first_wait_seconds, 0
        while True:
            num_tries += 1
            looks = perhaps_sent
            try:
                if looks and (found := await self._find(batch)):
                    return found
                looks = perhaps_sent = False
                file_id = file_id or await self._upload(batch)
                perhaps_sent = True  # from here on, silence may mean that it was made
                return await self._create(batch, file_id)
            except EndpointError as error:
                if not looks and not error.retryable:
                    raise _lost_by(error, error.what, error.hint) from error
                if num_tries == MAX_TRIES or not error.retryable:
                    raise
                asked = min(error.retry_after_seconds or 0.0, MAX_RETRY_AFTER_SECONDS)
            await asyncio.sleep(max(wait_seconds, asked))
            wait_seconds = min(2 * wait_seconds, self.longest_wait_seconds)

    async def collect(self, batch: Batch) -> None:
        """Waits for the end of the batch and brings its results down."""
        if batch.answers.is_file():
            return
        wait_seconds, num_silent = self.first_wait_seconds, 0
        refused: list[EndpointError] = []  # in a row
        while True:
            try:
                state = await self._json("GET", f"batches/{quote(batch.remote_id or '', safe='')}")
                if state.get("status") in ENDED:
                    return await self._fetch(batch, state)
                num_silent = 0
                refused.clear()
            except BatchLost:
                raise
            except EndpointError as error:
                num_silent += 1
                refused = [] if error.retryable else [*refused, error]
                if error.kind == "unauthorized" or num_silent > MAX_SILENT:
                    raise
                if len(refused) == MAX_REFUSED:
                    raise _refused(batch, refused) from error
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(1.5 * wait_seconds, self.longest_wait_seconds)

    async def discard(self, batch: Batch) -> None:
        """Deletes the files of a batch that was collected; raises EndpointError where they may be left."""
        try:
            async with asyncio.timeout(self.discard_seconds):
                for num_left in reversed(range(MAX_DISCARDS)):
                    try:
                        return await self._delete_files(batch)
                    except EndpointError as error:
                        if not num_left or not error.retryable:
                            error.hint = ""  # those are about batches that cannot be made
                            raise
                    await asyncio.sleep(self.first_wait_seconds)
        except TimeoutError:
            raise self._failure(f"no end within {self.discard_seconds:g} seconds", "timeout") from None

    async def _delete_files(self, batch: Batch) -> None:
        """Those that the endpoint says are of the batch with our name; what is gone already is no failure."""
        state = await self._json("GET", f"batches/{quote(batch.remote_id or '', safe='')}")
        if not _bears_name(state, batch):
            raise self._failure(f"the batch {batch.remote_id} does not bear our name there", "refused")
        for file_id in [state[key] for key in FILES if state.get(key)]:
            reply = await self._sent(self._connected().request("DELETE", _path_of(file_id)))
            if reply.status not in GONE:
                self._check(reply)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _find(self, batch: Batch) -> str | None:
        """The batch that bears our name, where the endpoint lists its batches; the newest come first."""
        path = f"batches?limit={PAGE}"
        for _ in range(MAX_PAGES):
            try:
                page = await self._json("GET", path)
            except EndpointError as error:
                if error.status in NO_LIST:
                    return None
                raise
            rows = [row for row in page.get("data") or [] if isinstance(row, dict)]
            for row in rows:
                if _bears_name(row, batch):
                    return str(row["id"])
            if not page.get("has_more") or not rows:
                return None
            path = f"batches?limit={PAGE}&after={quote(str(rows[-1].get('id')), safe='')}"
        return None

    async def _upload(self, batch: Batch) -> str:
        from aiohttp import FormData

        form = FormData({"purpose": "batch"})
        with batch.requests.open("rb") as file:
            form.add_field("file", file, filename=f"{batch.id}.jsonl", content_type="application/jsonl")
            return self._id(await self._json("POST", "files", form))

    async def _create(self, batch: Batch, file_id: str) -> str:
        wanted = {"input_file_id": file_id, "endpoint": URL, "completion_window": "24h"}
        body = {**wanted, "metadata": {NAME: batch.id}}
        return self._id(await self._json("POST", "batches", json.dumps(body).encode()))

    async def _fetch(self, batch: Batch, state: dict[str, Any]) -> None:
        """The results of a batch that has ended; raises BatchLost where it has none, WorkspaceError where the
        disk takes no more."""
        files = [state[key] for key in FILES[1:] if state.get(key)]
        if not files:
            raise self._lost(state)
        part = batch.answers.with_suffix(".part")
        try:
            with part.open("wb") as file:
                for file_id in files:
                    reply = await self._sent(self._connected().download(f"{_path_of(file_id)}/content", file))
                    self._check(reply)
                    file.write(b"\n")
                file.flush()
                os.fsync(file.fileno())
            move(part, batch.answers)
        except OSError as error:
            raise unwritable(part, error) from error

    def _lost(self, state: dict[str, Any]) -> BatchLost:
        """Why a batch gave nothing; a full queue has room later, what a person called off stays off."""
        status = str(state.get("status"))
        told = [each for each in (state.get("errors") or {}).get("data") or [] if isinstance(each, dict)]
        why = "; ".join(self.hide(str(each.get("message") or each.get("code"))) for each in told[:3])
        full = any(each.get("code") == "token_limit_exceeded" for each in told)
        kind = "rate_limited" if full else "timeout" if status == "expired" else "refused"
        return BatchLost(
            one_line(f"the batch {state.get('id')} ended as '{status}'" + (f": {why}" if why else "")),
            kind=kind,
            retryable=kind != "refused",
            where=self.where,
            hint="lower `concurrency`, or wait" if full else "",
        )

    async def _json(self, method: str, path: str, data: object = None) -> dict[str, Any]:
        reply = await self._sent(self._connected().request(method, path, data))
        self._check(reply)
        try:
            found = json.loads(reply.content)
            if isinstance(found, dict):
                return found
        except (ValueError, RecursionError):
            pass
        raise self._failure(f"/{path} answered no JSON object", "malformed")

    def _id(self, found: dict[str, Any]) -> str:
        if not isinstance(found.get("id"), str):
            raise self._failure("the answer has no id", "malformed")
        return str(found["id"])

    async def _sent(self, sending: Any) -> Reply:
        import aiohttp

        try:
            reply: Reply = await sending
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if getattr(error, "errno", None) in OF_DISK:
                raise
            kind = "timeout" if isinstance(error, TimeoutError) else "unreachable"
            raise self._failure(str(error) or type(error).__name__, kind) from None
        except ValueError as error:
            raise self._failure(f"the request cannot be sent: {error}", "refused") from None
        return reply

    def _check(self, reply: Reply) -> None:
        if not 200 <= reply.status < 300:
            message = self.hide(server_message(reply.content))
            error = failure_from_status(reply.status, reply.headers, message, self.where)
            if reply.status in {404, 405}:
                error.hint = "`batch: true` is for endpoints with OpenAI's Batch API"
            raise error

    def _connected(self) -> Connection:
        if self._connection is None:
            import httpx2

            try:
                self._connection = Connection(self._base_url, self._key)
            except (ValueError, TypeError, httpx2.InvalidURL):
                raise self._failure("not an address", "unreachable") from None
        return self._connection

    def _failure(self, what: str, kind: str) -> EndpointError:
        retryable = kind != "refused"
        return EndpointError(one_line(self.hide(what)), kind=kind, retryable=retryable, where=self.where)


def _bears_name(state: dict[str, Any], batch: Batch) -> bool:
    metadata = state.get("metadata")
    return isinstance(metadata, dict) and metadata.get(NAME) == batch.id


def _path_of(file_id: object) -> str:
    return f"files/{quote(str(file_id), safe='')}"


def _refused(batch: Batch, refused: Sequence[EndpointError]) -> EndpointError:
    """BatchLost where the endpoint knows nothing of the batch, or of its files, else that nobody can tell.

    It was paid for, so a person should see this before its calls are asked again, which the next run does.
    """
    last = refused[-1]
    what = one_line(f"batch {batch.remote_id} cannot be collected: {last.what}")
    if all(error.status in GONE for error in refused):
        hint = "was another key used before? The same command sends these calls again"
        return _lost_by(last, what, hint, worked_on=True)
    hint = "the batch is kept: the same command asks for it again"
    return EndpointError(what, kind=last.kind, retryable=False, where=last.where, hint=hint)


def _lost_by(error: EndpointError, what: str, hint: str, *, worked_on: bool = False) -> BatchLost:
    where = error.where
    return BatchLost(what, kind=error.kind, retryable=False, worked_on=worked_on, where=where, hint=hint)


def move(part: Path, whole: Path) -> None:
    """Gives a file that is complete its name, for good."""
    part.replace(whole)
    folder = os.open(whole.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
