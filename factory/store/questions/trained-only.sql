-- Samples that trained one adapter and not another, by their content
-- $a: id or name of the model that was trained on them
-- $b: id or name of the model that was not
WITH theirs AS (
    SELECT DISTINCT s.content_hash
    FROM models m
    JOIN dataset_samples d ON d.dataset_id = m.dataset_id
    JOIN samples s ON s.id = d.sample_id
    WHERE m.id = $b OR m.name = $b
)
SELECT DISTINCT s.id, s.run_id, s.round, s.strategy, s.operation, s.slice, s.question, s.answer
FROM models m
JOIN dataset_samples d ON d.dataset_id = m.dataset_id
JOIN samples s ON s.id = d.sample_id
WHERE (m.id = $a OR m.name = $a) AND s.content_hash NOT IN (FROM theirs)
ORDER BY s.round, s.slice, s.id;
