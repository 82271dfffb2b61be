-- The newest calls that failed for good, with what was asked
-- $run?: the run; else the one that worked last and is no control
-- $limit?: how many of them; else 20
SELECT id, round, stage, role, error, attempts, created_at, left(request ->> '$.messages[#-1].content', 200) AS asked
FROM calls
WHERE status = 'failed' AND run_id = coalesce($run, (SELECT run_id FROM latest_run))
  AND id NOT IN (SELECT id FROM calls WHERE status = 'ok')
ORDER BY created_at DESC, id
LIMIT coalesce($limit::BIGINT, 20);
