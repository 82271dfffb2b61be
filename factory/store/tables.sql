-- The first version: every table of the data model. Later versions are migrations in schema.py.
CREATE TABLE runs (
    id VARCHAR PRIMARY KEY,            -- 'run_', hash of recipe, material and models, and the control's name
    recipe VARCHAR NOT NULL,           -- recipe name
    control VARCHAR,                   -- name of the control, NULL for the run proper
    digest VARCHAR NOT NULL,           -- recipe digest
    config JSON NOT NULL,              -- the recipe as loaded, profile laid over
    version VARCHAR NOT NULL,          -- version of dataset-factory
    started_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE stages (
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,            -- 0: before the first round
    stage VARCHAR NOT NULL,            -- allocate, generate, refine, freeze, guard, train, evaluate, promote
    status VARCHAR NOT NULL,           -- started, done, failed
    detail JSON,                       -- what the stage decided, or the error
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE sources (
    id VARCHAR PRIMARY KEY,            -- hash of key and text
    key VARCHAR NOT NULL,              -- stable over editions
    path VARCHAR NOT NULL,
    citation VARCHAR NOT NULL,
    title VARCHAR NOT NULL,
    text VARCHAR NOT NULL,
    slice VARCHAR NOT NULL
);
CREATE TABLE seeds (
    id VARCHAR PRIMARY KEY,
    key VARCHAR NOT NULL,
    prompt VARCHAR NOT NULL,
    slice VARCHAR NOT NULL,
    source_key VARCHAR
);
CREATE TABLE models (
    id VARCHAR PRIMARY KEY,            -- hash of weights and adapter, or of endpoint and name
    role VARCHAR NOT NULL,             -- teacher, refiner, judge, student
    name VARCHAR NOT NULL,             -- as served
    base VARCHAR NOT NULL,             -- folder, hub name or endpoint
    adapter VARCHAR,                   -- folder of the adapter
    adapter_digest VARCHAR,
    dataset_id VARCHAR,                -- what it was trained on here
    run_id VARCHAR,
    round INTEGER,
    training JSON,                     -- options, steps, loss, seconds
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE calls (
    id VARCHAR NOT NULL,               -- hash of model, messages, schema, sampling and ordinal
    run_id VARCHAR NOT NULL,           -- the run that paid for it
    round INTEGER NOT NULL,
    stage VARCHAR NOT NULL,            -- generate, refine, evaluate
    role VARCHAR NOT NULL,
    model_id VARCHAR NOT NULL,
    request JSON NOT NULL,
    response VARCHAR,                  -- answer text, NULL if failed
    reasoning VARCHAR,
    status VARCHAR NOT NULL,           -- ok, failed
    error VARCHAR,                     -- EndpointError.kind, where failed
    finish_reason VARCHAR,
    attempts INTEGER NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    latency_ms DOUBLE NOT NULL,
    cost_dollars DOUBLE NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX calls_by_id ON calls (id);
CREATE TABLE samples (
    id VARCHAR PRIMARY KEY,
    run_id VARCHAR NOT NULL,           -- the run that made it first
    round INTEGER NOT NULL,
    strategy VARCHAR NOT NULL,         -- of the generator at the root of its lineage
    operation VARCHAR NOT NULL,        -- grounded, seeded, paraphrase, edit, rewrite …
    slice VARCHAR NOT NULL,
    question VARCHAR NOT NULL,
    answer VARCHAR NOT NULL,
    messages JSON NOT NULL,
    attributes JSON NOT NULL,
    content_hash VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE round_samples (
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    position BIGINT NOT NULL,          -- order of the plan, in which samples are refined
    sample_id VARCHAR NOT NULL,        -- as generated; a stored answer can serve several runs
    PRIMARY KEY (run_id, round, position)
);
CREATE TABLE edges (
    child VARCHAR NOT NULL,
    parent VARCHAR NOT NULL,           -- id of a seed, source, call or sample
    relation VARCHAR NOT NULL,         -- seed, source, call, rewrite_of, derived_from
    PRIMARY KEY (child, parent, relation)
);
CREATE TABLE scores (
    run_id VARCHAR NOT NULL,
    sample_id VARCHAR NOT NULL,
    metric VARCHAR NOT NULL,
    value DOUBLE,                      -- NULL: should have been scored and failed
    scorer VARCHAR NOT NULL,
    model_id VARCHAR,
    PRIMARY KEY (run_id, sample_id, metric, scorer)
);
CREATE TABLE decisions (
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    sample_id VARCHAR NOT NULL,
    step INTEGER NOT NULL,             -- position in the recipe's list of refiners
    refiner VARCHAR NOT NULL,
    action VARCHAR NOT NULL,           -- keep, rewrite, drop
    reason VARCHAR NOT NULL,
    evidence JSON NOT NULL,
    rewrite_id VARCHAR,                -- the sample that takes its place
    final BOOLEAN NOT NULL,            -- the one that settles the sample in this run
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (run_id, sample_id, step)
);
CREATE TABLE verdicts (
    sample_id VARCHAR NOT NULL,
    reviewer VARCHAR NOT NULL,
    action VARCHAR NOT NULL,           -- keep, edit, drop, withdrawn
    reason VARCHAR NOT NULL,
    corrected VARCHAR,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE datasets (
    id VARCHAR PRIMARY KEY,            -- hash of run, round and the sample contents in order
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    num_samples BIGINT NOT NULL,
    guards JSON NOT NULL,              -- measures that were taken before training
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE dataset_samples (
    dataset_id VARCHAR NOT NULL,
    sample_id VARCHAR NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (dataset_id, sample_id)
);
CREATE TABLE evaluations (
    id VARCHAR PRIMARY KEY,            -- hash of run, round and split
    run_id VARCHAR NOT NULL,
    round INTEGER NOT NULL,
    model_id VARCHAR NOT NULL,
    split VARCHAR NOT NULL,            -- dev, test
    metric VARCHAR NOT NULL,
    num_items BIGINT NOT NULL,
    mean DOUBLE NOT NULL,
    low DOUBLE NOT NULL,               -- 95 % interval
    high DOUBLE NOT NULL,
    compared_with VARCHAR,             -- model in charge before
    comparison JSON,                   -- gain, bounds, p-value, verdict of the gate
    created_at TIMESTAMPTZ NOT NULL
);
CREATE TABLE evaluation_items (
    evaluation_id VARCHAR NOT NULL,
    item_key VARCHAR NOT NULL,
    slice VARCHAR NOT NULL,
    cluster VARCHAR NOT NULL,
    question VARCHAR NOT NULL,
    expected VARCHAR NOT NULL,
    answer VARCHAR NOT NULL,
    score DOUBLE NOT NULL,
    call_id VARCHAR NOT NULL,
    PRIMARY KEY (evaluation_id, item_key)
);
