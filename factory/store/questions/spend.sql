-- What each model took by stage, and for one accepted sample
-- $run?: the run; else the newest that is no control
SELECT stage, role, model_id, num_calls, tokens, dollars, num_accepted,
       calls_per_sample, tokens_per_sample, dollars_per_sample
FROM spend_per_sample
WHERE run_id = coalesce($run, (SELECT arg_max(id, started_at) FROM runs WHERE control IS NULL))
ORDER BY stage, role, model_id;
