"""The one way to call a model: stored answer, slot, budget, call, retry, record.

`Engine.ask` binds a role and a model to a coroutine that generators, refiners and evaluators
call. It answers from the store where the same request was answered before, so running work again is
resuming it. Two equal requests in flight share one call. An answer that is not what its schema asks for
is asked again. `Engine.run_tasks` keeps a bounded number of tasks going, where one that fails is data.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from factory.answers import ask_again, mended
from factory.backlog import Backlog
from factory.backoff import delay_seconds, is_overload
from factory.budget import Budget, bound_prompt_tokens
from factory.calls import Call, Purpose, answered_row, failed_row
from factory.counts import Counts, Rate, describe
from factory.digests import canonical_pairs, hash_text
from factory.errors import BudgetExceeded, EndpointError, FactoryError, InputError, ServerError
from factory.failures import FailureRule
from factory.interpreter import tuned_for_calls
from factory.ports import Ask, Generator, Model
from factory.recipe import ModelSpec
from factory.slots import Slots
from factory.types import Completion, Json, Message, Request, Sample, Sampling, Task, digest

if TYPE_CHECKING:
    from factory.store.store import Store

PENDING_PER_SLOT: Final = 4
MAX_ASKED_AGAIN: Final = 2  # times for one question, where answers are not what the schema asks for

Outcome = tuple[Task, list[Sample] | FactoryError]


@dataclass(slots=True)
class _Shared:
    """A call in flight and how many wait for it."""

    task: asyncio.Task[Completion]
    num_waiting: int = 0


class Engine:
    """Calls models for one run; belongs to one event loop."""

    backoff_seconds = 0.5  # at most before the second attempt; doubled or more for each further one

    def __init__(
        self, store: Store, budget: Budget, run_id: str, seed: int = 0, max_failure_share: float = 0.2
    ) -> None:
        self.store = store
        self.budget = budget
        self.run_id = run_id
        self.seed = seed
        self.max_failure_share = max_failure_share
        self._counts = Counts()
        self._rate = Rate()
        self._backlog = Backlog(store)
        self._slots: dict[str, Slots] = {}
        self._in_flight: dict[str, _Shared] = {}

    @property
    def counts(self) -> Counts:
        """A snapshot of what was done since this engine was made, for all runs that it serves."""
        return self._counts.snapshot()

    @property
    def slots(self) -> dict[str, Slots]:
        """The slots of each server that was asked so far, by its name."""
        return dict(self._slots)

    def line(self) -> str:
        """Rate, tokens, cost and failures, as the text of a progress line."""
        return describe(self._counts, self._rate.update(self._counts.num_answered))

    def for_run(self, run_id: str, apart: bool = False) -> Engine:
        """The same engine for another run: all else is shared, but for the slots where it is `apart`."""
        other = copy.copy(self)
        other.run_id = run_id
        other._slots = {} if apart else self._slots
        return other

    def slots_of(self, spec: ModelSpec, num_replicas: int = 1) -> Slots:
        """The slots of a server, which all its roles share; the largest `concurrency` of them counts."""
        slots = self._slots.get(spec.server)
        if slots is None:
            slots = self._slots[spec.server] = Slots(spec.concurrency, num_replicas)
        slots.allow(spec.concurrency)
        return slots

    def ask(
        self, role: str, model: Model, spec: ModelSpec, stage: str, round_number: int, parser: str = ""
    ) -> Ask:
        """How work of `stage` asks `model`, whose calls of tools `parser` reads; sampling is the spec's."""
        replicas: Sequence[Model] = getattr(model, "replicas", (model,))
        purpose = Purpose(role, replicas, spec, self.slots_of(spec, len(replicas)), stage, round_number)
        usual = spec.sampling.sampling()

        async def ask(
            messages: Sequence[Message],
            *,
            schema: Json | None = None,
            sampling: Sampling | None = None,
            ordinal: int = 0,
            tools: Sequence[Json] = (),
            top_logprobs: int = 0,
            given: bool = False,
        ) -> Completion:
            sampling = self._seeded(sampling or usual, messages, ordinal)
            further = (ordinal, "", tuple(tools), parser, top_logprobs, given)
            request = Request(model.id, tuple(messages), schema, sampling, *further)
            answer = self._answer if schema is None else self._answer_as_asked
            return await answer(request, purpose)

        return ask

    async def _answer_as_asked(self, request: Request, purpose: Purpose) -> Completion:
        """An answer that holds what the schema requires; after the last attempt whatever came.

        What follows from it depends on stored answers alone, so that running it again comes to the same: an
        endpoint that fails or a spent budget on the way is the task's error.
        """
        answer = mended(await self._answer(request, purpose), request.schema)
        for _ in range(MAX_ASKED_AGAIN):
            again = ask_again(request, answer, self.seed)
            if again is None:
                break
            before, request = answer, again
            answer = mended(await self._answer(request, purpose), request.schema)
            if answer.text == before.text:
                break
        return answer

    def _seeded(self, sampling: Sampling, messages: Sequence[Message], ordinal: int) -> Sampling:
        """Sampling with a seed of its own for each request, so that the same run draws the same answers."""
        if sampling.temperature == 0 or sampling.seed is not None:
            return sampling
        what = f"[{self.seed},{canonical_pairs(messages)},{ordinal}]"  # as canonical JSON
        return replace(sampling, seed=int(hash_text(what)[:8], 16) >> 1)

    async def _answer(self, request: Request, purpose: Purpose) -> Completion:
        call_id = request.id
        if (stored := self.store.find_call(call_id)) is not None:
            self._counts.num_found += 1
            return stored
        shared = self._in_flight.get(call_id)
        if shared is None:
            task = asyncio.create_task(self._settle(Call(call_id, request, purpose)))
            shared = self._in_flight[call_id] = _Shared(task)
        shared.num_waiting += 1
        try:
            return await asyncio.shield(shared.task)
        finally:
            shared.num_waiting -= 1
            if shared.num_waiting == 0:
                del self._in_flight[call_id]
                if not shared.task.done():
                    await _stop([shared.task])

    async def _settle(self, call: Call) -> Completion:
        """Attempts until an answer comes or the retries are spent; either way the call is recorded."""
        try:
            answer, dollars = await self._retry(call)
        except BaseException as error:
            if call.num_attempts:
                if not isinstance(error, FactoryError):
                    call.error = "cancelled" if isinstance(error, asyncio.CancelledError) else "defect"
                self._counts.failed[call.error] += 1
                self.store.append("calls", [failed_row(call, self.run_id)])
            raise
        self._counts.add(answer, dollars)
        self._counts.num_asked_again += bool(call.request.instead_of)
        self.store.append("calls", [answered_row(call, self.run_id, answer, dollars)])
        return answer

    async def _retry(self, call: Call) -> tuple[Completion, float]:
        while True:
            try:
                return await self._attempt(call)
            except EndpointError as error:
                call.error = error.kind
                if not error.retryable or call.num_attempts > call.purpose.spec.max_retries:
                    raise
                wait_seconds = self._wait_seconds(call, error)
            await asyncio.sleep(wait_seconds)

    async def _attempt(self, call: Call) -> tuple[Completion, float]:
        """One answer and its dollars; slot and reservation are given back whatever happens."""
        request, price = call.request, call.purpose.spec.price
        first = call.num_attempts > 0 or bool(request.instead_of)
        async with call.purpose.slots.slot(first=first, not_at=call.replica) as slot:
            await self._backlog.wait_for_room()
            call.replica = slot.replica
            bound = bound_prompt_tokens(request.messages, request.tools)
            reservation = await self.budget.reserve(bound, request.sampling.max_tokens, price, call.id)
            call.num_attempts += 1
            call.sent_at = time.monotonic()
            self._counts.num_attempts += 1
            try:
                answer = await self._complete(call.purpose.replicas[slot.replica], request)
            except BaseException as error:
                if call.may_be_billed(error):
                    call.lost += reservation
                    self.budget.keep(reservation)
                else:
                    self.budget.release(reservation)
                call.num_attempts -= call.goes_on(error)
                if isinstance(error, EndpointError):
                    call.blame_replica(error)
                    slot.failed, slot.overloaded = error.retryable, is_overload(error)
                    slot.retry_after_seconds = error.retry_after_seconds
                raise
            slot.answered = True
            dollars = self.budget.settle(reservation, answer.prompt_tokens, answer.completion_tokens, price)
        return replace(answer, call_id=call.id, latency_ms=answer.latency_ms or call.latency_ms()), dollars

    async def _complete(self, model: Model, request: Request) -> Completion:
        """The model's answer, cut off where the run's minutes end."""
        seconds_left = self.budget.seconds_left()
        if seconds_left is None:
            return await model.complete(request)
        try:
            async with asyncio.timeout(seconds_left) as deadline:
                return await model.complete(request)
        except TimeoutError:
            if deadline.expired():
                raise self.budget.exceeded("minutes") from None
            raise

    def _wait_seconds(self, call: Call, error: EndpointError) -> float:
        """Until the next attempt, not beyond the run's minutes; spread by a hash of the call."""
        slots, attempts = call.purpose.slots, call.num_attempts
        is_up, elsewhere = slots.is_up(call.sent_at), slots.others_sound(call.replica)
        spread = int(digest([call.id, attempts], 6), 16) / 16**6
        most = self.backoff_seconds
        wait = delay_seconds(error, attempts, most, is_up=is_up, elsewhere=elsewhere, spread=spread)
        seconds_left = self.budget.seconds_left()
        return wait if seconds_left is None else min(wait, seconds_left)

    async def run_tasks(
        self, generator: Generator, tasks: Iterable[Task], ask: Ask, concurrency: int
    ) -> AsyncGenerator[Outcome, None]:
        """Each task with its samples or its error, as they finish; contextlib.aclosing stops it early.

        `tasks` is taken from lazily, four times `concurrency` ahead at most. A spent budget ends the intake:
        tasks under way finish, and last comes one of those that it refused, with BudgetExceeded.
        Raises FactoryError where failures are too many (see `FailureRule`).
        """
        queue: asyncio.Queue[asyncio.Task[Outcome]] = asyncio.Queue()
        pending: set[asyncio.Task[Outcome]] = set()
        remaining, rule = iter(tasks), FailureRule(self.max_failure_share)
        refused: tuple[Task, BudgetExceeded] | None = None
        with tuned_for_calls():
            try:
                while True:
                    while not refused and len(pending) < PENDING_PER_SLOT * concurrency:
                        if (task := next(remaining, None)) is None:
                            break
                        work = asyncio.create_task(_make(generator, task, ask))
                        work.add_done_callback(queue.put_nowait)
                        pending.add(work)
                    if not pending:
                        break
                    done = await queue.get()
                    pending.discard(done)
                    task, result = done.result()
                    if isinstance(result, BudgetExceeded):
                        refused = refused or (task, result)
                        continue
                    rule.observe(result if isinstance(result, FactoryError) else None)
                    yield task, result
                rule.finish()
                if refused:
                    yield refused
            finally:
                await _stop(pending)


async def _make(generator: Generator, task: Task, ask: Ask) -> Outcome:
    try:
        return task, await generator.make(task, ask)
    except (InputError, ServerError):  # a full disk or a dead server is nobody's single failure
        raise
    except FactoryError as error:
        return task, error


async def _stop(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels what still runs and waits until it has given everything back."""
    running = list(tasks)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
