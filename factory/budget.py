"""The hard limits of a run: what a call could cost is reserved before it, what it did cost settled after.

The sum of what was spent and what is reserved never passes a limit, however many calls are in
flight. A call that would fit only once others have settled waits for them; one that would not fit even
then is refused. Every attempt that left counts as a call; tokens and dollars count as the endpoint
reported them, and at the most that they can be where it may have worked without our getting an answer.
Nothing here sends anything, and the store is only read.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factory.errors import BudgetExceeded
from factory.recipe import BudgetSpec, Price, Recipe
from factory.types import Json, Message

if TYPE_CHECKING:
    from factory.store.store import Store

# What a chat template adds: role markers around each message, and a default system prompt.
TOKENS_PER_MESSAGE = 16
TOKENS_PER_CALL = 128
COUNTED = ("calls", "tokens", "dollars")  # limits on what calls cost; minutes pass by themselves

# Earlier time is the time between one recorded event of the run and the next. The start of a stage ends no
# such interval, since the pause before it is a restart's. What a killed process did after its last
# record is not known and not counted. A suite is in no stage: its row says how long its harness took.
SPENT = """
SELECT coalesce(sum(attempts), 0)::BIGINT AS calls,
       coalesce(sum(prompt_tokens + completion_tokens), 0)::BIGINT AS tokens,
       coalesce(sum(cost_dollars), 0)::DOUBLE AS dollars,
       coalesce(sum(lost_tokens), 0)::BIGINT AS lost_tokens,
       coalesce(sum(lost_dollars), 0)::DOUBLE AS lost_dollars
FROM calls WHERE starts_with(run_id, ?)
"""
MINUTES = """
WITH events AS (
    SELECT epoch(created_at) AS second, stage = 'suite' AS starts FROM calls WHERE starts_with(run_id, $1)
    UNION ALL SELECT epoch(created_at), status = 'started' FROM stages WHERE starts_with(run_id, $1)
), intervals AS (
    SELECT second - lag(second) OVER (ORDER BY second, starts) AS seconds, starts FROM events
    UNION ALL SELECT latency_ms / 1000, false FROM calls WHERE starts_with(run_id, $1) AND stage = 'suite'
)
SELECT coalesce(sum(seconds) FILTER (NOT starts), 0)::DOUBLE / 60 AS minutes FROM intervals
"""


def bound_prompt_tokens(messages: Sequence[Message], tools: Sequence[Json] = ()) -> int:
    """At least as many tokens as a byte-level tokenizer makes of the messages: one for each byte of UTF-8.

    Tools count as they are at their longest, in lines with indents, as some templates write them.
    """
    texts = [message.content for message in messages]
    texts += [json.dumps(tool, ensure_ascii=False, indent=4) for tool in tools]
    num_bytes = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return num_bytes + TOKENS_PER_MESSAGE * len(texts) + TOKENS_PER_CALL


def hold_calls(recipe: Recipe, calls: Iterable[tuple[str, int, int]]) -> dict[str, Spend]:
    """What calls that are out can cost, by id; at the recipe's dearest price, since the role is not known.

    `calls` are id, most tokens of the prompt and most tokens of the answer.
    """
    prices = [model.price for model in recipe.models.values()]
    price = Price(
        prompt=max(each.prompt for each in prices), completion=max(each.completion for each in prices)
    )
    return {call: bound_spend(num_prompt, most, price) for call, num_prompt, most in calls}


def bound_spend(prompt_tokens: int, max_tokens: int, price: Price) -> Spend:
    """What one call costs at most."""
    return Spend(1, prompt_tokens + max_tokens, cost_dollars(price, prompt_tokens, max_tokens))


def cost_dollars(price: Price, prompt_tokens: int, completion_tokens: int) -> float:
    """Dollars for that many tokens at `price`, which is per million tokens."""
    return (price.prompt * prompt_tokens + price.completion * completion_tokens) / 1_000_000


@dataclass(frozen=True, slots=True)
class Spend:
    """What calls cost: attempts sent, tokens of prompts and answers together, dollars."""

    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(self.calls + other.calls, self.tokens + other.tokens, self.dollars + other.dollars)

    def __sub__(self, other: Spend) -> Spend:
        return Spend(self.calls - other.calls, self.tokens - other.tokens, self.dollars - other.dollars)


class Budget:
    """Limits of one run, shared by all its calls; belongs to one event loop.

    `spent` and `minutes` are what the run has cost before this process, `lost` the part of `spent` that may
    have been billed without an answer; `held`, by call, is what those can cost that an earlier process handed
    over and that are not settled. An endpoint that reports more tokens than `max_tokens` allowed, or bills
    for calls that it refused, is beyond it.
    """

    def __init__(
        self,
        spec: BudgetSpec,
        spent: Spend | None = None,
        minutes: float = 0.0,
        held: Mapping[str, Spend] | None = None,
        lost: Spend | None = None,
    ) -> None:
        self.spec = spec
        self._limits = [(name, limit) for name in COUNTED if (limit := getattr(spec, name)) is not None]
        self.spent = spent or Spend()
        self.lost = lost or Spend()
        self.reserved = Spend()
        self._held = dict(held or {})
        self.held = sum(self._held.values(), Spend())
        self._num_reserved = 0
        self._settled = asyncio.Event()
        self._began = time.monotonic() - 60 * minutes

    @classmethod
    def from_store(
        cls, store: Store, run_id: str, spec: BudgetSpec, held: Mapping[str, Spend] | None = None
    ) -> Budget:
        """A budget that counts what the run has already spent, as the store recorded it, controls included.

        A control's identity is the run's own with its name behind it.
        """
        row = store.select(SPENT, (run_id,))[0]
        lost = Spend(0, row["lost_tokens"], row["lost_dollars"])
        minutes = store.select(MINUTES, (run_id,))[0]["minutes"]
        return cls(spec, Spend(row["calls"], row["tokens"], row["dollars"]) + lost, minutes, held, lost)

    @property
    def minutes(self) -> float:
        """Wall minutes of the run: this process's and those recorded earlier."""
        return (time.monotonic() - self._began) / 60

    def seconds_left(self) -> float | None:
        """Seconds until the limit on minutes, not below 0; None where there is none."""
        if self.spec.minutes is None:
            return None
        return max(0.0, 60 * (self.spec.minutes - self.minutes))

    def refuse_if_spent(self, price: Price) -> None:
        """Raises BudgetExceeded where no call at all would fit: for work that asks by itself."""
        self._refuse(bound_spend(1, 0, price))

    def left(self) -> dict[str, float]:
        """What is left of each limit but minutes, for work that asks by itself and is counted with `add`."""
        taken = self.spent + self.reserved + self.held
        return {name: limit - getattr(taken, name) for name, limit in self._limits}

    def add(self, used: Spend) -> None:
        """Counts what was spent without a reservation."""
        self.spent = self.spent + used

    async def reserve(self, prompt_tokens: int, max_tokens: int, price: Price, call_id: str = "") -> Spend:
        """Sets aside what one call can cost at most, waiting where only calls in flight stand in the way.

        For a call that is held already nothing more is set aside. Returns the reservation, to be given to
        `settle`, `release` or `keep` exactly once. Raises BudgetExceeded, which names the limit.
        """
        need = bound_spend(prompt_tokens, max_tokens, price)
        if (held := self._held.pop(call_id, None)) is not None:
            self.held = self.held - held if self._held else Spend()
            need = held
        else:
            while True:
                self._refuse(need)
                if not self._exceeded(self.reserved, self.held, need):
                    break
                await self._settled.wait()
        self.reserved = self.reserved + need
        self._num_reserved += 1
        return need

    def settle(self, reservation: Spend, prompt_tokens: int, completion_tokens: int, price: Price) -> float:
        """Replaces a reservation by what the call used; returns its cost in dollars."""
        dollars = cost_dollars(price, prompt_tokens, completion_tokens)
        self._replace(reservation, Spend(1, prompt_tokens + completion_tokens, dollars))
        return dollars

    def release(self, reservation: Spend) -> None:
        """Gives a reservation back after a call that was refused, which still counts as a call."""
        self._replace(reservation, Spend(1))

    def keep(self, reservation: Spend) -> None:
        """Counts a reservation as spent, after a call without an answer that may be billed."""
        self.lost = self.lost + Spend(0, reservation.tokens, reservation.dollars)
        self._replace(reservation, reservation)

    def _replace(self, reservation: Spend, used: Spend) -> None:
        self.spent = self.spent + used
        self._num_reserved -= 1
        # Sums of floats drift; with nothing in flight the remainder would make a call wait for nobody.
        self.reserved = self.reserved - reservation if self._num_reserved else Spend()
        self._settled.set()
        self._settled = asyncio.Event()

    def _exceeded(self, *further: Spend) -> str:
        """The name of the first limit that `spent` and `further` pass together, or the empty string."""
        for name, limit in self._limits:
            if sum((getattr(spend, name) for spend in further), getattr(self.spent, name)) > limit:
                return name
        return ""

    def _refuse(self, need: Spend) -> None:
        if self.spec.minutes is not None and self.minutes >= self.spec.minutes:
            raise self.exceeded("minutes")
        if name := self._exceeded(self.held, need):  # those that are held may never be asked for again
            raise self.exceeded(name)

    def exceeded(self, name: str) -> BudgetExceeded:
        """The error that names the limit, how much of it is used, and how much of that without an answer."""
        limit = getattr(self.spec, name)
        used, lost = getattr(self.spent, name, self.minutes), getattr(self.lost, name, 0)
        shown = f"{_show(used)} used"
        if lost:
            shown += f", of which {_show(lost)} may have been billed without an answer"
        return BudgetExceeded(
            f"the next call could pass the limit of {limit:,} {name} ({shown})",
            where=f"budget.{name}",
            hint="raise it and run again; what is stored is not asked again",
        )


def _show(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,.4g}"
