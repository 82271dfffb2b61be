-- Samples about which people and the run say different things
-- $run?: the run; else the one that worked last and is no control
SELECT v.sample_id, v.reviewer, v.action AS person, v.reason AS why, d.action AS run, d.refiner, d.reason,
       s.slice, s.question, s.answer, v.corrected
FROM (  -- each reviewer's newest verdict about a sample
    FROM verdicts QUALIFY row_number() OVER (PARTITION BY sample_id, reviewer ORDER BY created_at DESC, rowid DESC) = 1
) v
JOIN decisions d ON d.sample_id = v.sample_id
JOIN samples s ON s.id = v.sample_id
WHERE d.final AND d.reason <> 'surplus' AND d.run_id = coalesce($run, (SELECT run_id FROM latest_run))
  AND v.action <> 'withdrawn' AND v.action <> CASE d.action WHEN 'rewrite' THEN 'edit' ELSE d.action END
ORDER BY v.sample_id, v.reviewer;
