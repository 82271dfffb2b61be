-- Items that a model answers worse than another, with the nearest training samples and where those came from
-- $before: id or name of the model that was better
-- $after: id or name of the model that got worse
-- $split?: dev or test; else both
-- $items?: how many items, those that lost most first; else 20
-- $near?: how many training samples for each; else 3
-- Near is the share of words that two questions have in common (Jaccard). Compared are samples that share one of the
-- eight words of an item that are rarest in the training set, of each word the first 2,000 samples: the cost
-- is one reading of the training set, and at most 16,000 comparisons an item.
WITH RECURSIVE newest AS (  -- a model may have been asked an item more than once, and scored by several metrics
    SELECT e.model_id, e.split, e.metric, e.created_at, i.*
    FROM evaluations e JOIN evaluation_items i ON i.evaluation_id = e.id
    QUALIFY row_number() OVER (PARTITION BY e.model_id, e.split, e.metric, i.item_key
                                ORDER BY e.created_at DESC, e.id) = 1
), old AS (
    SELECT split, metric, item_key, score, answer FROM newest
    WHERE model_id IN (SELECT id FROM models WHERE id = $before OR name = $before)
), worse AS MATERIALIZED (
    SELECT i.split, i.item_key, i.slice, i.question, i.expected, old.answer AS answer_before,
           i.answer AS answer_after, old.score AS score_before, i.score AS score_after,
           list_distinct(regexp_extract_all(lower(i.question), '[\p{L}\p{N}]+')) AS words
    FROM newest i
    JOIN old ON old.split = i.split AND old.metric = i.metric AND old.item_key = i.item_key
    WHERE i.model_id IN (SELECT id FROM models WHERE id = $after OR name = $after)
      AND i.split = coalesce($split, i.split)
    QUALIFY row_number() OVER (PARTITION BY i.split, i.item_key ORDER BY i.created_at DESC, i.metric) = 1
        AND i.score < old.score
    ORDER BY i.score - old.score, i.split, i.item_key
    LIMIT coalesce($items::BIGINT, 20)
), training AS (
    SELECT s.id, s.question, unnest(list_distinct(regexp_extract_all(lower(s.question), '[\p{L}\p{N}]+'))) AS word
    FROM models m
    JOIN dataset_samples d ON d.dataset_id = m.dataset_id
    JOIN samples s ON s.id = d.sample_id
    WHERE m.id = $after OR m.name = $after
), found AS MATERIALIZED (  -- each word of an item with the first samples that have it
    SELECT word, count(*) AS num_samples, min(id, 2000) AS ids
    FROM training WHERE word IN (SELECT unnest(words) FROM worse)
    GROUP BY word
), rare AS (
    SELECT w.split, w.item_key, f.ids
    FROM (SELECT split, item_key, unnest(words) AS word FROM worse) w
    JOIN found f ON f.word = w.word
    QUALIFY row_number() OVER (PARTITION BY w.split, w.item_key ORDER BY f.num_samples, f.word) <= 8
), pairs AS MATERIALIZED (
    SELECT DISTINCT split, item_key, unnest(ids) AS id FROM rare
), nearest AS MATERIALIZED (
    SELECT p.split, p.item_key, p.id, c.question, c.answer, c.strategy,
           len(list_intersect(w.words, c.words)) / (len(w.words) + len(c.words) - len(list_intersect(w.words, c.words)))
               AS similarity
    FROM pairs p
    JOIN worse w ON w.split = p.split AND w.item_key = p.item_key
    JOIN (
        SELECT id, question, answer, strategy,
               list_distinct(regexp_extract_all(lower(question), '[\p{L}\p{N}]+')) AS words
        FROM samples WHERE id IN (SELECT id FROM pairs)
    ) c ON c.id = p.id
    QUALIFY row_number() OVER (PARTITION BY p.split, p.item_key ORDER BY similarity DESC, p.id)
            <= coalesce($near::BIGINT, 3)
), up (sample_id, parent, relation, depth) AS (
    SELECT e.child, e.parent, e.relation, 1 FROM edges e WHERE e.child IN (SELECT id FROM nearest)
    UNION
    SELECT up.sample_id, e.parent, e.relation, up.depth + 1
    FROM up JOIN edges e ON e.child = up.parent
    WHERE up.relation IN ('rewrite_of', 'derived_from') AND up.depth < 64
), origins AS (
    SELECT up.sample_id,
           string_agg(DISTINCT s.citation, ', ' ORDER BY s.citation) AS sources,
           string_agg(DISTINCT d.key, ', ' ORDER BY d.key) AS seeds,
           string_agg(DISTINCT up.parent, ', ' ORDER BY up.parent) FILTER (up.relation = 'call') AS calls
    FROM up
    LEFT JOIN sources s ON s.id = up.parent AND up.relation = 'source'
    LEFT JOIN seeds d ON d.id = up.parent AND up.relation = 'seed'
    GROUP BY up.sample_id
)
SELECT w.split, w.item_key, w.slice, w.question, w.expected, w.score_before, w.score_after, w.answer_before,
       w.answer_after, n.similarity, n.id AS sample_id, n.question AS sample_question, n.answer AS sample_answer,
       n.strategy, o.sources, o.seeds, o.calls
FROM worse w
LEFT JOIN nearest n ON n.split = w.split AND n.item_key = w.item_key
LEFT JOIN origins o ON o.sample_id = n.id
ORDER BY w.score_after - w.score_before, w.split, w.item_key, n.similarity DESC, n.id;
