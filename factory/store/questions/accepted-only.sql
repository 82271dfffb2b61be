-- Samples that one run accepted and another did not, by their content
-- $a: id of the run that accepted them
-- $b: id of the run that did not
SELECT a.sample_id, a.round, a.strategy, a.operation, a.slice, a.question, a.answer
FROM accepted a
WHERE a.run_id = $a AND a.content_hash NOT IN (SELECT content_hash FROM accepted WHERE run_id = $b)
ORDER BY a.round, a.slice, a.sample_id;
