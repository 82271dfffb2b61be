"""A model that is asked in batches: single calls come in, gather, go out as one file, and get their answers.

A batch goes out when nothing was added for a moment, since then every task waits for an answer, or when it
is full. Calls of batches that an earlier process left are not sent again: whoever asks them waits for that
batch. What no line answers, or a line says has failed, is that call's failure; the engine asks it again, and
it goes with a later batch. How files are carried is a Carrier's matter.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol
from uuid import uuid4

from factory.errors import EndpointError
from factory.failures import REQUEST_FAULTS
from factory.models.batch_closing import Closing
from factory.models.batch_lines import Result, failed_calls, read_results, request_line, unanswered
from factory.models.batch_log import Batch, BatchLog
from factory.models.chat import ChatRequests
from factory.types import Completion, Request

MAX_REQUESTS: Final = 50_000  # of one file, by OpenAI's rules, and its bytes
MAX_BYTES: Final = 190_000_000


class BatchLost(EndpointError):
    """Nothing will come of a batch any more."""


class Carrier(Protocol):
    """How the files of a batch come to a model, and the answers back."""

    is_ours: bool  # nobody bills what it carries

    @property
    def where(self) -> str: ...

    def hide(self, text: str) -> str:
        """What an endpoint says, without the key that it may quote."""
        ...

    async def submit(self, batch: Batch, *, perhaps_sent: bool) -> str:
        """Hands a batch over; returns what it is called there. `perhaps_sent`: an earlier attempt may have
        got through, which must not be paid twice.

        Raises BatchLost where it was refused, and EndpointError where nobody can tell now."""
        ...

    async def collect(self, batch: Batch) -> None:
        """Waits until `batch.answers` stands on the disk, whole.

        Raises BatchLost where it never will, and EndpointError or ServerError where nobody can tell now.
        """
        ...

    async def discard(self, batch: Batch) -> None:
        """Deletes what the batch left elsewhere, and nothing else; raises EndpointError where it cannot."""
        ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class _Trip:
    """A batch on its way: gathering while `batch` is None; `results` shrink as they are taken."""

    requests: dict[str, bytes] = field(default_factory=dict)
    num_bytes: int = 0
    added_at: float = field(default_factory=time.monotonic)
    is_full: asyncio.Event = field(default_factory=asyncio.Event)
    batch: Batch | None = None
    perhaps_sent: bool = False
    results: dict[str, Result] | None = None
    work: asyncio.Task[None] | None = None


class BatchModel:
    """Implements ports.Model for one model; belongs to one event loop."""

    calls_outlive = True  # a call that was handed over goes on without us
    quiet_seconds = 1.0  # without a further request, after which a batch goes out

    def __init__(
        self,
        model_id: str,
        requests: ChatRequests,
        carrier: Carrier,
        log: BatchLog,
        max_requests: int,
        on_progress: Callable[[str], None],
    ) -> None:
        self.max_requests = min(max_requests, MAX_REQUESTS)
        self.is_ours = carrier.is_ours
        self._id = model_id
        self._encode = requests.encode
        self._carrier = carrier
        self._log = log
        self._on_progress = on_progress
        self._gathering: _Trip | None = None
        self._trips: dict[str, _Trip] = {}  # by call, until its result is taken
        self._all: list[_Trip] = []
        self._closing = Closing(carrier, log, on_progress)
        for batch in log.open_batches():
            if batch.model_id == model_id:
                trip = _Trip(batch=batch, perhaps_sent=True)
                self._all.append(trip)
                self._trips |= dict.fromkeys(batch.call_ids, trip)  # of two the later one holds

    @property
    def id(self) -> str:
        return self._id

    async def complete(self, request: Request) -> Completion:
        """The answer, whenever its batch comes back; raises EndpointError, or ServerError of a runner."""
        if request.given:
            what = "how likely a given answer is cannot be asked in batches"
            hint = "ask the model's server call by call"
            raise EndpointError(what, kind="refused", retryable=False, where=self._where, hint=hint)
        call_id = request.id
        trip = self._trips.get(call_id) or self._add(call_id, request)
        try:
            await self._carried(trip)
        except asyncio.CancelledError:
            if trip.batch is None:  # it has not left, and nobody wants it any more
                trip.requests.pop(call_id, None)
                self._trips.pop(call_id, None)
            raise
        self._trips.pop(call_id, None)
        result = (trip.results or {}).pop(call_id, None) or unanswered("no line is about it", self._where)
        if not trip.results:
            asyncio.get_running_loop().call_soon(self._finish)  # the engine stores the last of them first
        if isinstance(result, EndpointError):
            raise result
        return result

    async def close(self) -> None:
        """Leaves what is out to itself, and ends what is in the store; calling it again does nothing."""
        left = [trip.work for trip in self._all if trip.work]
        for work in left:
            work.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self._finish()
        self._all = []
        await self._closing.close()

    @property
    def _where(self) -> str:
        return self._carrier.where

    def _add(self, call_id: str, request: Request) -> _Trip:
        line = request_line(call_id, self._encode(request))
        trip = self._gathering
        if trip is not None and trip.num_bytes + len(line) > MAX_BYTES:
            trip.is_full.set()
            trip = None
        if trip is None:
            trip = self._gathering = _Trip()
            self._all.append(trip)
        trip.requests[call_id] = line
        trip.num_bytes += len(line)
        trip.added_at = time.monotonic()
        self._trips[call_id] = trip
        if len(trip.requests) >= self.max_requests:
            trip.is_full.set()
            self._gathering = None
        return trip

    async def _carried(self, trip: _Trip) -> None:
        """Returns when the results are there; all who wait for a trip share its work, and its error."""
        if trip.results is None and (trip.work is None or trip.work.done()):
            trip.work = asyncio.create_task(self._carry(trip))
        if trip.work is not None:
            await asyncio.shield(trip.work)

    async def _carry(self, trip: _Trip) -> None:
        """Takes a trip from where it stands to its results; where that fails, it stands and can go on."""
        if trip.batch is None:
            await self._wait_until_quiet(trip)
            if not trip.requests:  # all were cancelled
                self._all.remove(trip)
                return
            trip.batch = self._log.prepare(f"batch_{uuid4().hex[:20]}", self._id, trip.requests)
            trip.requests = {}
        batch = trip.batch
        try:
            if batch.remote_id is None:
                perhaps_sent, trip.perhaps_sent = trip.perhaps_sent, True
                batch.remote_id = await self._carrier.submit(batch, perhaps_sent=perhaps_sent)
                self._log.record(batch, "submitted")
            num = f"{len(batch.call_ids):,} requests"
            told = f"batch {batch.id}: {num} are with {self._where} as {batch.remote_id}"
            self._on_progress(f"{told}; after a Ctrl-C the same command goes on with them")
            await self._carrier.collect(batch)
        except EndpointError as error:
            if error.kind in REQUEST_FAULTS:  # no request of it is at fault
                error.kind = "batch_failed"
            if isinstance(error, BatchLost):
                self._lose(trip, batch, error)
            raise
        self._read(trip, batch)

    async def _wait_until_quiet(self, trip: _Trip) -> None:
        while not trip.is_full.is_set():
            seconds_left = trip.added_at + self.quiet_seconds - time.monotonic()
            if seconds_left <= 0:
                break
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds_left):
                    await trip.is_full.wait()
        if self._gathering is trip:
            self._gathering = None

    def _lose(self, trip: _Trip, batch: Batch, error: EndpointError) -> None:
        """Its calls go with another batch, if they are asked again."""
        self._log.record(batch, "lost", {"error": str(error)})
        self._trips = {call: of for call, of in self._trips.items() if of is not trip}
        self._all.remove(trip)

    def _read(self, trip: _Trip, batch: Batch) -> None:
        with batch.answers.open("rb") as lines:
            trip.results = read_results(lines, self._where, self._carrier.hide)
        num, batch.failed = len(batch.call_ids), failed_calls(batch.call_ids, trip.results)
        self._log.record(batch, "collected", {"answered": num - len(batch.failed)})
        self._on_progress(f"batch {batch.id}: collected, {len(batch.failed):,} of {num:,} failed")

    def _finish(self) -> None:
        """Begins to end the batches whose answers are in the store."""
        trips, self._all = self._all, []
        for trip in trips:
            if trip.batch is not None and self._log.is_stored(trip.batch):
                self._closing.begin(trip.batch)
            else:
                self._all.append(trip)
