"""How many more tasks the budget bears, refining what comes of them included.

The budget refuses single calls; by then the teacher may have spent what the refiners needed, and paid
samples lie undecided. So a wave is no larger than what is left divided by what a task has cost so far, or may
cost at most while nothing is known. It is an estimate: the hard limits are the budget's own, and minutes,
which pass anyhow, are left to it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from factory.bench import Bench
from factory.forecast import COUNTS, cost_of_task

# What attempts without an answer may have cost counts too, as it does in the budget, but not what was cut off
# by us, since that says nothing of the tasks to come.
SPENT = """
    SELECT coalesce(sum(attempts), 0)::BIGINT AS calls,
           coalesce(sum(prompt_tokens + completion_tokens + lost_tokens), 0)::BIGINT AS tokens,
           coalesce(sum(cost_dollars + lost_dollars), 0)::DOUBLE AS dollars
    FROM (SELECT * REPLACE (
        CASE WHEN error = 'cancelled' THEN 0 ELSE coalesce(lost_tokens, 0) END AS lost_tokens,
        CASE WHEN error = 'cancelled' THEN 0 ELSE coalesce(lost_dollars, 0) END AS lost_dollars
    ) FROM calls) WHERE run_id = ? AND round = ? AND stage IN ('generate', 'refine')"""


class Affordable(NamedTuple):
    """Tasks that may begin, and the limit that says so; infinitely many where none does."""

    num_tasks: float
    limit: str


def num_affordable(bench: Bench, number: int, num_decided: int, num_under_way: int) -> Affordable:
    """What the budget bears beside the tasks under way; at least one task while none is decided."""
    budget = bench.engine.budget
    limits = {name: getattr(budget.spec, name) for name in COUNTS}
    if all(limit is None for limit in limits.values()):
        return Affordable(math.inf, "")
    at_most = costs = cost_of_task(bench.domain)
    room = dict.fromkeys(COUNTS, 0.0)
    if num_decided:
        spent = bench.store.select(SPENT, (bench.run_id, number))[0]
        costs = {name: spent[name] / num_decided for name in COUNTS}
        # A call is made only where the most that it may cost fits too.
        room = {**at_most, "calls": 0}
    found = Affordable(math.inf, "")
    for name, limit in limits.items():
        if limit is not None and costs[name] > 0:
            left = limit - getattr(budget.spent, name) - room[name]
            num = left / costs[name] - num_under_way
            found = min(found, Affordable(num, name))
    if not num_decided and not num_under_way:
        return found._replace(num_tasks=max(1.0, found.num_tasks))
    return found
