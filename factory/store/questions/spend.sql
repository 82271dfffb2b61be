-- What each model took by stage, and for one accepted sample
-- $run?: the run; else the one that worked last and is no control
SELECT stage, role, model_id, num_calls, tokens, dollars, num_accepted,
       calls_per_sample, tokens_per_sample, dollars_per_sample
FROM spend_per_sample
WHERE run_id = coalesce($run, (SELECT run_id FROM latest_run))
ORDER BY stage, role, model_id;
