-- Calls that failed, why, and how many were answered later
-- $run?: the run; else the newest that is no control
SELECT round, stage, role, model_id, error, num_calls, num_mended, num_attempts, lost_tokens, lost_dollars, last_at
FROM failures
WHERE run_id = coalesce($run, (SELECT arg_max(id, started_at) FROM runs WHERE control IS NULL))
ORDER BY num_calls DESC, error, round, stage;
