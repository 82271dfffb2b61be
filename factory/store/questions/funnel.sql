-- What became of samples, by step, reason, strategy, slice and round
-- $run?: the run; else the newest that is no control
SELECT round, strategy, slice, step, refiner, action, reason, num_samples, num_final
FROM funnel
WHERE run_id = coalesce($run, (SELECT arg_max(id, started_at) FROM runs WHERE control IS NULL))
ORDER BY round, step, action, num_samples DESC, reason, strategy, slice;
