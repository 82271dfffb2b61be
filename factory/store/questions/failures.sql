-- Calls that failed, why, and how many were answered later
-- $run?: the run; else the one that worked last and is no control
SELECT round, stage, role, model_id, error, num_calls, num_mended, num_attempts, lost_tokens, lost_dollars, last_at
FROM failures
WHERE run_id = coalesce($run, (SELECT run_id FROM latest_run))
ORDER BY num_calls DESC, error, round, stage;
