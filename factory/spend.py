"""What calls of a run cost, by stage and role, and which of them were paid for in vain.

A call is used where a sample, a decision or an evaluated item rests on it. Read from the store as it is;
budgets are kept in factory.budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from factory.accuracy import Selects
from factory.refiner_findings import has_measurements
from factory.store.queries import CALLS
from factory.store.trace import ITEMS


@dataclass(frozen=True)
class Spend:
    """Calls of one role in one stage, with those that failed and two kinds of answers paid for in vain.

    `num_asked_again`: not as the schema asks, so that a later call took its place. `num_unused`: no sample,
    decision or evaluated item rests on it, because its task failed later or is still under way; rows of an
    embedder are kept, and so none of these, nor are what proved an adapter or ran a suite. `num_found`
    are answers that another run had paid for, over and above `num_calls`.
    `seconds` is the sum of latencies, so it exceeds the wall clock where calls overlap. `lost_tokens` and
    `lost_dollars` may have been billed without an answer, over and above what was reported.
    """

    label: str
    stage: str
    role: str
    num_calls: int
    num_failed: int
    num_asked_again: int
    num_unused: int
    num_found: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float
    seconds: float
    lost_tokens: int
    lost_dollars: float


# What rests on which call: of `run_id`, or, for what is unused, of any run at all.
SPEND = """
    WITH used AS (
        SELECT r.run_id, e.parent AS id FROM round_samples r
        JOIN edges e ON e.child = r.sample_id AND e.relation = 'call'
        UNION SELECT d.run_id, e.parent FROM decisions d
        JOIN edges e ON e.child = d.rewrite_id AND e.relation = 'call'
        UNION SELECT run_id, evidence ->> 'call' FROM decisions
        UNION SELECT run_id, unnest(evidence ->> '$.calls[*]') FROM decisions
        UNION SELECT v.run_id, i.call_id FROM evaluations v
        JOIN evaluation_items i ON i.evaluation_id = v.id
        UNION SELECT v.run_id, i.judge_call_id FROM evaluations v JOIN ITEMS i ON i.evaluation_id = v.id
        MEASURED
    ), found AS (
        SELECT u.run_id, c.id, any_value(c.stage) AS stage, any_value(c.role) AS role
        FROM used u JOIN calls c ON c.id = u.id AND c.status = 'ok'
        GROUP BY u.run_id, c.id HAVING NOT bool_or(c.run_id = u.run_id)
    ), replaced AS (
        SELECT DISTINCT request ->> 'instead_of' AS id FROM calls
        WHERE status = 'ok' AND request ->> 'instead_of' IS NOT NULL
    ), counted AS (
        SELECT run_id, stage, role, 1 AS num_calls, (status = 'failed')::INT AS num_failed,
               (status = 'ok' AND replaced.id IS NOT NULL)::INT AS num_asked_again,
               (status = 'ok' AND used.id IS NULL AND replaced.id IS NULL
                AND role <> 'embedder' AND stage NOT IN ('prove', 'suite'))::INT AS num_unused,
               0 AS num_found, prompt_tokens, completion_tokens, cost_dollars, latency_ms,
               lost_tokens, lost_dollars
        FROM CALLS LEFT JOIN (SELECT DISTINCT id FROM used) used USING (id) LEFT JOIN replaced USING (id)
        UNION ALL SELECT run_id, stage, role, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0 FROM found
    )
    SELECT run_id, stage, role, sum(num_calls)::BIGINT AS num_calls,
           sum(num_failed)::BIGINT AS num_failed, sum(num_asked_again)::BIGINT AS num_asked_again,
           sum(num_unused)::BIGINT AS num_unused, sum(num_found)::BIGINT AS num_found,
           sum(prompt_tokens)::BIGINT AS prompt_tokens,
           sum(completion_tokens)::BIGINT AS completion_tokens, sum(cost_dollars) AS dollars,
           sum(latency_ms) / 1000 AS seconds, coalesce(sum(lost_tokens), 0)::BIGINT AS lost_tokens,
           coalesce(sum(lost_dollars), 0)::DOUBLE AS lost_dollars
    FROM counted WHERE list_contains($1::VARCHAR[], run_id)
    GROUP BY run_id, stage, role
    ORDER BY list_position($1::VARCHAR[], run_id),
             list_position(['generate', 'refine', 'evaluate'], stage), role""".replace("CALLS", CALLS)


MEASURED = """UNION SELECT v.run_id, i.call_id FROM refiner_evaluations v
        JOIN refiner_evaluation_items i ON i.evaluation_id = v.id"""


def read_spend(store: Selects, labels: Mapping[str, str]) -> tuple[Spend, ...]:
    """Calls by run, stage and role."""
    sql = SPEND.replace("ITEMS", ITEMS).replace("MEASURED", MEASURED if has_measurements(store) else "")
    rows = store.select(sql, (list(labels),))
    return tuple(Spend(labels[row.pop("run_id")], **row) for row in rows)


def total_spend(spend: Sequence[Spend]) -> Spend:
    """The sum over all stages, roles and runs."""
    names = [each.name for each in fields(Spend) if each.name not in ("label", "stage", "role")]
    return Spend("", "all", "all", **{name: sum(getattr(each, name) for each in spend) for name in names})
