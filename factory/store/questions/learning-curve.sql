-- How the loss of what was trained here fell, step by step
-- $model?: id or name of a trained model; else the newest that has a curve
-- $phase?: sft, dpo or kto; else all
SELECT m.name, m.round, t.phase, t.step, t.epoch, t.loss, t.dev_loss, t.learning_rate, t.grad_norm, t.num_tokens
FROM training_steps t JOIN models m ON m.id = t.model_id
WHERE CASE WHEN $model IS NULL
           THEN m.id = (SELECT arg_max(id, created_at) FROM models WHERE id IN (SELECT model_id FROM training_steps))
           ELSE m.id = $model OR m.name = $model END
  AND t.phase = coalesce($phase, t.phase)
ORDER BY m.round, m.name, t.phase = 'sft' DESC, t.step;
