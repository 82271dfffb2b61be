-- What became of samples, by step, reason, strategy, slice and round
-- $run?: the run; else the one that worked last and is no control
SELECT round, strategy, slice, step, refiner, action, reason, num_samples, num_final
FROM funnel
WHERE run_id = coalesce($run, (SELECT run_id FROM latest_run))
ORDER BY round, step, action, num_samples DESC, reason, strategy, slice;
