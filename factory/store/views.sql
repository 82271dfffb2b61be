-- The questions that people ask, as views. Made anew at each opening, so they may change without a
-- migration; docs/schema.md explains each. Every join is by a key: no view costs more than its tables.

-- How many samples each refiner kept, rewrote and dropped. Over a run and round num_final adds up to
-- the samples that were decided.
CREATE OR REPLACE VIEW funnel AS
SELECT d.run_id, d.round, s.strategy, d.step, d.refiner, d.action, d.reason,
       count(*) AS num_samples,
       count(*) FILTER (d.final) AS num_final
FROM decisions d
LEFT JOIN samples s ON s.id = d.sample_id
GROUP BY d.run_id, d.round, s.strategy, d.step, d.refiner, d.action, d.reason;

-- Every ancestor of every sample; `child` is the one through which it is an ancestor. Lineages are
-- trees of hashes and cannot have cycles; the limit of 64 is for rows that were written by hand.
CREATE OR REPLACE VIEW lineage AS
WITH RECURSIVE up (sample_id, child, ancestor, relation, depth) AS (
    SELECT child, child, parent, relation, 1 FROM edges
    UNION
    SELECT up.sample_id, e.child, e.parent, e.relation, up.depth + 1
    FROM up
    JOIN edges e ON e.child = up.ancestor
    WHERE up.relation IN ('rewrite_of', 'derived_from') AND up.depth < 64
)
SELECT sample_id, ancestor,
       CASE WHEN relation IN ('rewrite_of', 'derived_from') THEN 'sample' ELSE relation END AS kind,
       child, relation, depth
FROM up;

-- The samples that a run settled on; `round` is the round that accepted them.
CREATE OR REPLACE VIEW accepted AS
SELECT d.run_id, d.round, s.id AS sample_id, s.strategy, s.operation, s.slice, s.question, s.answer,
       s.messages, s.attributes, s.content_hash
FROM decisions d
JOIN samples s ON s.id = d.sample_id
WHERE d.final AND d.action = 'keep';

-- The samples that a run gave up: `superseded_by` names the sample that took the place of a rewritten
-- one and is NULL for a dropped one.
CREATE OR REPLACE VIEW rejected AS
SELECT d.run_id, d.round, s.id AS sample_id, s.strategy, s.operation, s.slice, d.step, d.refiner,
       CASE d.action WHEN 'rewrite' THEN 'superseded' ELSE 'dropped' END AS fate,
       d.reason, d.evidence, d.rewrite_id AS superseded_by, s.question, s.answer
FROM decisions d
JOIN samples s ON s.id = d.sample_id
WHERE d.final AND d.action <> 'keep';

-- What was paid, by whom and for what; `seconds` adds up the waiting of calls that ran side by side.
CREATE OR REPLACE VIEW spend AS
SELECT run_id, round, stage, role, model_id,
       count(*) AS num_calls,
       count(*) FILTER (status = 'failed') AS num_failed,
       sum(attempts)::BIGINT AS num_attempts,
       sum(prompt_tokens)::BIGINT AS prompt_tokens,
       sum(completion_tokens)::BIGINT AS completion_tokens,
       sum(cost_dollars) AS dollars,
       sum(latency_ms) / 1000 AS seconds
FROM calls
GROUP BY run_id, round, stage, role, model_id;

-- How well each slice is answered, evaluation by evaluation.
CREATE OR REPLACE VIEW slice_progress AS
SELECT e.run_id, e.round, e.split, i.slice, e.metric, e.model_id, e.id AS evaluation_id,
       avg(i.score) AS accuracy,
       count(*) AS num_items
FROM evaluations e
JOIN evaluation_items i ON i.evaluation_id = e.id
GROUP BY e.run_id, e.round, e.split, i.slice, e.metric, e.model_id, e.id;

-- Every model of a run with what it was trained on, each evaluation, and what the gate said.
CREATE OR REPLACE VIEW model_history AS
SELECT coalesce(e.run_id, m.run_id) AS run_id,
       coalesce(e.round, m.round) AS round,
       m.id AS model_id, m.role, m.name, m.base, m.adapter, m.dataset_id, d.num_samples,
       e.id AS evaluation_id, e.split, e.metric, e.num_items, e.mean, e.low, e.high, e.compared_with,
       (e.comparison ->> 'gain')::DOUBLE AS gain,
       (e.comparison ->> 'gain_low')::DOUBLE AS gain_low,
       (e.comparison ->> 'p_value')::DOUBLE AS p_value,
       (e.comparison ->> 'promote')::BOOLEAN AS promote,
       e.comparison ->> 'reason' AS reason,
       m.created_at
FROM models m
LEFT JOIN datasets d ON d.id = m.dataset_id
LEFT JOIN evaluations e ON e.model_id = m.id;
