-- The questions that people ask, as views. Made anew at each opening, so they may change without a
-- migration; docs/schema.md explains each. Every join is by a key: no view costs more than its tables.

-- The decisions, and what selection made of those that kept a sample: a step of its own after the last, by
-- the newest dataset of the round. Without a selection these are the decisions alone.
CREATE OR REPLACE VIEW outcomes AS
WITH newest AS (
    SELECT run_id, round, arg_max(id, (created_at, rowid)) AS dataset_id, max(created_at) AS created_at
    FROM datasets GROUP BY run_id, round
), selected AS (
    SELECT n.run_id, n.round, s.sample_id, s.chosen, s.reason, s.evidence, n.created_at
    FROM newest n JOIN selections s ON s.dataset_id = n.dataset_id
)
SELECT d.run_id, d.round, d.sample_id, d.step, d.refiner, d.action, d.reason, d.evidence, d.rewrite_id,
       d.final AND s.sample_id IS NULL AS final, d.created_at
FROM decisions d
LEFT JOIN selected s ON d.final AND s.run_id = d.run_id AND s.sample_id = d.sample_id
UNION ALL
SELECT s.run_id, s.round, s.sample_id, d.step + 1, 'selection', CASE WHEN s.chosen THEN 'keep' ELSE 'drop' END,
       s.reason, s.evidence, NULL, true, s.created_at
FROM selected s
JOIN decisions d ON d.final AND d.run_id = s.run_id AND d.sample_id = s.sample_id;

-- How many samples each refiner kept, rewrote and dropped. Over a run and round num_final adds up to
-- the samples that were decided. Decisions are counted by a number in place of strategy and slice, which on
-- millions of rows takes two thirds of the time.
CREATE OR REPLACE VIEW funnel AS
WITH origins AS MATERIALIZED (
    SELECT strategy, slice, row_number() OVER (ORDER BY strategy, slice)::INTEGER AS origin
    FROM (SELECT DISTINCT strategy, slice FROM samples)
), made AS (
    SELECT s.id, o.origin FROM samples s JOIN origins o ON o.strategy = s.strategy AND o.slice = s.slice
), counted AS (
    SELECT d.run_id, d.round, m.origin, d.step, d.refiner, d.action, d.reason,
           count(*) AS num_samples,
           count(*) FILTER (d.final) AS num_final
    FROM outcomes d
    LEFT JOIN made m ON m.id = d.sample_id
    GROUP BY d.run_id, d.round, m.origin, d.step, d.refiner, d.action, d.reason
)
SELECT c.run_id, c.round, o.strategy, o.slice, c.step, c.refiner, c.action, c.reason, c.num_samples, c.num_final
FROM counted c
LEFT JOIN origins o ON o.origin = c.origin;

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
FROM outcomes d
JOIN samples s ON s.id = d.sample_id
WHERE d.final AND d.action = 'keep';

-- The samples that a run gave up: `superseded_by` names the sample that took the place of a rewritten
-- one and is NULL for a dropped one.
CREATE OR REPLACE VIEW rejected AS
SELECT d.run_id, d.round, s.id AS sample_id, s.strategy, s.operation, s.slice, d.step, d.refiner,
       CASE d.action WHEN 'rewrite' THEN 'superseded' ELSE 'dropped' END AS fate,
       d.reason, d.evidence, d.rewrite_id AS superseded_by, s.question, s.answer
FROM outcomes d
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

-- What each model took in each stage for one accepted sample of the run, all rounds together. A run that found
-- the answers of another one in the store paid less than they cost.
CREATE OR REPLACE VIEW spend_per_sample AS
SELECT s.run_id, s.stage, s.role, s.model_id, sum(s.num_calls)::BIGINT AS num_calls,
       sum(s.prompt_tokens + s.completion_tokens)::BIGINT AS tokens, sum(s.dollars) AS dollars,
       coalesce(any_value(a.num_accepted), 0) AS num_accepted,
       sum(s.num_calls) / any_value(a.num_accepted) AS calls_per_sample,
       sum(s.prompt_tokens + s.completion_tokens) / any_value(a.num_accepted) AS tokens_per_sample,
       sum(s.dollars) / any_value(a.num_accepted) AS dollars_per_sample
FROM spend s
LEFT JOIN (
    SELECT run_id, count(*) AS num_accepted FROM outcomes WHERE final AND action = 'keep' GROUP BY run_id
) a ON a.run_id = s.run_id
GROUP BY s.run_id, s.stage, s.role, s.model_id;

-- Calls that failed, by what went wrong; num_mended of them were answered when they were made again.
CREATE OR REPLACE VIEW failures AS
SELECT c.run_id, c.round, c.stage, c.role, c.model_id, coalesce(c.error, 'unknown') AS error,
       count(*) AS num_calls,
       count(*) FILTER (c.id IN (SELECT id FROM calls WHERE status = 'ok')) AS num_mended,
       sum(c.attempts)::BIGINT AS num_attempts,
       coalesce(sum(c.lost_tokens), 0)::BIGINT AS lost_tokens,
       coalesce(sum(c.lost_dollars), 0)::DOUBLE AS lost_dollars,
       max(c.created_at) AS last_at
FROM calls c
WHERE c.status = 'failed'
GROUP BY c.run_id, c.round, c.stage, c.role, c.model_id, c.error;

-- What refiners changed, by reason and by kind: the operations of an edit, 'whole answer' where there are none.
CREATE OR REPLACE VIEW edits AS
SELECT d.run_id, d.round, d.refiner, d.reason,
       CASE WHEN len(d.ops) > 0 THEN array_to_string(list_sort(list_distinct(d.ops)), ', ')
            ELSE 'whole answer' END AS kind,
       count(*) AS num_edits,
       sum(len(d.ops))::BIGINT AS num_operations,
       count(*) FILTER (after.action = 'keep') AS num_accepted,
       count(*) FILTER (after.action = 'drop') AS num_dropped
FROM (
    SELECT run_id, round, refiner, reason, rewrite_id, coalesce(evidence ->> '$.ops[*].op', []) AS ops
    FROM decisions WHERE action = 'rewrite'
) d
LEFT JOIN decisions after ON after.run_id = d.run_id AND after.sample_id = d.rewrite_id AND after.final
GROUP BY ALL;

-- How well each slice is answered, evaluation by evaluation.
CREATE OR REPLACE VIEW slice_progress AS
SELECT e.run_id, e.round, e.split, i.slice, e.metric, e.model_id, e.id AS evaluation_id,
       avg(i.score) AS accuracy,
       count(*) AS num_items
FROM evaluations e
JOIN evaluation_items i ON i.evaluation_id = e.id
GROUP BY e.run_id, e.round, e.split, i.slice, e.metric, e.model_id, e.id;

-- What can be counted or measured of a run's round, one number a row, so that rounds and runs can be compared
-- name by name.
CREATE OR REPLACE VIEW figures AS
WITH steps AS MATERIALIZED (FROM funnel)
SELECT run_id, round, 'samples' AS kind, 'generated' AS name, count(*)::DOUBLE AS value
FROM round_samples GROUP BY run_id, round
UNION ALL
SELECT run_id, round, 'samples',
       CASE action WHEN 'keep' THEN 'accepted' WHEN 'drop' THEN 'dropped' ELSE 'rewritten' END,
       sum(num_final) FROM steps WHERE num_final > 0 GROUP BY run_id, round, action
UNION ALL
SELECT run_id, round, CASE action WHEN 'drop' THEN 'dropped by' ELSE 'rewritten by' END,
       concat(refiner, ': ', reason), sum(num_final)
FROM steps WHERE action <> 'keep' AND num_final > 0 GROUP BY run_id, round, action, refiner, reason
UNION ALL
SELECT run_id, round, 'accepted in slice', slice, sum(num_final)
FROM steps WHERE action = 'keep' AND num_final > 0 GROUP BY run_id, round, slice
UNION ALL
SELECT run_id, round, 'accepted of strategy', strategy, sum(num_final)
FROM steps WHERE action = 'keep' AND num_final > 0 GROUP BY run_id, round, strategy
UNION ALL
SELECT run_id, round, 'accuracy', concat(split, ', all'), mean FROM evaluations WHERE round IS NOT NULL
UNION ALL
SELECT run_id, round, 'accuracy', concat(split, ', ', slice), accuracy FROM slice_progress WHERE round IS NOT NULL
UNION ALL
SELECT run_id, round, 'calls', concat(stage, ', ', role), sum(num_calls) FROM spend GROUP BY ALL
UNION ALL
SELECT run_id, round, 'tokens', concat(stage, ', ', role), sum(prompt_tokens + completion_tokens)
FROM spend GROUP BY ALL
UNION ALL
SELECT run_id, round, 'dollars', concat(stage, ', ', role), sum(dollars) FROM spend GROUP BY ALL;

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

-- What people say of samples now: each reviewer's newest verdict about a sample, and none where that one is
-- `withdrawn`.
CREATE OR REPLACE VIEW standing_verdicts AS
SELECT * FROM (
    SELECT sample_id, reviewer, action, reason, corrected, created_at FROM verdicts
    QUALIFY row_number() OVER (PARTITION BY sample_id, reviewer ORDER BY created_at DESC, rowid DESC) = 1
)
WHERE action <> 'withdrawn';

-- How far people agree with what decided or scored the same samples, and with one another, beyond what chance
-- would bring: Cohen's kappa (Cohen 1960, Educational and Psychological Measurement 20) with the 95 % interval
-- of its large-sample variance (Fleiss, Cohen and Everitt 1969, Psychological Bulletin 72). That variance is 0
-- where all agree or none do, however few they are: there the bound is that of Wilson's interval of the
-- agreement. NULL where both sides always said the same one thing.
CREATE OR REPLACE VIEW agreement AS
WITH people AS (
    SELECT sample_id, reviewer, action FROM standing_verdicts
), cuts AS (  -- the overall score from which on a judge would keep a sample
    SELECT id AS run_id, coalesce(max((step ->> '$.drop_below')::DOUBLE), 3) AS cut
    FROM (SELECT id, unnest(from_json(coalesce(config -> '$.refiners', '[]'), '["JSON"]')) AS step FROM runs)
    WHERE step ->> '$.name' = 'judge' GROUP BY id
), pairs AS (
    SELECT d.run_id, 'decision' AS kind, 'final' AS name, p.action AS ours,
           CASE WHEN d.reason = 'surplus' THEN 'keep' WHEN d.action = 'rewrite' THEN 'edit' ELSE d.action END
               AS theirs
    FROM people p JOIN decisions d ON d.sample_id = p.sample_id WHERE d.final
    UNION ALL
    SELECT d.run_id, 'step', d.refiner, p.action, CASE d.action WHEN 'rewrite' THEN 'edit' ELSE d.action END
    FROM people p JOIN decisions d ON d.sample_id = p.sample_id
    WHERE d.refiner <> 'judge' AND d.reason NOT IN ('surplus', 'unchecked')
    UNION ALL
    SELECT s.run_id, 'score', s.scorer, CASE p.action WHEN 'keep' THEN 'keep' ELSE 'drop' END,
           CASE WHEN s.value >= coalesce(c.cut, 3) THEN 'keep' ELSE 'drop' END
    FROM people p JOIN scores s ON s.sample_id = p.sample_id LEFT JOIN cuts c ON c.run_id = s.run_id
    WHERE s.scorer = 'judge' AND s.metric = 'overall' AND s.value IS NOT NULL
    UNION ALL
    SELECT NULL, 'reviewer', concat(a.reviewer, ' / ', b.reviewer), a.action, b.action
    FROM people a JOIN people b ON b.sample_id = a.sample_id WHERE a.reviewer < b.reviewer
), cells AS (
    SELECT run_id, kind, name, ours, theirs, n, n / sum(n) OVER (PARTITION BY run_id, kind, name) AS p
    FROM (SELECT coalesce(run_id, '') AS run_id, kind, name, ours, theirs, count(*) AS n
          FROM pairs GROUP BY ALL)
), sides AS (  -- how often each side said what
    SELECT run_id, kind, name, said, sum(p) FILTER (side = 1) AS ours, sum(p) FILTER (side = 2) AS theirs
    FROM (SELECT run_id, kind, name, ours AS said, 1 AS side, p FROM cells
          UNION ALL SELECT run_id, kind, name, theirs, 2, p FROM cells)
    GROUP BY run_id, kind, name, said
), chance AS (
    SELECT run_id, kind, name, coalesce(sum(ours * theirs), 0) AS pe FROM sides GROUP BY run_id, kind, name
), observed AS (
    SELECT run_id, kind, name, sum(n)::BIGINT AS num_items,
           coalesce(sum(n) FILTER (ours = theirs), 0)::BIGINT AS num_agreed,
           coalesce(sum(n) FILTER (ours = theirs), 0) / sum(n) AS po
    FROM cells GROUP BY run_id, kind, name
), spread AS (  -- the sum in the variance, over the cells
    SELECT c.run_id, c.kind, c.name, sum(c.p * CASE WHEN c.ours = c.theirs
               THEN ((1 - h.pe) - (coalesce(i.theirs, 0) + coalesce(j.ours, 0)) * (1 - o.po)) ** 2
               ELSE ((1 - o.po) * (coalesce(i.theirs, 0) + coalesce(j.ours, 0))) ** 2 END) AS total
    FROM cells c
    JOIN observed o ON o.run_id = c.run_id AND o.kind = c.kind AND o.name = c.name
    JOIN chance h ON h.run_id = c.run_id AND h.kind = c.kind AND h.name = c.name
    JOIN sides i ON i.run_id = c.run_id AND i.kind = c.kind AND i.name = c.name AND i.said = c.ours
    JOIN sides j ON j.run_id = c.run_id AND j.kind = c.kind AND j.name = c.name AND j.said = c.theirs
    GROUP BY c.run_id, c.kind, c.name
), measured AS (
    SELECT o.*, h.pe, (o.po - h.pe) / nullif(1 - h.pe, 0) AS kappa,
           1.959963984540054 ** 2 / (o.num_items + 1.959963984540054 ** 2) AS wilson,
           1.959963984540054 * sqrt(greatest(0, s.total - (o.po * h.pe - 2 * h.pe + o.po) ** 2) / o.num_items)
               / nullif((1 - h.pe) ** 2, 0) AS half
    FROM observed o
    JOIN chance h ON h.run_id = o.run_id AND h.kind = o.kind AND h.name = o.name
    JOIN spread s ON s.run_id = o.run_id AND s.kind = o.kind AND s.name = o.name
)
SELECT nullif(run_id, '') AS run_id, kind, name, num_items, num_agreed, po AS agreement, kappa,
       CASE WHEN po = 1 THEN (1 - wilson - pe) / nullif(1 - pe, 0)
            WHEN kappa IS NOT NULL THEN greatest(-1, kappa - half) END AS kappa_low,
       CASE WHEN po = 0 THEN (wilson - pe) / nullif(1 - pe, 0)
            WHEN kappa IS NOT NULL THEN least(1, kappa + half) END AS kappa_high
FROM measured;

-- The run that is meant where none is named: of those that are no controls the one that worked last. One in
-- which models were only asked by hand has no stage, and stands behind those that have.
CREATE OR REPLACE VIEW latest_run AS
SELECT r.id AS run_id
FROM runs r LEFT JOIN stages e ON e.run_id = r.id
WHERE r.control IS NULL
GROUP BY r.id
ORDER BY count(e.run_id) = 0, coalesce(max(e.created_at), max(r.started_at)) DESC, r.id
LIMIT 1;
