-- What refiners changed, by reason and kind of edit, and what became of it
-- $run?: the run; else the one that worked last and is no control
SELECT round, refiner, reason, kind, num_edits, num_operations, num_accepted, num_dropped
FROM edits
WHERE run_id = coalesce($run, (SELECT run_id FROM latest_run))
ORDER BY num_edits DESC, refiner, reason, kind, round;
