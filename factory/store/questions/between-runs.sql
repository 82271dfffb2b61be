-- What differs between two runs, all rounds together: samples, reasons, slices, accuracy, spend
-- $before: id of the one run
-- $after: id of the other
WITH runs_of AS (  -- accuracy is that of the last round, all else adds up
    SELECT run_id, kind, name, CASE kind WHEN 'accuracy' THEN arg_max(value, round) ELSE sum(value) END AS value
    FROM figures
    WHERE run_id IN ($before, $after)
    GROUP BY run_id, kind, name
)
SELECT kind, name, before, after, CASE kind WHEN 'accuracy' THEN after - before ELSE coalesce(after, 0) - coalesce(before, 0) END AS change
FROM (
    SELECT kind, name, sum(value) FILTER (run_id = $before) AS before,
           sum(value) FILTER (run_id = $after) AS after
    FROM runs_of
    GROUP BY kind, name
)
ORDER BY kind, name;
