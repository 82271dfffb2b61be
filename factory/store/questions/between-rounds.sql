-- What changed from one round to another: samples, reasons, slices, accuracy, spend
-- $before: number of the one round
-- $after: number of the other
-- $run?: the run; else the one that worked last and is no control
SELECT kind, name, before, after, CASE kind WHEN 'accuracy' THEN after - before ELSE coalesce(after, 0) - coalesce(before, 0) END AS change
FROM (
    SELECT kind, name, sum(value) FILTER (round = $before::INTEGER) AS before,
           sum(value) FILTER (round = $after::INTEGER) AS after
    FROM figures
    WHERE run_id = coalesce($run, (SELECT run_id FROM latest_run)) AND round IN ($before::INTEGER, $after::INTEGER)
    GROUP BY kind, name
)
ORDER BY kind, name;
