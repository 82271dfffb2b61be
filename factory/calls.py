"""One call to a model from beginning to end, and the row of the store that remembers it.

A call is what was asked, for whom and for what, and how often it was sent; a call that was
given up leaves a row too. How calls are made is the engine's.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from factory.budget import Spend
from factory.errors import BudgetExceeded, EndpointError, InputError
from factory.ports import Model
from factory.recipe import ModelSpec
from factory.slots import Slots
from factory.store.text import quick_json
from factory.tokens import pack
from factory.types import Completion, Json, Request

OF_REPLICA: Final = {401, 403, 404}  # statuses that need not be about the request


@dataclass(frozen=True, slots=True)
class Purpose:
    """Who asks which model, what for, and whose slots it takes; `replicas` are where the model answers."""

    role: str
    replicas: Sequence[Model]
    spec: ModelSpec
    slots: Slots
    stage: str
    round: int


@dataclass(slots=True)
class Call:
    """A request under way. `error` is an `EndpointError.kind`, 'cancelled' (cut off by us) or 'defect'."""

    id: str
    request: Request
    purpose: Purpose
    num_attempts: int = 0
    replica: int | None = None  # where the latest attempt went
    refused_at: set[int] = field(default_factory=set)  # replicas that know no such key, or no such model
    error: str = "cancelled"
    lost: Spend = field(default_factory=Spend)  # what attempts without an answer can have cost at most
    began: float = field(default_factory=time.monotonic)
    sent_at: float = math.inf  # of the latest attempt, on the same clock

    def latency_ms(self) -> float:
        """Milliseconds since the request was made, waiting included."""
        return 1000 * (time.monotonic() - self.began)

    def blame_replica(self, error: EndpointError) -> None:
        """Makes a refusal that another replica may not share a failure of the replica alone.

        One may have another key, or have come back without the adapter. What all refuse stays refused.
        """
        if error.status in OF_REPLICA and self.replica is not None:
            self.refused_at.add(self.replica)
            if len(self.refused_at) < len(self.purpose.replicas):
                error.kind, error.retryable = "server_error", True

    def may_be_billed(self, error: BaseException) -> bool:
        """Whether somebody may bill an attempt that ended by `error`, since the model may have worked on it.

        One that is left in a batch counts where its answer is collected.
        """
        if self.goes_on(error) or getattr(self.purpose.replicas[0], "is_ours", False):
            return False
        cut_off = isinstance(error, asyncio.CancelledError | BudgetExceeded)
        return error.worked_on if isinstance(error, EndpointError) else cut_off

    def goes_on(self, error: BaseException) -> bool:
        """Whether an attempt that ended by `error` was only left: it is in a batch that goes on without us.

        It counts where its answer is collected. Attempts that failed before it count now.
        """
        left = isinstance(error, asyncio.CancelledError | InputError | BudgetExceeded)
        return left and getattr(self.purpose.replicas[0], "calls_outlive", False)


def answered_row(call: Call, run_id: str, answer: Completion, dollars: float) -> dict[str, Json]:
    """The row of a call that was answered, in the columns of `calls`."""
    return _row(call, run_id) | {
        "response": answer.text,
        "reasoning": answer.reasoning or None,
        "status": "ok",
        "error": None,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "latency_ms": answer.latency_ms,
        "cost_dollars": dollars,
        "logprobs": quick_json(pack(answer.logprobs)) if answer.logprobs else None,
    }


def failed_row(call: Call, run_id: str) -> dict[str, Json]:
    """The row of a call that was given up, in the columns of `calls`."""
    return _row(call, run_id) | {
        "response": None,
        "reasoning": None,
        "status": "failed",
        "error": call.error,
        "finish_reason": None,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "latency_ms": call.latency_ms(),
        "cost_dollars": 0.0,
    }


def _row(call: Call, run_id: str) -> dict[str, Json]:
    return {
        "id": call.id,
        "run_id": run_id,
        "round": call.purpose.round,
        "stage": call.purpose.stage,
        "role": call.purpose.role,
        "model_id": call.request.model_id,
        "request": quick_json(_request_json(call.request)),
        "attempts": call.num_attempts,
        "lost_tokens": call.lost.tokens or None,
        "lost_dollars": call.lost.dollars or None,
    }


def _request_json(request: Request) -> Json:
    sampling = request.sampling
    return {
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "schema": request.schema,
        "sampling": {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed,
        },
        "ordinal": request.ordinal,
        "instead_of": request.instead_of or None,
        **({"tools": list(request.tools)} if request.tools else {}),
        **({"top_logprobs": request.top_logprobs} if request.top_logprobs else {}),
        **({"given": True} if request.given else {}),
    }
