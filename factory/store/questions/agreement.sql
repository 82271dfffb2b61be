-- How far people agree with decisions, steps and scores, and with one another
-- $run?: the run; else the one that worked last and is no control
SELECT kind, name, num_items, num_agreed, agreement, kappa, kappa_low, kappa_high
FROM agreement
WHERE run_id = coalesce($run, (SELECT run_id FROM latest_run)) OR run_id IS NULL
ORDER BY kind, name;
